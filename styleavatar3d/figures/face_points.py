"""The 70 points of a face that OpenPose draws: the usual 68 (Sagonas et al., "300 Faces in-the-Wild", 2013) and pupils.

From the figure's right ear to its left one, points 0-16 follow the jaw; 17-21 are the right brow, 22-26 the left one,
27-30 the bridge of the nose and 31-35 its base; 36-41 the lids of the right eye and 42-47 those of the left, from the
corner on the right over the top; 48-59 the border of the lips and 60-67 where they meet, likewise; 68 and 69 the right
and the left pupil.
"""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.figures.heads import SKIN, HeadModel

_MIDDLE: dict[int, tuple[float, float, float]] = {
    8: (0.0, 6.10, 1.36),
    27: (0.0, 7.32, 1.52),
    28: (0.0, 7.19, 1.56),
    29: (0.0, 7.06, 1.64),
    30: (0.0, 6.935, 1.72),
    33: (0.0, 6.805, 1.58),
    51: (0.0, 6.690, 1.62),
    57: (0.0, 6.508, 1.55),
    62: (0.0, 6.620, 1.57),
    66: (0.0, 6.589, 1.56),
}
_LEFT: dict[int, tuple[float, float, float]] = {
    9: (0.18, 6.14, 1.30),
    10: (0.34, 6.24, 1.13),
    11: (0.48, 6.36, 0.96),
    12: (0.58, 6.49, 0.81),
    13: (0.66, 6.66, 0.69),
    14: (0.72, 6.85, 0.60),
    15: (0.75, 7.06, 0.56),
    16: (0.77, 7.26, 0.55),
    22: (0.13, 7.505, 1.55),
    23: (0.24, 7.553, 1.50),
    24: (0.35, 7.580, 1.45),
    25: (0.46, 7.553, 1.36),
    26: (0.57, 7.490, 1.24),
    34: (0.075, 6.825, 1.56),
    35: (0.150, 6.860, 1.53),
    42: (0.203, 7.268, 1.39),
    43: (0.265, 7.322, 1.42),
    44: (0.360, 7.331, 1.42),
    45: (0.435, 7.287, 1.36),
    46: (0.365, 7.240, 1.41),
    47: (0.270, 7.236, 1.41),
    52: (0.065, 6.708, 1.60),
    53: (0.165, 6.680, 1.55),
    54: (0.275, 6.609, 1.42),
    55: (0.192, 6.535, 1.49),
    56: (0.095, 6.503, 1.53),
    63: (0.105, 6.622, 1.55),
    64: (0.235, 6.609, 1.45),
    65: (0.105, 6.587, 1.53),
}
"""Template coordinates (`anatomy`); the nearest place on the skin is meant."""
TWIN = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1), 69, 68,
)  # fmt: skip
"""The point on the other side of the face, for each point."""
PUPILS = {68: "right_eye", 69: "left_eye"}


class Anchors(NamedTuple):
    """Points as weighted means of vertices."""

    corners: Int[Tensor, "points corners"]
    weights: Float[Tensor, "points corners"]

    def carried(self, vertices: Float[Tensor, "vertices 3"]) -> Float[Tensor, "points 3"]:
        return (vertices[self.corners] * self.weights[..., None]).sum(1)


def face_points(model: HeadModel, head: Float[Tensor, "vertices 3"]) -> Float[Tensor, "70 3"]:
    """The points on a head that `model` shaped, in the coordinates of `head`."""
    skin = _anchors(model).carried(head)
    return torch.cat([skin, torch.stack([head[model.points[name]] for name in PUPILS.values()])])


@cache
def _anchors(model: HeadModel) -> Anchors:
    """Where the points of the skin are tied: found on the left half, mirrored to the right, on both in the middle."""
    places = _MIDDLE | _LEFT
    half = model.faces[: len(model.faces) // 2]
    half = half[model.parts[: len(half)] == SKIN]
    found = nearest_on(model.template, half, torch.tensor(list(places.values())))
    corners, weights = torch.zeros(68, 6, dtype=torch.long), torch.zeros(68, 6)
    for point, left, share in zip(places, *found, strict=True):
        right = model.mirror[left]
        corners[TWIN[point]] = torch.cat([right, right])
        corners[point] = torch.cat([left, right if point in _MIDDLE else left])
        weights[point] = weights[TWIN[point]] = torch.cat([share, share]) / 2
    return Anchors(corners, weights)


def nearest_on(
    vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"], points: Float[Tensor, "points 3"]
) -> Anchors:
    """The triangle nearest to each point, and where in it: exact for points over it, close beside an edge."""
    a, b, c = (vertices[corner] for corner in faces.unbind(1))
    first, second = b - a, c - a
    to = points[:, None] - a
    dot11, dot12, dot22 = (first * first).sum(1), (first * second).sum(1), (second * second).sum(1)
    dot1, dot2 = (to * first).sum(2), (to * second).sum(2)
    area = (dot11 * dot22 - dot12 * dot12).clamp(min=1e-12)
    along, across = (dot22 * dot1 - dot12 * dot2) / area, (dot11 * dot2 - dot12 * dot1) / area
    weights = torch.stack([1 - along - across, along, across], 2).clamp(min=0)
    weights = weights / weights.sum(2, keepdim=True)
    there = (weights[..., None] * torch.stack([a, b, c], 1)).sum(2)
    best = (there - points[:, None]).norm(dim=2).argmin(1)
    return Anchors(faces[best], weights[torch.arange(len(points)), best])
