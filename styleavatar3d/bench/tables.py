"""The benchmark tables by name."""

import importlib
import json
from pathlib import Path
from typing import Any

from styleavatar3d.errors import StyleAvatarError

SPEEDS = ("figures", "loader", "ops", "synthesis")
TABLES = tuple(sorted([*SPEEDS, "gates", "lora", "models"]))


def run(table: str = "ops", repeats: int = 5, count: int = 0, out: str = "") -> dict[str, Any]:
    """Measure one table: prints it, writes its numbers to the JSON file `out`, and returns them. `count` 0 is the
    table's own."""
    if table not in TABLES:
        raise StyleAvatarError("there is no such table", got=table, expected=", ".join(TABLES))
    if repeats < 1:
        raise StyleAvatarError("a median needs measurements", got=repeats, expected="--repeats of at least 1")
    measure = importlib.import_module(f"styleavatar3d.bench.{table}").run
    given = [repeats] if table in SPEEDS else [count] if table == "gates" and count else []
    told = measure(*given)
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(told, indent=1) + "\n")
    return told
