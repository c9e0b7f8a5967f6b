"""Things worn: glasses, hats and moustaches; and for aliens, antennae. Template coordinates, decimetres."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from styleavatar3d.figures.anatomy import HEAD_CENTRE
from styleavatar3d.figures.hair import Cut, Skull, curve, direction, drape, join, reflected, smooth, strand
from styleavatar3d.figures.shapes import Mesh, ball, disc, grid, merge, mirrored, tube

RIM = 0.3
"""Half the width of a round lens."""
_WIRE = 0.05
"""A rim is one pixel wide where the head is 36 pixels high."""


def glasses(
    eye: Float[Tensor, "3"], ear: Float[Tensor, "3"], front: float, temple: float, dark: bool = False
) -> tuple[Mesh, Mesh]:
    """Frames and their lenses for a left eye and ear; `front` is the z of the lens plane, `temple` half the width
    of the head between. Dark ones have wider, squarer lenses."""
    angle = torch.linspace(0, 2 * math.pi, 25)[:-1]
    wide = min(RIM * (1.2 if dark else 1.0), float(eye[0]) - 0.05)
    outer = RIM * (1.3 if dark else 1.0)
    power = 0.65 if dark else 1.0
    across = angle.cos().abs() ** power * angle.cos().sign()
    x = eye[0] + torch.where(across > 0, outer, wide) * across
    y = eye[1] - 0.02 + RIM * (0.95 if dark else 1.0) * angle.sin().abs() ** power * angle.sin().sign()
    rim = torch.stack([x, y, front - 0.015 * ((x - 0.1) / 0.5) ** 2], 1)
    closed = torch.cat([rim, rim[:2]])
    hinge = torch.stack([rim[0, 0], eye[1] + 0.04, rim[0, 2]])
    over_ear = ear + torch.tensor([-0.06, 0.12, 0.1])
    beside = torch.tensor([max(temple, float(hinge[0])), float(hinge[1]), float(0.45 * hinge[2] + 0.55 * over_ear[2])])
    side = merge(tube(closed, _WIRE), tube(curve([hinge.tolist(), beside.tolist(), over_ear.tolist()], 7), _WIRE))
    inner = float(eye[0]) - wide
    arch = torch.linspace(-1, 1, 5)
    bridge = torch.stack([inner * arch, eye[1] + 0.05 - 0.04 * arch**2, front + 0.03 - 0.02 * arch**2], 1)
    lens = disc(rim)
    return merge(side, mirrored(side), tube(bridge, _WIRE)), merge(lens, mirrored(lens))


def antennae() -> Cut:
    """A pair of stalks with knobs, that reach beyond hair and hats."""
    path = curve([(0.38, 8.0, 0.5), (0.6, 8.5, 0.62), (0.95, 8.9, 0.72)], 7)
    stalk, knob = tube(path, 0.075), ball((0.99, 8.96, 0.73), 0.17, 8)
    vertices, faces = merge(stalk, mirrored(stalk), knob, mirrored(knob))
    return Cut(vertices, faces, vertices)


def brim(azimuth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Height of the lower edge of every hat: over the brows, above the ears, down the back."""
    return 7.62 + 0.28 * azimuth.cos()


def hats(skull: Skull) -> dict[str, Cut]:
    """A "beanie" and a "brimmed hat"."""
    return {"beanie": _beanie(skull), "brimmed hat": _brimmed(skull)}


def _beanie(skull: Skull) -> Cut:
    """A knitted cap with a cuff and a bobble."""

    def volume(azimuth: Tensor, polar: Tensor) -> Tensor:
        height = HEAD_CENTRE[1] + (skull.radius(direction(azimuth, polar)) + 0.15) * polar.cos()
        cuff = 1 - smooth(height - brim(azimuth), 0.36, 0.42)
        return 0.17 + 0.1 * (1 - smooth(polar, 0.0, 1.0)) + 0.09 * cuff

    cap = drape(skull, volume, brim, rows=15, columns=44, cling=1.0, locks=0.03, count=11)
    vertices, faces = ball((0.0, 8.86, 0.25), 0.22, 7)
    return join(cap._replace(flow=cap.vertices), Cut(vertices, faces, vertices))


def _brimmed(skull: Skull) -> Cut:
    """A felt hat: a crown with a soft edge, and a brim all around."""
    azimuth = torch.linspace(-math.pi, math.pi, 49)
    level = brim(azimuth)
    aside = torch.stack([azimuth.sin(), torch.zeros_like(azimuth), azimuth.cos()], 1)
    middle = HEAD_CENTRE * torch.tensor([1.0, 0, 1])
    polar = torch.acos(((level - HEAD_CENTRE[1]) / skull.radius(direction(azimuth, torch.tensor(1.45)))).clamp(-1, 1))
    inside = (skull.radius(direction(azimuth, polar)) * polar.sin()).clamp(min=0.8)
    rows = []
    profile = [(0.0, 1.3), (0.55, 1.28), (0.8, 1.24), (0.93, 1.1), (1.0, 0.75), (1.06, 0.35), (1.12, 0.08)]
    edge = [(0.45, 0.1), (0.56, 0.1), (0.56, 0.04), (0.45, 0.03), (-0.12, -0.02)]
    for share, height in profile:
        top = 7.62 + height
        wide = (inside + 0.15) * share
        rows.append(middle + wide[:, None] * aside + _lift(top + (level - 7.62) * share**2))
    for beyond, above in edge:
        droop = 0.16 * beyond * azimuth.cos() ** 2
        rows.append(middle + (inside + beyond)[:, None] * aside + _lift(level + above - droop))
    vertices, faces = grid(torch.stack(rows))
    return Cut(vertices, faces, vertices)


def _lift(height: Tensor) -> Float[Tensor, "points 3"]:
    return torch.stack([torch.zeros_like(height), height, torch.zeros_like(height)], 1)


def trim(cut: Cut, skull: Skull) -> Cut:
    """Hair pressed into the head above the brim of a hat."""
    offset = cut.vertices - HEAD_CENTRE
    length = offset.norm(dim=1)
    above = cut.vertices[:, 1] - brim(torch.atan2(offset[:, 0], offset[:, 2]))
    flat = torch.minimum(length, skull.radius(normalize(offset, dim=1)) + 0.02)
    length = torch.lerp(length, flat, smooth(above, -0.3, 0.05))
    return cut._replace(vertices=HEAD_CENTRE + normalize(offset, dim=1) * length[:, None])


def moustache() -> Cut:
    """Two locks over the lip."""
    way = torch.linspace(0, 1, 11)
    knots = [(-0.05, 6.79, 1.6), (0.12, 6.79, 1.62), (0.28, 6.7, 1.51), (0.42, 6.58, 1.33)]
    lock = strand(curve(knots, 11), 0.1 - 0.075 * way**2, 8, flat=0.75)
    return join(lock, reflected(lock))
