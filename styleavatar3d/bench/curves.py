"""Training curves: the logs of runs, thinned to a few kilobytes that are kept with the weights, and drawn as SVG."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import LOG

Curves = Mapping[str, Mapping[str, list[float]]]
"""stage -> name of the value -> its means; "images" holds where they were taken."""

POINTS = 48
_NOT_DRAWN = {"step", "time", "rate", "seconds_left", "resolution"}
_COLUMNS, _WIDTH, _HEIGHT, _MARGIN = 4, 220, 130, 26


def collect(runs: Mapping[str, str], out: str | Path) -> dict[str, Any]:
    """Thin the logs of these runs (stage -> folder or s3:// prefix) into `out` (JSON); other stages there stay."""
    known = json.loads(Path(out).read_text()) if Path(out).exists() else {}
    curves = known | {stage: thin(read_log(folder)) for stage, folder in runs.items()}
    Path(out).write_text(json.dumps(curves, separators=(",", ":")) + "\n")
    return {"curves": str(out), "stages": list(curves)}


def parse_runs(texts: Sequence[str]) -> dict[str, str]:
    """["clip=runs/miniature/clip"] -> stage and folder. Raises StyleAvatarError for anything else."""
    runs = dict(text.split("=", 1) for text in texts if "=" in text)
    if wrong := [text for text in texts if not all(text.partition("="))]:
        raise StyleAvatarError("this names no run", got=", ".join(wrong), expected="STAGE=FOLDER")
    return runs


def read_log(folder: str) -> list[dict[str, float]]:
    """The lines of a run's log. Raises StyleAvatarError when there are none."""
    storage = Storage.open(folder)
    text = storage.read(LOG).decode() if storage.exists(LOG) else ""
    lines = [json.loads(line) for line in text.splitlines()]
    if not lines:
        raise StyleAvatarError("this run has no log", got=folder, expected=f"a folder with {LOG}")
    return lines


def thin(lines: list[dict[str, float]], points: int = POINTS) -> dict[str, list[float]]:
    """Means of every value over at most `points` equal stretches of the run, with four digits."""
    first, last = lines[0]["step"], lines[-1]["step"]
    stretches: dict[int, list[dict[str, float]]] = {}
    for line in lines:
        place = int((line["step"] - first) / max(last - first, 1) * points)
        stretches.setdefault(min(place, points - 1), []).append(line)
    names = [name for name in lines[-2 if len(lines) > 1 else -1] if name not in _NOT_DRAWN]
    thinned: dict[str, list[float]] = {"images": [], **{name: [] for name in names}}
    for _, some in sorted(stretches.items()):
        if not all(any(name in line for line in some) for name in names):
            continue
        thinned["images"].append(some[-1]["step"])
        for name in names:
            values = [line[name] for line in some if name in line]
            thinned[name].append(float(f"{sum(values) / len(values):.4g}"))
    return thinned


def draw(curves: Curves) -> str:
    """An SVG with one small plot a value: first and last value in its title, pictures seen below."""
    panels = [
        (f"{stage}: {name}", series["images"], values)
        for stage, series in curves.items()
        for name, values in series.items()
        if name != "images" and values
    ]
    rows = -(-len(panels) // _COLUMNS)
    body = "".join(
        _panel(title, images, values, _WIDTH * (place % _COLUMNS), _HEIGHT * (place // _COLUMNS))
        for place, (title, images, values) in enumerate(panels)
    )
    width, height = _WIDTH * _COLUMNS, _HEIGHT * rows
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11"><rect width="{width}" height="{height}" fill="white"/>{body}</svg>\n'
    )


def _panel(title: str, images: list[float], values: list[float], left: float, top: float) -> str:
    """One plot of `values` over `images` in the cell whose corner is (left, top)."""
    low, high = min(values), max(values)
    across, up = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    end = max(images[-1], 1)
    points = " ".join(
        f"{_MARGIN + across * seen / end:.1f},{_MARGIN + up * (high - value) / ((high - low) or 1):.1f}"
        for seen, value in zip(images, values, strict=True)
    )
    return (
        f'<g transform="translate({left} {top})"><text x="{_MARGIN}" y="18">{title}, {values[0]:.3g} to '
        f'{values[-1]:.3g}</text><path d="M{_MARGIN} {_MARGIN}v{up}h{across}" fill="none" stroke="#bbb"/>'
        f'<polyline points="{points}" fill="none" stroke="#36c" stroke-width="1.5"/>'
        f'<text x="{_MARGIN + across}" y="{_MARGIN + up + 14}" text-anchor="end" fill="#777">{end / 1000:,.0f} k</text>'
        "</g>"
    )
