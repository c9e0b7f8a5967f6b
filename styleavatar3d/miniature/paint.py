"""What is painted on a figure before light falls on it, as functions of template coordinates.

Only |x| is read, so both sides are equal; no camera is known, so every view sees the same paint.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.figures.anatomy import HEAD_CENTRE, NECK_AXIS, below_neckline, ramp, symmetric_bumps
from styleavatar3d.figures.heads import (
    ANTENNA,
    EYE,
    FRAME,
    HAIR,
    HAT,
    LASH,
    LENS,
    METAL,
    MOUTH,
    SHIRT,
    SKIN,
    TEETH,
    TUSK,
)
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.wear import brim
from styleavatar3d.miniature.makeup import Canvas, paint_eye, paint_skin, strands
from styleavatar3d.miniature.palette import GOLD, INK, PLASTER, Color, Palette, scaled

_IVORY: Color = (0.96, 0.92, 0.80)
_TOOTH: Color = (0.98, 0.98, 0.96)
_GUMS: Color = (0.45, 0.10, 0.11)
_STEEL: Color = (0.42, 0.45, 0.50)


def paint(
    look: Look, colors: Palette, points: Float[Tensor, "points 3"], parts: Int[Tensor, "points"]
) -> Float[Tensor, "points 3"]:
    """Colours in [0, 1] before light. `parts` has the shirt told apart."""
    painted = torch.empty_like(points)
    for part, painter in _PAINTERS.items():
        here = torch.nonzero(parts == part).squeeze(1)
        if len(here):
            painted[here] = painter(look, colors, points[here])
    return painted


def _plain(color: Color):
    return lambda look, colors, points: points.new_tensor(color).expand_as(points)


def _hair(look: Look, colors: Palette, points: Tensor) -> Tensor:
    """Strands that run with the cut, and the bright ring that light draws around a crown."""
    hair = points.new_tensor(colors.hair) + 0.02
    if look.hair in ("afro", "curly", "buzz cut"):
        fine = {"afro": 15.0, "curly": 11.0, "buzz cut": 47.0}[look.hair]
        lumps = 0.6 * symmetric_bumps(points, fine) + 0.4 * symmetric_bumps(points, 2.1 * fine)
        return hair * (1 + (0.12 if look.hair == "buzz cut" else 0.26) * lumps)[:, None]
    streaks = strands(points)
    height = points[:, 1] + 0.1 * streaks
    ring = torch.exp(-(((height - 8.12) / 0.11) ** 2)) * (0.6 + 0.4 * streaks)
    glow = 0.30 * hair + 0.12
    return hair * (1 + 0.17 * streaks)[:, None] + ring[:, None] * glow


def _shirt(look: Look, colors: Palette, points: Tensor) -> Tensor:
    """Cloth in one colour or striped, and around the neck what the word says."""
    canvas = Canvas(points, colors.shirt)
    cloth = points.new_tensor(colors.shirt)
    around, below = torch.atan2(canvas.x, canvas.z - NECK_AXIS), below_neckline(points)
    if look.shirt == "striped shirt":
        canvas.lay(ramp(torch.sin((canvas.y + 0.12 * canvas.x) * 21.0), 0.05, 0.35), colors.stripe)
    if look.shirt == "turtleneck":
        roll, ribs = ramp(0.10 - below, 0.0, 0.02), 0.5 + 0.5 * torch.sin(around * 36.0)
        canvas.lay(roll * (0.08 + 0.26 * ribs), 0.3 * cloth)
        canvas.lay(0.7 * torch.exp(-(((below - 0.11) / 0.025) ** 2)), 0.3 * cloth)
    elif look.shirt == "collared shirt":
        _placket(canvas, cloth, around, below)
    else:
        band, ribs = ramp(0.10 - below, 0.0, 0.015), 0.5 + 0.5 * torch.sin(around * 60.0)
        canvas.lay(band * (0.35 + 0.15 * ribs), 0.3 * cloth)
    return canvas.color


def _placket(canvas: Canvas, cloth: Tensor, around: Tensor, below: Tensor) -> None:
    """A paler collar, and a strip with buttons between two seams."""
    lighter = 0.5 * cloth + 0.5
    half = 0.16 * (1 - 0.5 * below.clamp(0, 0.6))
    front = ramp(below, 0.0, 0.04) * ramp(0.5 - around, 0.0, 0.1)
    leaf = ramp(0.14 + 0.17 * torch.exp(-(((around - 0.5) / 0.42) ** 2)) - below, 0.0, 0.015)
    canvas.lay(leaf * ramp(around, 0.08, 0.1), lighter)
    canvas.lay(0.8 * front * torch.exp(-(((around - half) / 0.018) ** 2)), 0.25 * cloth)
    button = (around / 0.05) ** 2 + ((below + 0.04).remainder(0.2) - 0.1).div(0.045) ** 2
    canvas.lay(front * ramp(1.3 - button, 0.0, 0.5), 0.1 + 0.75 * lighter)


def _worn_hat(look: Look, colors: Palette, points: Tensor) -> Tensor:
    """Knitted ribs with a turned-up edge, or felt with a ribbon."""
    canvas = Canvas(points, colors.hat)
    hat = points.new_tensor(colors.hat)
    around = torch.atan2(canvas.x, canvas.z - float(HEAD_CENTRE[2]))
    above = canvas.y - brim(around)
    if look.hat == "beanie":
        ribs, rows = torch.sin(around * 34.0), torch.sin(canvas.y * 60.0)
        canvas.lay(0.20 + 0.16 * ribs + 0.06 * rows, 0.4 * hat)
        canvas.lay(0.30 * ramp(0.38 - above, 0.0, 0.02), 0.6 * hat + 0.4)
        canvas.lay(0.6 * torch.exp(-(((above - 0.40) / 0.025) ** 2)), 0.35 * hat)
        canvas.lay(0.55 * ramp(canvas.y, 8.68, 8.74), 0.5 * hat + 0.5)
        return canvas.color
    canvas.lay(0.08 + 0.08 * symmetric_bumps(points, 31.0), 0.5 * hat)
    canvas.lay(ramp(above, 0.11, 0.13) * ramp(0.42 - above, 0.0, 0.02), 0.22 * hat)
    return canvas.color


def _lens(look: Look, colors: Palette, points: Tensor) -> Tensor:
    """Dark glass with a pale slanting reflection."""
    canvas = Canvas(points, INK)
    slant = canvas.x - 0.6 * (canvas.y - 7.27)
    canvas.lay(0.45 * torch.exp(-(((slant - 0.26) / 0.035) ** 2)), (0.75, 0.80, 0.88))
    return canvas.color


def _antenna(look: Look, colors: Palette, points: Tensor) -> Tensor:
    canvas = Canvas(points, scaled(colors.skin, 0.8))
    canvas.lay(ramp(points[:, 1], 8.68, 8.74), colors.knob)
    return canvas.color


def _metal(look: Look, colors: Palette, points: Tensor) -> Tensor:
    """Bolts and discs: of the other metal than the head."""
    other = GOLD if look.skin == "silver" else _STEEL
    return points.new_tensor(other if colors is not PLASTER else (0.5, 0.5, 0.5)).expand_as(points)


def _mouth(look: Look, colors: Palette, points: Tensor) -> Tensor:
    """The tongue lies before the dark of the throat."""
    canvas = Canvas(points, scaled(_GUMS, 0.55))
    canvas.lay(0.8 * ramp(canvas.z, 1.1, 1.4) * ramp(6.56 - canvas.y, -0.03, 0.03), (0.80, 0.30, 0.32))
    grey = canvas.color.mean(1, keepdim=True)
    return canvas.color if colors is not PLASTER else grey.expand_as(points)


def _lash(look: Look, colors: Palette, points: Tensor) -> Tensor:
    """Ink above; below the eye they hardly show."""
    canvas = Canvas(points, INK)
    canvas.lay(0.72 * ramp(7.29 - canvas.y, 0.0, 0.02), scaled(colors.skin, 0.75))
    return canvas.color


def _frame(look: Look, colors: Palette, points: Tensor) -> Tensor:
    return points.new_tensor(colors.frame).expand_as(points)


_PAINTERS = {
    SKIN: paint_skin,
    EYE: paint_eye,
    LASH: _lash,
    HAIR: _hair,
    SHIRT: _shirt,
    FRAME: _frame,
    LENS: _lens,
    ANTENNA: _antenna,
    TEETH: _plain(_TOOTH),
    MOUTH: _mouth,
    HAT: _worn_hat,
    TUSK: _plain(_IVORY),
    METAL: _metal,
}
