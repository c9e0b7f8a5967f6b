"""The held-out world that every table of `evaluate` is measured on, and how tables are printed."""

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import orbit_labels, yaw_pitch
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import Look, draw_look
from styleavatar3d.metrics.alignment import Request, stated
from styleavatar3d.miniature.reading import truths
from styleavatar3d.miniature.renders import draw_style, render_dataset, render_views
from styleavatar3d.runtime.random import uniform

HELD_OUT = 104_729
"""added to the seed: a population that neither training nor synthesis draws from"""


@dataclass(frozen=True)
class World:
    """Renders of held-out figures, one view each."""

    data: dict[str, Any]

    @classmethod
    def render(cls, count: int, seed: int) -> "World":
        return cls(render_dataset(count, seed + HELD_OUT, views_per_figure=1, workers=2, progress=_report))

    @property
    def images(self) -> UInt8[Tensor, "count 3 size size"]:
        return self.data["image"]

    @property
    def labels(self) -> Float[Tensor, "count 25"]:
        return self.data["labels"]

    @cached_property
    def yaw(self) -> Float[Tensor, "count"]:
        """Degrees."""
        return yaw_pitch(self.labels)[0]

    @cached_property
    def shown(self) -> list[tuple[Look, str, float, float]]:
        """Look, style, yaw and pitch (degrees) of each picture."""
        yaws, pitches = (angles.tolist() for angles in yaw_pitch(self.labels))
        return list(zip(self.data["looks"], self.data["styles"], yaws, pitches, strict=True))

    @cached_property
    def truths(self) -> list[dict[str, str]]:
        """What can be seen in each picture, its style included."""
        return truths(self.data["looks"], self.data["styles"], self.yaw)

    @cached_property
    def requests(self) -> list[Request]:
        """What a full caption of each picture asks for."""
        return [Request(yaw, stated(seen)) for yaw, seen in zip(self.yaw.tolist(), self.truths, strict=True)]


def portrait(index: int, seed: int) -> UInt8[Tensor, "3 64 64"]:
    """A near-front render of held-out figure `index`, on the plain background."""
    yaw = 40 * uniform(seed, "portrait", index, 1) - 20
    figure = build_figure(draw_look(seed + HELD_OUT, index))
    view = render_views(figure, draw_style(seed + HELD_OUT, index), orbit_labels(yaw, torch.full((1,), 5.0)))[0]
    return view.image.movedim(-1, 0)


def signed(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes -> [-1, 1]."""
    return images.float() / 127.5 - 1


def tell(what: str, done: int, count: int) -> None:
    """Progress on stderr."""
    print(f"\r{what} {done}/{count}", end="\n" if done >= count else "", file=sys.stderr, flush=True)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table whose columns are the keys of its rows."""
    names = list(rows[0])
    widths = [max(len(_cell(row[name])) for row in [*rows, {name: name}]) for name in names]
    print(title)
    for cells in (names, *([_cell(row[name]) for name in names] for row in rows)):
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


def _report(done: int, count: int, _: float) -> None:
    tell("held-out renders", done, count)
