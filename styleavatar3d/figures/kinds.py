"""What kinds have that people have not: the tusks of orcs, the discs over a robot's ears. Template coordinates."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.figures.heads import METAL, TUSK
from styleavatar3d.figures.shapes import Mesh, grid, merge, mirrored, tube

BITS = {"orc": ("tusks",), "robot": ("ear discs",)}
"""Names of what a kind carries."""


class Bit(NamedTuple):
    mesh: Mesh
    part: int
    carriers: Bool[Tensor, "vertices"]
    """Vertices of the template that carry it: few and stiff, so that it keeps its shape."""


def bit(name: str, template: Float[Tensor, "vertices 3"]) -> Bit:
    """One of `BITS`, and what carries it."""
    x, y, z = template[:, 0].abs(), template[:, 1], template[:, 2]
    if name == "tusks":
        return Bit(_tusks(), TUSK, (x > 0.1) & (x < 0.3) & (y > 6.42) & (y < 6.56) & (z > 1.25))
    return Bit(_ear_discs(), METAL, (x > 0.55) & (x < 0.8) & (y > 6.9) & (y < 7.5) & (z > -0.1) & (z < 0.7))


def _tusks() -> Mesh:
    """A pair of curved cones that stand before the upper lip, rooted in the lower."""
    along = torch.linspace(0, 1, 7)
    path = torch.stack([0.20 + 0.07 * along**2, 6.5 + 0.36 * along, 1.46 + 0.12 * torch.sin(2.2 * along)], 1)
    side = tube(path, 0.075 * (1.02 - along).sqrt(), sides=8)
    return merge(side, mirrored(side))


def _ear_discs() -> Mesh:
    """A pair of turned discs with a bolt in the middle."""
    profile = torch.tensor([(0.6, 0.40), (0.93, 0.40), (0.99, 0.34), (0.99, 0.2), (1.12, 0.17), (1.14, 0.001)])
    angle = torch.linspace(0, 2 * math.pi, 21)
    reach, radius = profile[:, :1], profile[:, 1:]
    points = torch.stack([reach + 0 * angle, 7.13 + radius * angle.cos(), 0.30 + radius * angle.sin()], -1)
    side = grid(points.flip(1))
    return merge(side, mirrored(side))
