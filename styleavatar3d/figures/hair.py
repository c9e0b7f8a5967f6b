"""Hair cuts: sheets grown from the crown to the hairline of the template head, in template coordinates.

Every cut is a thickness over the skull as a function of azimuth and of the way from crown to hairline, then, if the cut
falls, a curtain down to a height. Heads carry it by their nearest scalp vertices (`heads.py`).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from styleavatar3d.figures.anatomy import HEAD_CENTRE, hairline, symmetric_bumps
from styleavatar3d.figures.shapes import Mesh, ball, grid, merge

_OVER_EARS = 0.16
"""How far a curtain stands off, so that ears stay under it."""

Thickness = Callable[[Tensor, float], Tensor]


class Skull:
    """The template head as a radius over directions, ears left out."""

    def __init__(self, head: Float[Tensor, "vertices 3"]):
        ears = (head[:, 0].abs() > 0.78) & (head[:, 1] < 7.7) & (head[:, 2] < 0.65)
        offset = head[~ears] - HEAD_CENTRE
        self.directions, self.radii = normalize(offset, dim=1), offset.norm(dim=1)

    def surface(self, directions: Float[Tensor, "... 3"], above: Tensor | float) -> Float[Tensor, "... 3"]:
        """Points `above` decimetres over the skin in unit directions from the head's centre."""
        cosine = directions.reshape(-1, 3) @ self.directions.T
        weight = torch.exp((cosine - 1) * 120) + 1e-9 * (cosine + 1.01)
        weight = torch.where(cosine > math.cos(0.22), weight, weight * 1e-6)
        radius = (weight @ self.radii / weight.sum(1)).view(directions.shape[:-1])
        return HEAD_CENTRE + directions * (radius + above)[..., None]


def direction(azimuth: Tensor, polar: Tensor) -> Float[Tensor, "... 3"]:
    """Unit vectors; azimuth 0 is the face, polar 0 straight up."""
    return torch.stack([polar.sin() * azimuth.sin(), polar.cos(), polar.sin() * azimuth.cos()], -1)


def sheet(
    skull: Skull,
    thickness: Thickness,
    *,
    columns: int = 64,
    rows: int = 14,
    bumps: float = 0.0,
    frequency: float = 9.0,
    fringe: float = 0.0,
    fall: float | None = None,
    parting: float = 50.0,
    flare: float = 0.0,
) -> Mesh:
    """A cut: `fringe` (degrees) lowers the front hairline, `fall` is the height that the curtain reaches beyond
    `parting` degrees of azimuth, `flare` how far it leans out."""
    azimuth = torch.linspace(-math.pi, math.pi, columns + 1)
    limit = hairline(azimuth)
    limit = torch.where(azimuth.abs() < math.radians(54), limit.clamp(min=math.radians(fringe)), limit)
    layers = []
    for row in range(rows + 1):
        way = row / rows
        out = direction(azimuth, limit * way)
        lump = bumps * symmetric_bumps(HEAD_CENTRE + out, frequency)
        layers.append(skull.surface(out, thickness(azimuth, way) + lump))
    layers.append(skull.surface(direction(azimuth, limit * 1.015), -0.03))
    mesh = grid(torch.stack(layers))
    if fall is None:
        return mesh
    return merge(mesh, _curtain(layers[-2], azimuth, fall, parting, flare))


def _curtain(top: Float[Tensor, "columns 3"], azimuth: Tensor, fall: float, parting: float, flare: float) -> Mesh:
    """Hair that falls from the hairline: an outer layer, a hem, and an inner layer that gives it a body."""
    steps = torch.linspace(0, 1, 9)[:, None]
    outward = torch.stack([azimuth.sin(), torch.zeros_like(azimuth), azimuth.cos()], 1)
    height = top[:, 1] + (fall - top[:, 1]) * steps
    lean = flare * steps * (1 - 0.35 * steps) + _OVER_EARS * (4 * steps).clamp(max=1)
    outer = top * torch.tensor([1.0, 0, 1]) + outward * lean[..., None]
    outer = torch.cat([outer[..., :1], height[..., None], outer[..., 2:]], -1)
    inner = outer - 0.14 * outward
    points = torch.cat([outer, inner.flip(0)])
    falls = azimuth.abs() > math.radians(parting)
    keep = (falls[:-1] & falls[1:]).expand(len(points) - 1, -1)
    return grid(points, keep)


def _tapered(height: float, edge: float, least: float = 0.35) -> Thickness:
    return lambda azimuth, way: torch.full_like(azimuth, height * min(1.0, (1 - way) / edge + least))


def _short(azimuth: Tensor, way: float) -> Tensor:
    return (0.14 + 0.1 * torch.exp(-((azimuth / 0.9) ** 2))) * min(1.0, (1 - way) / 0.2 + 0.5)


def _ridge(skull: Skull) -> Mesh:
    """A crest over the middle of the head."""
    along = torch.linspace(-0.95, 2.0, 22)
    profile = torch.sin((along + 0.95) / 2.95 * math.pi).clamp(min=0).sqrt() * (1 + 0.08 * torch.sin(along * 14))
    rows = []
    for side, height in ((-0.17, -0.03), (-0.12, 0.4), (0.0, 0.5), (0.12, 0.4), (0.17, -0.03)):
        out = normalize(torch.stack([torch.full_like(along, side * 1.6), along.cos(), -along.sin()], 1), dim=1)
        rows.append(skull.surface(out, height * profile + 0.02))
    return grid(torch.stack(rows))


def haircuts(skull: Skull) -> dict[str, Mesh]:
    """Every cut of `looks.ATTRIBUTES["hair"]` that is not bald."""
    return {
        "short": sheet(skull, _short),
        "bob": sheet(skull, _tapered(0.2, 0.1), fringe=76, fall=6.35, parting=52, flare=0.1),
        "long": sheet(skull, _tapered(0.18, 0.1), fall=5.0, parting=64, flare=0.25),
        "afro": sheet(skull, _tapered(0.5, 0.2, 0.4), columns=80, rows=20, bumps=0.05, frequency=13.0),
        "mohawk": _ridge(skull),
        "bun": merge(sheet(skull, _tapered(0.1, 0.25)), ball((0.0, 8.5, -0.72), 0.38)),
    }
