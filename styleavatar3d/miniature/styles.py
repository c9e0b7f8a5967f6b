"""Four art styles, as shaders. What is painted is a function of template coordinates, and lights stand still around the
figure, mirrored on both sides: a point has one colour whatever camera sees it, so views agree in three dimensions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import (
    beard_mask,
    brow_mask,
    lips_mask,
    ramp,
    scalp_mask,
    shirt_mask,
    symmetric_bumps,
)
from styleavatar3d.figures.heads import ANTENNA, EYE, FRAME, HAIR, LASH, LENS, SHIRT, SKIN
from styleavatar3d.figures.looks import STYLES, Look

SKIN_COLORS = {
    "pale": (0.98, 0.83, 0.75),
    "tan": (0.85, 0.62, 0.45),
    "brown": (0.58, 0.37, 0.24),
    "dark": (0.33, 0.21, 0.15),
    "blue": (0.25, 0.52, 0.92),
    "green": (0.36, 0.74, 0.32),
}
HAIR_COLORS = {
    "black": (0.08, 0.07, 0.08),
    "brown": (0.34, 0.19, 0.09),
    "blonde": (0.93, 0.74, 0.33),
    "red": (0.74, 0.25, 0.07),
    "white": (0.88, 0.88, 0.90),
    "pink": (0.96, 0.42, 0.66),
    "blue": (0.15, 0.30, 0.80),
}
EYE_COLORS = {
    "brown": (0.36, 0.18, 0.06),
    "blue": (0.15, 0.42, 0.90),
    "green": (0.16, 0.58, 0.24),
    "yellow": (0.98, 0.82, 0.10),
}
SHIRT_COLORS = {
    "red": (0.84, 0.12, 0.12),
    "blue": (0.14, 0.30, 0.80),
    "green": (0.12, 0.55, 0.25),
    "yellow": (0.96, 0.80, 0.15),
    "white": (0.94, 0.94, 0.94),
    "black": (0.11, 0.11, 0.13),
    "purple": (0.48, 0.18, 0.66),
}
_INK = (0.06, 0.05, 0.06)
_GOLD = (0.92, 0.74, 0.22)


def shade(
    look: Look,
    style: str,
    points: Float[Tensor, "points 3"],
    normals: Float[Tensor, "points 3"],
    parts: Int[Tensor, "points"],
) -> tuple[Float[Tensor, "points 3"], Int[Tensor, "points"]]:
    """Colours in [0, 1] of surface points (template coordinates, world normals), and parts, the shirt told apart."""
    parts = torch.where((parts == SKIN) & (shirt_mask(points) > 0.5), SHIRT, parts)
    if style == "cartoon":
        return _cartoon(paint(look, points, parts), normals).clamp(0, 1), parts
    if style == "clay":
        return _clay(paint(look, points, parts), points, normals).clamp(0, 1), parts
    if style == "marble":
        return _marble(look, paint(look, points, parts), points, normals, parts).clamp(0, 1), parts
    if style == "cel":
        return _cel(paint(look, points, parts), normals).clamp(0, 1), parts
    raise StyleAvatarError("unknown style", got=style, expected=", ".join(STYLES))


def _cartoon(color: Tensor, normals: Tensor) -> Float[Tensor, "points 3"]:
    return color * (0.42 + 0.5 * _sky(normals) + 0.3 * _front(normals))[:, None] + 0.1 * _gloss(normals)[:, None]


def _clay(color: Tensor, points: Tensor, normals: Tensor) -> Float[Tensor, "points 3"]:
    """Colours kneaded into one warm mass, matte, with the marks of fingers."""
    muted = 0.62 * color + 0.38 * color.mean(1, keepdim=True) * color.new_tensor((1.0, 0.93, 0.86)) + 0.06
    marks = 1 + 0.05 * symmetric_bumps(points, 17.0) + 0.03 * symmetric_bumps(points, 41.0)
    return muted * marks[:, None] * (0.34 + 0.46 * _sky(normals) + 0.34 * _front(normals))[:, None]


def _marble(look: Look, color: Tensor, points: Tensor, normals: Tensor, parts: Tensor) -> Float[Tensor, "points 3"]:
    """White stone with veins; of the colours only a little of their light and dark stays, as if carved deeper."""
    x, y, z = points.unbind(1)
    wave = torch.sin(y * 2.2 + 3 * torch.sin(z * 1.7 + y) + 2.2 * torch.cos(x * 2.6) + 0.6)
    vein = (1 - wave.abs()).clamp(min=0) ** 6
    whole = color.new_tensor(SKIN_COLORS[look.skin]).mean()
    carved = torch.where(parts == SKIN, (color.mean(1) / whole).clamp(max=1), 0.5 * color.mean(1) + 0.3)
    carved = torch.where(parts == EYE, color.mean(1), carved)
    carved = torch.where((parts == LENS) | (parts == FRAME) | (parts == LASH), 0.0, carved)
    deep = torch.where((parts == EYE) | (parts == LENS) | (parts == FRAME), 0.6, 0.36)
    stone = (0.92 - 0.2 * vein) * (1 - deep + deep * carved)
    light = 0.38 + 0.42 * _sky(normals) + 0.3 * _front(normals)
    return (stone * light)[:, None] * color.new_tensor((1.0, 0.985, 0.955)) + 0.08 * _gloss(normals)[:, None]


def _cel(color: Tensor, normals: Tensor) -> Float[Tensor, "points 3"]:
    """Flat, saturated paint in three bands."""
    light = 0.45 * _sky(normals) + 0.6 * _front(normals)
    band = torch.where(light > 0.62, 1.1, torch.where(light > 0.3, 0.86, 0.58))
    grey = color.mean(1, keepdim=True)
    return (grey + 1.25 * (color - grey)).clamp(0, 1) * band[:, None]


def _sky(normals: Tensor) -> Float[Tensor, "points"]:
    return 0.5 + 0.5 * normals[:, 1]


def _front(normals: Tensor) -> Float[Tensor, "points"]:
    """A soft light before and above the face, and a weaker one behind."""
    before = ((normals @ normals.new_tensor((0.0, 0.5, 0.866)) + 0.3) / 1.3).clamp(0, 1)
    behind = (normals @ normals.new_tensor((0.0, 0.5, -0.866))).clamp(0, 1)
    return torch.maximum(before, 0.5 * behind)


def _gloss(normals: Tensor) -> Float[Tensor, "points"]:
    """Highlights of two lamps, one on each side."""
    lamp = torch.stack([normals[:, 0].abs(), normals[:, 1], normals[:, 2]], 1) @ normals.new_tensor((0.45, 0.7, 0.55))
    return lamp.clamp(0, 1) ** 16


def paint(look: Look, points: Float[Tensor, "points 3"], parts: Int[Tensor, "points"]) -> Float[Tensor, "points 3"]:
    """Colours before light. `parts` has the shirt told apart."""
    hair = points.new_tensor(HAIR_COLORS[look.hair_color])
    color = torch.empty_like(points)
    painters = {
        SKIN: lambda p: _skin(look, p, hair),
        EYE: lambda p: _eye(look, p),
        LASH: lambda p: p.new_tensor(_INK).expand_as(p),
        HAIR: lambda p: _hair(look, p, hair),
        SHIRT: lambda p: _shirt(look, p),
        FRAME: lambda p: p.new_tensor(_GOLD if look.skin in ("brown", "dark") else _INK).expand_as(p),
        LENS: lambda p: p.new_tensor(_INK).expand_as(p),
        ANTENNA: lambda p: _antenna(look, p),
    }
    for part, painter in painters.items():
        here = torch.nonzero(parts == part).squeeze(1)
        if len(here):
            color[here] = painter(points[here])
    return color


def _mix(color: Tensor, share: Float[Tensor, "points"], other: Tensor) -> Float[Tensor, "points 3"]:
    return color + share[:, None] * (other - color)


def _skin(look: Look, points: Tensor, hair: Tensor) -> Float[Tensor, "points 3"]:
    x, y, z = points[:, 0].abs(), points[:, 1], points[:, 2]
    skin = points.new_tensor(SKIN_COLORS[look.skin])
    face = (z > 0.5).float()
    color = skin.expand_as(points)
    color = _mix(color, 0.22 * ramp(6.2 - y, 0.0, 0.25), 0.5 * skin)
    if look.kind == "human":
        cheek = torch.exp(-(((x - 0.5) / 0.2) ** 2) - ((y - 6.9) / 0.16) ** 2) * face
        color = _mix(color, 0.3 * cheek, skin * points.new_tensor((1.0, 0.55, 0.5)))
    rouge = (0.78, 0.16, 0.2) if look.gender == "woman" else (0.62, 0.28, 0.24)
    lips = points.new_tensor(rouge) if look.kind == "human" else 0.4 * skin
    color = _mix(color, 0.85 * lips_mask(points), 0.75 * lips + 0.25 * skin)
    if look.smile:
        teeth = ramp(1 - ((x / 0.23) ** 2 + ((y - 6.615) / 0.045) ** 2), 0.0, 0.4) * (z > 1.2)
        color = _mix(color, teeth, points.new_tensor((0.97, 0.97, 0.95)))
    socket = torch.exp(-(((x - 0.31) / 0.24) ** 4) - ((y - 7.3) / 0.15) ** 4) * face
    color = _mix(color, 0.3 * socket, 0.5 * skin)
    nostril = torch.exp(-(((x - 0.1) / 0.06) ** 2) - ((y - 6.83) / 0.035) ** 2) * (z > 1.3)
    color = _mix(color, 0.6 * nostril, 0.35 * skin)
    if look.hair not in ("bald", "mohawk"):
        color = _mix(color, 0.95 * scalp_mask(points), hair)
    if look.beard != "none":
        color = _mix(color, beard_mask(points, look.beard), hair * _strands(points, 0.12))
    if look.kind == "human":
        brow = 0.75 * hair if look.hair_color != "black" else points.new_tensor(_INK)
        color = _mix(color, 0.95 * brow_mask(points), brow)
    return color


def _eye(look: Look, points: Tensor) -> Float[Tensor, "points 3"]:
    """White, iris, pupil, and a painted glint."""
    x, y, z = points[:, 0].abs(), points[:, 1], points[:, 2]
    radius = ((x - 0.3) ** 2 + (y - 7.28) ** 2).sqrt()
    front = (z > 1.25).float()
    iris = points.new_tensor(EYE_COLORS[look.eyes])
    color = points.new_tensor((0.97, 0.97, 0.97)).expand_as(points)
    color = _mix(color, ramp(0.098 - radius, 0.0, 0.01) * front, 0.45 * iris)
    color = _mix(color, ramp(0.086 - radius, 0.0, 0.01) * front, iris)
    color = _mix(color, ramp(0.045 - radius, 0.0, 0.008) * front, points.new_tensor(_INK))
    glint = ((x - 0.325) ** 2 + (y - 7.32) ** 2).sqrt()
    return _mix(color, ramp(0.024 - glint, 0.0, 0.008) * front, points.new_tensor((1.0, 1.0, 1.0)))


def _strands(points: Tensor, depth: float) -> Float[Tensor, "points 1"]:
    """Light and dark along locks of hair."""
    around = torch.atan2(points[:, 0].abs(), points[:, 2] - 0.2)
    return (1 + depth * torch.sin(18 * around + 4 * torch.sin(points[:, 1] * 3)))[:, None]


def _hair(look: Look, points: Tensor, hair: Tensor) -> Float[Tensor, "points 3"]:
    if look.hair == "afro":
        return (hair + 0.02) * (1 + 0.22 * symmetric_bumps(points, 15.0))[:, None]
    return (hair + 0.02) * _strands(points, 0.16)


def _shirt(look: Look, points: Tensor) -> Float[Tensor, "points 3"]:
    """Plain cloth with a darker collar."""
    color = points.new_tensor(SHIRT_COLORS[look.shirt_color]).expand_as(points)
    from_neck = (points[:, 0] ** 2 + (0.8 * (points[:, 2] - 0.05)) ** 2).sqrt()
    collar = ramp(0.86 - from_neck, 0.0, 0.03) * (points[:, 1] > 5.3)
    return _mix(color, 0.35 * collar, 0.3 * color)


def _antenna(look: Look, points: Tensor) -> Float[Tensor, "points 3"]:
    skin = points.new_tensor(SKIN_COLORS[look.skin])
    knob = ramp(points[:, 1], 8.68, 8.74)
    return _mix((0.8 * skin).expand_as(points), knob, points.new_tensor(_GOLD))
