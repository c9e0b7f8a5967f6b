"""The results page: what was asked, what `evaluate` and `bench` measured, what the training cost, and its curves."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from styleavatar3d.bench.curves import draw
from styleavatar3d.bench.measured import sections
from styleavatar3d.errors import StyleAvatarError


class Goal(NamedTuple):
    """Something that was to be reached: where `evaluate` states it, and how good it was to be on a CPU and a GPU."""

    what: str
    place: tuple[str, ...]
    cpu: float
    gpu: float
    unit: str = ""
    more_is_better: bool = True


SHARE, DEGREES = "%", "degrees"
FACES = ("diffusion", "face at the back", "share")
VERDICTS = ("avatars", "verdicts", "all", "same verdict")
GOALS = (
    Goal("judge on held-out renders: median yaw error", ("judge", "yaw_median"), 3, 3, DEGREES, False),
    Goal("judge on held-out renders: visible attributes", ("judge", "attributes"), 0.95, 0.95, SHARE),
    Goal("diffusion: median yaw error", ("diffusion", "yaw", "median"), 12, 6, DEGREES, False),
    Goal("diffusion: yaw error, 90th percentile", ("diffusion", "yaw", "90th percentile"), 45, 20, DEGREES, False),
    Goal("diffusion: four-way view", ("diffusion", "view", "share"), 0.90, 0.97, SHARE),
    Goal("diffusion: a face where abs(yaw) >= 135", FACES, 0.03, 0.01, SHARE, False),
    Goal("diffusion: hair, skin, glasses, beard, kind, style", ("diffusion", "core", "share"), 0.75, 0.90, SHARE),
    Goal("generator: FID over that of what it learned from", ("generator", "ratio"), 2.5, 1.7, "", False),
    Goal("generator: median yaw error", ("generator", "yaw", "median"), 10, 5, DEGREES, False),
    Goal("generator: same verdict on 8 visible views", VERDICTS, 0.85, 0.92, SHARE),
    Goal("generator: depth correlation with a fitted head", ("avatars", "depth", "fitted head"), 0.8, 0.9),
    Goal("prior: prompt to attributes over the best random code", ("prior", "ratio"), 0.8, 0.8),
    Goal("prior: an unseen render finds its avatar among 100, by CLIP", ("retrieval", "right"), 0.35, 0.60, SHARE),
)

HEAD = """# Results

Written by `styleavatar3d results` from what `evaluate`, `bench`, the training stages and their logs left in
`data/miniature`. Everything is measured on figures that nothing was trained on; view and attributes are read by
the judge (`metrics/judge.py`), which has seen renders only and which nothing in the product may ask.
"""


def write(data: str | Path, page: str | Path) -> dict[str, Any]:
    """Write `page` (Markdown) and `pictures/` beside it; returns the paths of page and curves. The sources, all in
    `data`: evaluation.json, training.json, curves.json, and what `bench` left in tables/, where anything was kept.

    Raises StyleAvatarError when a source is missing or damaged."""
    folder, page = Path(data), Path(page)
    evaluation, training, curves = (_read(folder / f"{name}.json") for name in ("evaluation", "training", "curves"))
    picture = page.parent / "pictures" / "curves.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(draw(curves))
    for kept in sorted((folder / "tables").glob("*.png")):
        shutil.copyfile(kept, picture.parent / kept.name)
    parts = [HEAD, _reached(evaluation), _attributes(evaluation), *sections(folder / "tables")]
    parts += [_spent(training), _curves(picture.name)]
    page.write_text("\n".join(parts))
    return {"page": str(page), "curves": str(picture)}


def _reached(evaluation: Mapping[str, Any]) -> str:
    lines = ["## What was asked, and what came out", "", _how(evaluation), ""]
    lines += ["| measured | reached | asked, CPU | asked, GPU |", "|---|---|---|---|"]
    for goal in GOALS:
        value = _at(evaluation, goal.place)
        sign = "≥" if goal.more_is_better else "≤"
        asked = [f"{sign} {_say(bound, goal.unit)}" for bound in (goal.cpu, goal.gpu)]
        lines.append(f"| {goal.what} | {_verdict(value, goal)} | {asked[0]} | {asked[1]} |")
    return "\n".join(lines) + "\n"


def _how(evaluation: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{count} {name}" for name, count in evaluation["sizes"].items())
    return f"`evaluate`, seed {evaluation['seed']}: {sizes}. {evaluation['seconds'] // 60 + 1} minutes."


def _verdict(value: float | None, goal: Goal) -> str:
    if value is None:
        return "not measured"
    met = value >= goal.cpu if goal.more_is_better else value <= goal.cpu
    return f"**{_say(value, goal.unit)}**" if met else f"{_say(value, goal.unit)} (short of it)"


def _say(value: float, unit: str) -> str:
    if unit == SHARE:
        return f"{100 * value:.3g} %"
    return f"{value:.3g} {unit}".rstrip()


def _attributes(evaluation: Mapping[str, Any]) -> str:
    """One row an attribute: what the judge reads in renders, in synthesised pictures and around an avatar."""
    judge, made = evaluation.get("judge", {}), evaluation.get("diffusion", {})
    verdicts = evaluation.get("avatars", {}).get("verdicts", {})
    lines = ["## Attribute by attribute, %", ""]
    lines += ["| attribute | judge on renders | diffusion, stated | chance | same verdict around an avatar |"]
    lines += ["|---|---|---|---|---|"]
    for name in sorted(set(made) | set(verdicts) | set(judge)):
        row = made.get(name)
        if not isinstance(row, dict) or "share" not in row or name in ("view", "face at the back", "core"):
            continue
        cells = (judge.get(name), row["share"], row["chance"], verdicts.get(name, {}).get("same verdict"))
        lines.append(f"| {name} | " + " | ".join("" if cell is None else f"{100 * cell:.0f}" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _spent(training: Mapping[str, Any]) -> str:
    stages = {name: told for name, told in training.items() if isinstance(told, dict) and "cpu_seconds" in told}
    lines = ["## What the training cost", "", "| stage | pictures seen | CPU minutes | on held-out renders |"]
    lines += ["|---|---|---|---|"]
    for name, told in stages.items():
        scores = ", ".join(f"{key} {value}" for key, value in told.items() if key not in ("images", "cpu_seconds"))
        lines.append(f"| {name} | {told['images']:,} | {told['cpu_seconds'] / 60:.1f} | {scores} |")
    total = sum(told["cpu_seconds"] for told in stages.values()) / 60
    return "\n".join([*lines, f"| together | | {total:.0f} | |"]) + "\n"


def _curves(name: str) -> str:
    return f"## Training curves\n\nAgainst pictures seen; from `curves.json`.\n\n![training curves](pictures/{name})\n"


def _at(tables: Any, place: tuple[str, ...]) -> float | None:
    for name in place:
        if name not in tables:
            return None
        tables = tables[name]
    return tables


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StyleAvatarError("a source of the results page is missing", got=str(path)) from None
    except ValueError as error:
        raise StyleAvatarError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise StyleAvatarError(f"{path} is no JSON object", got=type(content).__name__)
    return content
