"""Ten art styles, as shaders of one kind of surface.

Paint is a function of template coordinates, and lights stand still around the figure, mirrored on both sides: a point
has one colour whatever camera sees it, so views agree in three dimensions. The ink of "cel" is the one exception.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import ramp, shirt_mask, symmetric_bumps
from styleavatar3d.figures.heads import EYE, FRAME, HAIR, HAT, LASH, LENS, METAL, MOUTH, SHIRT, SKIN, TEETH, Bust
from styleavatar3d.figures.looks import STYLES
from styleavatar3d.figures.rasterize import GBuffer
from styleavatar3d.miniature.facets import cube_faces, facet_normals
from styleavatar3d.miniature.makeup import strands
from styleavatar3d.miniature.paint import paint
from styleavatar3d.miniature.palette import PLASTER, palette

VIEW_DEPENDENT_STYLES = ("cel",)
"""Styles whose pictures hold something that belongs to the picture and not to the figure: an outline."""


_STEP, _FOLD = 0.03, 0.25
"""Ink is drawn where depth jumps by this much (world units), and where normals a pixel apart have a smaller cosine."""


@dataclass(frozen=True)
class Surface:
    """Visible points of a figure: template coordinates, unit world normals, part ids with the shirt told apart."""

    figure: Bust
    points: Float[Tensor, "points 3"]
    normals: Float[Tensor, "points 3"]
    parts: Int[Tensor, "points"]

    def painted(self, points: Tensor | None = None) -> Float[Tensor, "points 3"]:
        """Colours in [0, 1] before light; as if the points lay elsewhere, for styles that move their paint."""
        look = self.figure.look
        return paint(look, palette(look), self.points if points is None else points, self.parts)

    def toned(self) -> Float[Tensor, "points"]:
        """Light and dark of the paint where the material has no colours."""
        return paint(self.figure.look, PLASTER, self.points, self.parts)[:, 0]

    def are(self, *parts: int) -> Float[Tensor, "points"]:
        """1 at points of these parts."""
        found = self.parts == parts[0]
        for part in parts[1:]:
            found = found | (self.parts == part)
        return found.to(self.points)

    def metal(self) -> Float[Tensor, "points"]:
        """1 where the thing itself is of metal, whatever the style."""
        return self.are(SKIN, METAL) if self.figure.look.kind == "robot" else self.are(METAL)


def shade(
    figure: Bust,
    style: str,
    points: Float[Tensor, "points 3"],
    normals: Float[Tensor, "points 3"],
    parts: Int[Tensor, "points"],
) -> tuple[Float[Tensor, "points 3"], Int[Tensor, "points"]]:
    """Colours in [0, 1] of surface points (template coordinates, world normals), and parts, the shirt told apart.

    Raises StyleAvatarError for a style that is not one of `looks.STYLES`.
    """
    if style not in _SHADERS:
        raise StyleAvatarError("unknown style", got=style, expected=", ".join(STYLES))
    parts = torch.where((parts == SKIN) & (shirt_mask(points) > 0.5), SHIRT, parts)
    return _SHADERS[style](Surface(figure, points, normals, parts)).clamp(0, 1), parts


def outline(
    buffer: GBuffer, normals: Float[Tensor, "covered 3"], parts: Int[Tensor, "covered"]
) -> Float[Tensor, "covered"]:
    """1 where ink is drawn: on the nearer side of steps in depth, between parts, and in sharp folds.

    The line is as wide as 1/64 of the picture's side, at least one pixel of the buffer.
    """
    depth, part, normal = buffer.depth(), buffer.image(parts, -1), buffer.image(normals, 0.0)
    for drawn_already in (LASH, LENS, EYE, TEETH, MOUTH):
        part = torch.where(part == drawn_already, SKIN, part)
    ink = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (1, 2):
        for reach in range(1, max(1, buffer.size // 128) + 1):
            one, other = (slice(0, buffer.size - reach), slice(reach, None))
            first, second = ((slice(None),) * axis + (side,) for side in (one, other))
            step = depth[second] - depth[first]
            ink[first] |= step > _STEP
            ink[second] |= step < -_STEP
            if reach == 1:
                both = (part[first] >= 0) & (part[second] >= 0)
                fold = (normal[first] * normal[second]).sum(-1) < _FOLD
                ink[first] |= both & (fold | (part[first] > part[second]))
                ink[second] |= both & (part[first] < part[second])
    return ink.view(-1)[buffer.pixel].to(normals)


def _sky(normals: Tensor) -> Float[Tensor, "points"]:
    return 0.5 + 0.5 * normals[:, 1]


def _key(normals: Tensor) -> Float[Tensor, "points"]:
    """A soft lamp before and above the face, and a weaker one behind."""
    before = ((normals @ normals.new_tensor((0.0, 0.5, 0.866)) + 0.3) / 1.3).clamp(0, 1)
    behind = (normals @ normals.new_tensor((0.0, 0.6, -0.8))).clamp(0, 1)
    return torch.maximum(before, 0.62 * behind)


def _lamps(normals: Tensor, toward: tuple[float, float, float]) -> Float[Tensor, "points"]:
    """Cosine to the nearer of two lamps, one on each side."""
    x, y, z = toward
    return (x * normals[:, 0].abs() + y * normals[:, 1] + z * normals[:, 2]).clamp(0, 1)


def _gloss(normals: Tensor, sharpness: int = 16) -> Float[Tensor, "points"]:
    """Highlights of two lamps before the figure, and of two behind it."""
    before = _lamps(normals, (0.42, 0.68, 0.60))
    return torch.maximum(before, 0.8 * _lamps(normals, (0.38, 0.68, -0.63))) ** sharpness


def _rim(normals: Tensor) -> Float[Tensor, "points"]:
    """Light that grazes both sides."""
    return _lamps(normals, (0.90, 0.15, -0.40)) ** 3


def _chrome(normals: Tensor) -> Float[Tensor, "points"]:
    """The studio mirrored in metal: a pale floor, a dark horizon, a bright sky with a strip of light."""
    y = normals[:, 1] + 0.25 * normals[:, 2].abs()
    strip = torch.exp(-(((y - 0.62) / 0.10) ** 2))
    return 0.66 - 0.26 * torch.exp(-(((y - 0.05) / 0.22) ** 2)) + 0.22 * ramp(y, 0.15, 0.6) + 0.40 * strip


def _tinted(share: Tensor, tint: tuple[float, float, float]) -> Float[Tensor, "points 3"]:
    return share[:, None] * share.new_tensor(tint)


def _saturated(color: Tensor, by: float) -> Tensor:
    grey = color.mean(1, keepdim=True)
    return (grey + by * (color - grey)).clamp(0, 1)


def _metallic(surface: Surface, color: Tensor) -> Tensor:
    """Reflections on what is of metal."""
    shine = surface.metal()
    return color * (1 + shine * (0.9 * _chrome(surface.normals) - 0.66))[:, None]


def _cartoon(surface: Surface) -> Float[Tensor, "points 3"]:
    """An animated film: a warm key, a cool sky, light that bleeds through skin, a soft rim."""
    normals, color = surface.normals, surface.painted()
    key, sky = _key(normals), _sky(normals)
    light = 0.30 + _tinted(0.62 * key, (1.05, 1.0, 0.93)) + _tinted(0.30 * sky, (0.92, 0.98, 1.1))
    bleeding = surface.are(SKIN) * (1 - surface.metal()) * 4 * key * (1 - key)
    light = light + _tinted(0.10 * bleeding, (1.0, 0.35, 0.25))
    shiny = 0.10 + 0.22 * surface.are(HAIR) + 0.5 * surface.are(EYE, TEETH, FRAME)
    lit = _metallic(surface, color) * light
    return lit + _tinted(0.16 * _rim(normals), (0.9, 0.95, 1.0)) + (shiny * _gloss(normals))[:, None]


def _cel(surface: Surface) -> Float[Tensor, "points 3"]:
    """Flat, saturated paint in three bands, shadows turned to blue."""
    light = 0.45 * _sky(surface.normals) + 0.6 * _key(surface.normals)
    light = light + surface.metal() * (0.7 * _chrome(surface.normals) - 0.45)
    lit, dim = (light > 0.70)[:, None], (light > 0.38)[:, None]
    tone = light.new_tensor
    band = torch.where(lit, tone((1.12, 1.12, 1.08)), torch.where(dim, tone((0.90,) * 3), tone((0.58, 0.56, 0.70))))
    glint = (surface.are(HAIR, HAT, METAL) * (_gloss(surface.normals, 8) > 0.72))[:, None]
    return _saturated(surface.painted(), 1.3) * band + 0.16 * glint


def _clay(surface: Surface) -> Float[Tensor, "points 3"]:
    """Colours kneaded into one warm mass, matte, with the dents of thumbs and the marks of fingers."""
    points = surface.points
    shifts = points.new_tensor([[0.0, 0.7 * i, 0.5 * i] for i in range(3)])
    dents = torch.stack([symmetric_bumps(points + shift, 7.0) for shift in shifts], 1)
    side = torch.where(points[:, :1] < 0, -1.0, 1.0)
    dents = torch.cat([dents[:, :1] * side, dents[:, 1:]], 1)
    calm = 1 - 0.7 * surface.are(EYE, TEETH, FRAME, LENS)
    normals = torch.nn.functional.normalize(surface.normals + 0.55 * calm[:, None] * dents, dim=1)
    color = surface.painted()
    muted = 0.66 * color + 0.34 * color.mean(1, keepdim=True) * color.new_tensor((1.0, 0.90, 0.80)) + 0.05
    whorl = torch.sin(52.0 * (points[:, 1] + 0.25 * dents[:, 1])) * ramp(dents[:, 2], 0.3, 0.8)
    light = 0.30 + 0.42 * _sky(normals) + 0.44 * _key(normals)
    return muted * (light * (1 + 0.07 * calm * whorl))[:, None]


def _veins(points: Tensor) -> Float[Tensor, "points"]:
    """Where dark veins run through stone: thin lines of a folded field, wide and narrow ones."""
    x, y, z = points[:, 0].abs(), points[:, 1], points[:, 2]
    fold = torch.sin(y * 2.2 + 3 * torch.sin(z * 1.7 + y) + 2.2 * torch.cos(x * 2.6) + 0.6)
    fine = torch.sin(y * 5.1 - 2 * torch.sin(z * 3.1) + 3.0 * torch.cos(x * 3.3 + 1.5 * fold))
    return (1 - fold.abs()) ** 6 + 0.5 * (1 - fine.abs()) ** 9


def _marble(surface: Surface) -> Float[Tensor, "points 3"]:
    """Polished white stone with grey veins; of the paint its light and dark stays, as if carved deeper."""
    normals, tone = surface.normals, surface.toned()
    stone = (0.30 + 0.83 * tone) * (1 - 0.32 * _veins(surface.points))
    light = 0.36 + 0.36 * _sky(normals) + 0.34 * _key(normals)
    return _tinted(stone * light, (1.0, 0.985, 0.955)) + (0.16 * _gloss(normals, 24))[:, None]


def _bronze(surface: Surface) -> Float[Tensor, "points 3"]:
    """Dark metal, bright where hands have polished it, green where rain has stood."""
    normals, tone = surface.normals, surface.toned()
    level = tone * (0.10 + 0.34 * _key(normals) + 0.36 * _chrome(normals))
    dark, middle, bright = (tone.new_tensor(c) for c in ((0.09, 0.045, 0.03), (0.55, 0.30, 0.12), (1.0, 0.76, 0.42)))
    low, high = ramp(level, 0.05, 0.48)[:, None], ramp(level, 0.48, 0.95)[:, None]
    metal = dark + low * (middle - dark) + high * (bright - middle)
    streaks = symmetric_bumps(surface.points * surface.points.new_tensor((1.0, 0.35, 1.0)), 6.0)
    spots = streaks + 0.45 * symmetric_bumps(surface.points, 19.0)
    patina = ramp(spots, 0.35, 0.75) * ramp(0.62 - _key(normals), 0.0, 0.3)
    metal = metal + (0.55 * patina)[:, None] * (_tinted(0.35 + 0.6 * level, (0.42, 0.78, 0.66)) - metal)
    return metal + _tinted(0.55 * tone * _gloss(normals, 20), (1.0, 0.86, 0.6))


def _low_poly(surface: Surface) -> Float[Tensor, "points 3"]:
    """Flat facets, each under its own light."""
    normals, chance = facet_normals(surface.figure, surface.points, surface.normals, surface.parts)
    light = 0.42 + 0.30 * _sky(normals) + 0.42 * _key(normals) + 0.20 * _rim(normals)
    plain = surface.are(EYE, TEETH, LENS, FRAME, LASH)
    light = light * (1 + 0.13 * (1 - plain) * chance)
    return _saturated(_metallic(surface, surface.painted()), 1.18) * light[:, None]


def _voxel(surface: Surface) -> Float[Tensor, "points 3"]:
    """Little cubes, each in one colour, under light from three directions."""
    centres, normals, seam, chance = cube_faces(surface.points, surface.normals, 0.18)
    fine = ((surface.points / 0.045).floor() + 0.5) * 0.045
    small = surface.are(EYE, TEETH) + surface.are(SKIN) * (surface.points[:, 2] > 0.9)
    color = surface.painted(torch.where((small > 0)[:, None], fine, centres))
    up, side, front = (normals[:, 1], normals[:, 0].abs(), normals[:, 2])
    light = 0.80 + 0.30 * up.clamp(min=0) - 0.34 * (-up).clamp(min=0) + 0.18 * front.clamp(min=0) - 0.16 * side
    light = light - 0.06 * (-front).clamp(min=0)
    return _saturated(_metallic(surface, color), 1.1) * (light * (1 - 0.16 * seam) * (1 + 0.06 * chance))[:, None]


def _watercolour(surface: Surface) -> Float[Tensor, "points 3"]:
    """Washes over paper: edges that wander and dry darker, pigment that settles in the grain, lights left white."""
    points, normals = surface.points, surface.normals
    blot, grain = symmetric_bumps(points, 4.3), symmetric_bumps(points, 57.0)
    calm = surface.are(EYE, TEETH, LENS, FRAME)
    wander = (1 - calm) * 0.03 * symmetric_bumps(points, 13.0)
    moved = points + wander[:, None] * points.new_tensor((0.0, 1.0, 1.0))
    color = surface.painted(moved).clamp(min=0.03)
    light = 0.62 * _key(normals) + 0.38 * _sky(normals) + 0.07 * symmetric_bumps(points, 9.0)
    first, second = ramp(0.62 - light, 0.0, 0.05), ramp(0.36 - light, 0.0, 0.05)
    tide = torch.exp(-(((light - 0.60) / 0.025) ** 2)) + torch.exp(-(((light - 0.345) / 0.025) ** 2))
    dry = ramp(0.10 - (blot + 0.35).abs(), 0.0, 0.06)
    density = 0.52 + 0.20 * blot + 0.34 * first + 0.40 * second + 0.30 * tide + 0.22 * dry + 0.14 * grain
    density = density * (1 - 0.5 * ramp(light, 0.84, 0.92)) * (1 - calm) + 0.9 * calm
    cool = 1 - _tinted(0.10 * first + 0.10 * second, (1.0, 0.75, 0.1))
    return color ** density[:, None] * cool * points.new_tensor((0.985, 0.970, 0.935))


def _toy(surface: Surface) -> Float[Tensor, "points 3"]:
    """Moulded plastic: each part in one bright colour, hard highlights, a rim of light."""
    normals, color = surface.normals, surface.painted()
    moulded = surface.are(HAIR)[:, None]
    color = color + 0.75 * moulded * (color.new_tensor(palette(surface.figure.look).hair) - color)
    light = 0.46 + 0.40 * _key(normals) + 0.22 * _sky(normals)
    lamp = torch.maximum(_lamps(normals, (0.42, 0.62, 0.66)), _lamps(normals, (0.36, 0.70, -0.62)))
    window = ramp(lamp, 0.976, 0.984) * 0.55 + 0.16 * lamp**12
    edge = 0.40 * _rim(normals)
    lit = _metallic(surface, _saturated(color, 1.4) ** 1.15) * light[:, None]
    return lit + _tinted(edge, (0.75, 0.88, 1.0)) + window[:, None]


def _pencil(surface: Surface) -> Float[Tensor, "points 3"]:
    """Graphite on white paper: strokes one way in half shade, across them in shade, smudged where it is darkest."""
    points, normals = surface.points, surface.normals
    x, y, z = points[:, 0].abs(), points[:, 1], points[:, 2]
    along = torch.where(surface.are(HAIR) > 0, 9.0 * strands(points), 88.0 * (0.85 * x - 0.55 * y))
    wobble = 1.6 * symmetric_bumps(points, 5.0)
    tone = surface.toned() ** 1.4 * (0.40 + 0.50 * _key(normals) + 0.30 * _sky(normals))
    shade = ramp(0.86 - tone, 0.0, 0.80)
    first = 0.5 + 0.5 * torch.sin(along + wobble)
    second = 0.5 + 0.5 * torch.sin(91.0 * (0.45 * x + y + 0.4 * z) - wobble)
    strokes = 0.31 * ramp(shade, 0.04, 0.45) * ramp(first, 0.9 - shade, 1.2 - shade)
    strokes = strokes + 0.28 * ramp(shade, 0.4, 0.65) * ramp(second, 0.9 - 0.8 * shade, 1.2 - 0.8 * shade)
    grey = 0.97 - (strokes + 0.62 * shade**1.4).clamp(0, 0.90) + 0.025 * symmetric_bumps(points, 61.0)
    return _tinted(grey, (1.0, 0.995, 0.985))


_SHADERS: dict[str, Callable[[Surface], Tensor]] = {
    "cartoon": _cartoon,
    "cel": _cel,
    "clay": _clay,
    "marble": _marble,
    "bronze": _bronze,
    "low-poly": _low_poly,
    "voxel": _voxel,
    "watercolour": _watercolour,
    "toy": _toy,
    "pencil": _pencil,
}
