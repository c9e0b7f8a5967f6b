"""What shirts have around the neck: ribs, a roll, or folded leaves. Rings of points on the template's skin, so that
every edge lies on cloth or skin, and none of it hangs in the air."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from styleavatar3d.figures.anatomy import NECK_AXIS, below_neckline
from styleavatar3d.figures.hair import Cut, direction, join
from styleavatar3d.figures.shapes import Mesh, grid

_AROUND = 41
Profile = list[tuple[float, float]]
"""Points of a closed loop across a band: (beyond the neckline, over the skin), decimetres."""


def collars(skin: Mesh) -> dict[str, Cut]:
    """One for each of `looks.ATTRIBUTES["shirt"]`, for the skin of the template."""
    neck = Neck(skin)
    ribs = [(0.08, -0.04), (0.13, 0.06), (0.08, 0.14), (-0.06, 0.14), (-0.12, 0.09), (-0.1, -0.05)]
    return {
        "t-shirt": _band(neck, ribs),
        "striped shirt": _band(neck, ribs),
        "turtleneck": _roll(neck),
        "collared shirt": join(_leaves(neck), _placket(neck)),
    }


class Neck:
    """Points of the template's skin around the neck."""

    def __init__(self, skin: Mesh):
        vertices, faces = skin
        centres = vertices[faces].mean(1)
        near = (centres[:, 1] < 6.7) & (centres[:, 1] > 4.0) & (centres[:, 0].abs() < 1.6)
        self.triangles = vertices[faces[near]]

    def ring(self, azimuth: Float[Tensor, "points"], beyond: Tensor | float, above: float) -> Float[Tensor, "points 3"]:
        """Points `above` the skin and `beyond` the neckline, decimetres."""
        beyond = torch.as_tensor(beyond).expand_as(azimuth)
        steep = 0.35 + 0.45 * azimuth.sin() ** 2
        out = direction(azimuth, torch.atan2(1 - steep, steep))
        return self._slice(azimuth, beyond) + above * out

    def _slice(self, azimuth: Float[Tensor, "points"], beyond: Float[Tensor, "points"]) -> Float[Tensor, "points 3"]:
        """Where the skin, cut by half-planes through the axis of the neck, passes a distance beyond the neckline."""
        start, end = self.triangles.reshape(-1, 3), self.triangles.roll(1, 1).reshape(-1, 3)
        found = []
        for angle, distance in zip(azimuth, beyond, strict=True):
            aside, along = (torch.stack(pair) for pair in ((angle.cos(), -angle.sin()), (angle.sin(), angle.cos())))
            axis = torch.tensor([0.0, NECK_AXIS])
            one, two = ((ends[:, ::2] - axis) @ aside for ends in (start, end))
            crosses = (one > 0) != (two > 0)
            share = (one / (one - two))[crosses, None]
            points = start[crosses].lerp(end[crosses], share)
            points = points[((points[:, ::2] - axis) @ along > 0) & (below_neckline(points) > -0.9)]
            level = below_neckline(points)
            order = level.argsort()
            at = torch.searchsorted(level[order], distance.reshape(1)).clamp(1, len(order) - 1)
            low, high = order[at - 1], order[at]
            step = ((distance - level[low]) / (level[high] - level[low]).clamp(min=1e-6)).clamp(0, 1)
            found.append(points[low].lerp(points[high], step[:, None])[0])
        return torch.stack(found)

    def top(self, azimuth: Float[Tensor, "points"], above: float) -> Float[Tensor, "points 3"]:
        """Points around the neck under the jaw."""
        height = 6.36 - 0.28 * azimuth.cos()
        origin = torch.stack([torch.zeros_like(height), height, torch.full_like(height, 0.1)], 1)
        level = direction(azimuth, torch.full_like(azimuth, math.pi / 2))
        return self._cast(origin, level) + above * level

    def _cast(self, origin: Float[Tensor, "rays 3"], towards: Float[Tensor, "rays 3"]) -> Float[Tensor, "rays 3"]:
        """First hits (Moller and Trumbore 1997); a ray through an edge counts."""
        corner, second, third = self.triangles.unbind(1)
        one, two = second - corner, third - corner
        across = torch.linalg.cross(towards[:, None].expand(-1, len(two), 3), two[None].expand(len(towards), -1, 3))
        area = (across * one).sum(-1)
        offset = origin[:, None] - corner
        u = (offset * across).sum(-1) / area
        lifted = torch.linalg.cross(offset, one[None].expand_as(offset))
        v = (lifted * towards[:, None]).sum(-1) / area
        way = (lifted * two).sum(-1) / area
        hits = (u > -1e-4) & (v > -1e-4) & (u + v < 1 + 1e-4) & (way > 0.05)
        first = torch.where(hits, way, torch.inf).amin(1)
        return origin + first[:, None] * towards


