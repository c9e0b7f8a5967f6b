"""Smooth surfaces as if cut into flat facets or built of little cubes; functions of the point, not of the camera."""

from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from styleavatar3d.figures.anatomy import HEAD_CENTRE
from styleavatar3d.figures.heads import SHIRT, SKIN, Figure

_FACET = 0.31
"""Mean distance of facets, decimetres of the template."""
_EVERY = 5
"""Every so many faces tell how a cell lies."""
_FINE = 2.0**32
"""Steps in one, when vectors are summed."""
_SIDE, _ROWS, _PARTS = 12, 36, 16
_BELOW, _BEHIND = 0.0, -5.0
"""Where cells begin to be counted, decimetres."""


def facet_normals(
    figure: Figure, points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], parts: Int[Tensor, "points"]
) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points"]]:
    """The mean normal of the figure in each point's cell, and a number in [-1, 1] of the cell's own.

    Cells are those of Voronoi around jittered grid points; they are mirrored, and a middle row lies across x = 0.
    Faces that look inwards, as those of a mouth do, have no say.
    """
    some = figure.faces[::_EVERY]
    centres = figure.canonical[some].mean(1)
    folded = _folded(figure.normals[some].mean(1), centres)
    offset = _folded(centres - HEAD_CENTRE.to(centres), centres)
    offset[:, 1].clamp_(min=0)
    outward = (folded * offset).sum(1, keepdim=True).clamp(min=0)
    cells = _cells(centres) * _PARTS + figure.parts[::_EVERY]
    total = _summed(folded * outward, cells, _SIDE * _ROWS * _ROWS * _PARTS)
    cell = _cells(points)
    mean = total[cell * _PARTS + torch.where(parts == SHIRT, SKIN, parts)] + 1e-3 * _folded(normals, points)
    middle = cell < _ROWS * _ROWS
    mean[:, 0] = torch.where(middle, 0.0, mean[:, 0])
    return _folded(normalize(mean, dim=1), points), torch.sin(cell * 12.9898)


def _summed(vectors: Float[Tensor, "vectors 3"], cells: Int[Tensor, "vectors"], count: int) -> Float[Tensor, "cells 3"]:
    """Sums by cell, in whole numbers: on a GPU a sum of floats depends on the order in which threads come."""
    whole = (vectors.double() * _FINE).round_().long()
    total = torch.zeros(count, 3, dtype=torch.int64, device=vectors.device).index_add_(0, cells, whole)
    return (total.double() / _FINE).to(vectors)


def _folded(vectors: Tensor, points: Tensor) -> Tensor:
    """Vectors of the side x < 0 mirrored to the other one; its own inverse."""
    side = torch.where(points[:, 0] < 0, -1.0, 1.0)
    return torch.cat([vectors[:, :1] * side[:, None], vectors[:, 1:]], 1)


def _cells(points: Float[Tensor, "points 3"]) -> Int[Tensor, "points"]:
    """The number of the nearest jittered grid point, among the eight around."""
    start = points.new_tensor((0.0, _BELOW, _BEHIND))
    at = torch.cat([points[:, :1].abs(), points[:, 1:]], 1).sub(start).div(_FACET)
    base = at.long().clamp_(min=0)
    number = (base[:, 0].clamp(max=_SIDE - 2) * _ROWS + base[:, 1].clamp(max=_ROWS - 2)) * _ROWS
    number = number + base[:, 2].clamp(max=_ROWS - 2)
    seeds = _seeds().to(points)
    best, found = torch.full_like(at[:, 0], torch.inf), number
    for corner in range(8):
        candidate = number + ((corner & 1) * _ROWS + (corner >> 1 & 1)) * _ROWS + (corner >> 2)
        distance = (seeds.index_select(0, candidate) - at).square().sum(1)
        found = torch.where(distance < best, candidate, found)
        best = torch.minimum(distance, best)
    return found


@cache
def _seeds() -> Float[Tensor, "cells 3"]:
    """Grid points, jittered, but those of the plane x = 0 within it; in units of `_FACET`."""
    number = torch.arange(_SIDE * _ROWS * _ROWS)
    cell = torch.stack([number // _ROWS**2, number // _ROWS % _ROWS, number % _ROWS], 1).float()
    jitter = 0.36 * torch.sin(number[:, None] * torch.tensor([1.7321, 2.2361, 2.6458]))
    jitter[:, 0] *= cell[:, 0] > 0
    return cell + jitter


def cube_faces(
    points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], edge: float
) -> tuple[Float[Tensor, "points 3"], Float[Tensor, "points 3"], Float[Tensor, "points"], Float[Tensor, "points"]]:
    """The staircase of cubes that stands for a surface: for each point the centre of its cube, the normal of the
    cube's face that it falls on, how near that face's rim is (0..1), and a number in [-1, 1] of the cube's own.

    A cube is solid if its centre lies under the tangent plane. A point in an empty cube falls back along its normal
    on the face before it; one in a solid cube is pushed out through the face that the normal meets first.
    """
    cell = (points / edge).floor()
    within = points / edge - cell
    solid = (normals * (0.5 - within)).sum(1, keepdim=True) <= 0
    ahead = (normals > 0) == solid
    way = torch.where(ahead, 1 - within, within) / normals.abs().clamp(min=1e-4)
    least, axis = way.min(1, keepdim=True)
    hit = torch.zeros_like(points).scatter_(1, axis, 1.0)
    sign = torch.where(normals > 0, 1.0, -1.0)
    landed = within + torch.where(solid, least, -least) * normals
    margin = torch.minimum(landed.remainder(1.0), 1 - landed.remainder(1.0)) + hit
    cube = torch.where(solid, cell, cell - hit * sign)
    mirrored = torch.cat([torch.where(cube[:, :1] < 0, -1 - cube[:, :1], cube[:, :1]), cube[:, 1:]], 1)
    chance = torch.sin((mirrored * points.new_tensor((12.9898, 78.233, 37.719))).sum(1))
    seam = ((0.12 - margin.amin(1)) / 0.08).clamp(0, 1)
    return (cube + 0.5) * edge, hit * sign, seam, chance
