"""The benchmark tables by name."""

import importlib
from typing import Any

from styleavatar3d.errors import StyleAvatarError

SPEEDS = ("figures", "loader", "ops", "synthesis")
TABLES = tuple(sorted([*SPEEDS, "gates", "lora", "models"]))


def run(table: str = "ops", repeats: int = 5, count: int = 0) -> dict[str, Any]:
    """Measure one table: prints it and returns its numbers. `count` 0 is the table's own."""
    if table not in TABLES:
        raise StyleAvatarError("there is no such table", got=table, expected=", ".join(TABLES))
    if repeats < 1:
        raise StyleAvatarError("a median needs measurements", got=repeats, expected="--repeats of at least 1")
    measure = importlib.import_module(f"styleavatar3d.bench.{table}").run
    if table in SPEEDS:
        return measure(repeats)
    return measure(count) if table == "gates" and count else measure()