def _around() -> Float[Tensor, "azimuths"]:
    return torch.linspace(-math.pi, math.pi, _AROUND)


def _band(neck: Neck, profile: Profile) -> Cut:
    """A band that follows the neckline."""
    return _outward(*grid(torch.stack([neck.ring(_around(), *point) for point in [*profile, profile[0]]])))


def _roll(neck: Neck) -> Cut:
    """A turtleneck: up the neck, and rolled over half the way down again."""
    azimuth = _around()
    low, foot = neck.ring(azimuth, 0.08, 0.04), neck.ring(azimuth, 0.0, 0.1)
    rows = [neck.ring(azimuth, 0.05, -0.06), low, foot]
    for share, above in ((0.2, 0.1), (0.5, 0.14), (0.85, 0.15), (1.0, 0.11), (1.0, 0.04), (0.8, -0.08)):
        out = (above * (0.8 + 0.2 * azimuth.cos()))[:, None] * direction(azimuth, torch.tensor(1.35))
        rows.append(foot.lerp(neck.top(azimuth, 0.0), share) + out)
    return _outward(*grid(torch.stack([*rows, rows[0]])))


def _leaves(neck: Neck) -> Cut:
    """A folded collar, open at the throat, its corners pointing down."""
    half = torch.linspace(math.radians(5), math.pi, 25)
    azimuth = torch.cat([half, half.flip(0)[1:] - 2 * half.flip(0)[1:]])
    corner = torch.exp(-(((azimuth.abs() - 0.5) / 0.42) ** 2))
    leaf = 0.16 + 0.24 * corner
    foot, top = neck.ring(azimuth, 0.0, 0.05), neck.top(azimuth, 0.0)
    fold = foot.lerp(top, 0.5)
    out = direction(azimuth, torch.tensor(1.2))
    middle = neck.ring(azimuth, 0.4 * leaf, 0.2)
    rows = [neck.ring(azimuth, 0.02, -0.06), fold - 0.04 * out, fold + 0.05 * out, fold + 0.12 * out - 0.03, middle]
    rows += [neck.ring(azimuth, leaf, 0.19), neck.ring(azimuth, leaf, 0.08)]
    points = torch.stack([*rows, rows[0]])
    ends = points[:-1].mean(0, keepdim=True).expand(len(points), -1, 3)
    return _outward(*grid(torch.cat([ends[:, :1], points, ends[:, -1:]], 1)))


def _placket(neck: Neck) -> Cut:
    """The strip with the buttons."""
    rows = []
    for beyond in torch.linspace(-0.02, 0.5, 8):
        aside = torch.tensor([-0.17, -0.15, 0.0, 0.15, 0.17]) * (1 - 0.5 * beyond)
        above = torch.tensor([-0.04, 0.12, 0.13, 0.12, -0.04])
        skin, lifted = neck.ring(aside, float(beyond), 0.0), neck.ring(aside, float(beyond), 1.0)
        rows.append(skin + above[:, None] * normalize(lifted - skin, dim=1))
    vertices, faces = grid(torch.stack(rows))
    return Cut(vertices, faces, vertices)


def _outward(vertices: Tensor, faces: Tensor) -> Cut:
    """A closed mesh with its faces counter-clockwise seen from outside."""
    a, b, c = (vertices - vertices.mean(0))[faces].unbind(1)
    volume = (torch.linalg.cross(a, b) * c).sum()
    return Cut(vertices, faces if volume > 0 else faces.flip(1), vertices)
