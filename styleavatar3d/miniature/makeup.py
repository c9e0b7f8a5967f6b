"""Faces, painted: complexion, brows, lips, beards, the marks of age and gender, and eyes, in template coordinates."""

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.figures.anatomy import beard_mask, ramp, scalp_mask, symmetric_bumps
from styleavatar3d.figures.looks import Look
from styleavatar3d.miniature.palette import INK, Palette

_EYE_X, _EYE_Y = 0.318, 7.284
"""Middle of the opening between the lids; it is 0.23 wide and 0.1 high on the template."""
_MOUTH_Y = 6.611
"""Height of the line between closed lips."""


class Canvas:
    """Points being painted: their colours, and where they are. `x` is the distance from the plane of symmetry."""

    def __init__(self, points: Float[Tensor, "points 3"], ground: tuple[float, float, float] | Tensor):
        self.x, self.y, self.z = points[:, 0].abs(), points[:, 1], points[:, 2]
        self.color = torch.as_tensor(ground).to(points).expand_as(points)

    def lay(self, share: Float[Tensor, "points"], pigment: tuple[float, float, float] | Tensor) -> None:
        """Cover with `pigment` where `share` is 1, let the ground through where it is less."""
        self.color = torch.lerp(self.color, torch.as_tensor(pigment).to(self.color), share[:, None])


def spot(x: Tensor, y: Tensor, at: tuple[float, float], radius: tuple[float, float]) -> Float[Tensor, "points"]:
    """A soft ellipse."""
    return torch.exp(-(((x - at[0]) / radius[0]) ** 2) - ((y - at[1]) / radius[1]) ** 2)


def strands(points: Float[Tensor, "points 3"], fineness: float = 1.0) -> Float[Tensor, "points"]:
    """Locks of hair in [-1, 1]: streaks of constant azimuth, of three widths, that wander a little."""
    around = fineness * torch.atan2(points[:, 0].abs(), points[:, 2] - 0.2)
    wander = 0.35 * torch.sin(1.9 * points[:, 1])
    wide, fine = torch.sin(11 * around + 3 * wander), torch.sin(29 * around + 5 * wander + 1)
    return 0.45 * wide + 0.35 * fine + 0.2 * torch.sin(61 * around + 2)


def paint_skin(look: Look, colors: Palette, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Skin, stone or metal, with a face on it."""
    canvas = Canvas(points, colors.skin)
    skin, hair = points.new_tensor(colors.skin), points.new_tensor(colors.hair)
    canvas.lay(0.25 * ramp(6.25 - canvas.y, 0.0, 0.3), 0.45 * skin)
    if look.kind == "robot":
        _panels(canvas, skin)
    if look.hair not in ("bald", "mohawk"):
        root = 0.75 * hair + (0.25 * skin if look.hair == "buzz cut" else 0.1 * hair)
        canvas.lay(0.95 * scalp_mask(points), root)
    here = torch.nonzero((canvas.z > 0.45) & (canvas.y > 5.9)).squeeze(1)
    face = Canvas(points[here], canvas.color[here])
    _features(look, colors, face, points[here], skin, hair)
    canvas.color = canvas.color.index_put((here,), face.color)
    return canvas.color


def _features(look: Look, colors: Palette, face: Canvas, points: Tensor, skin: Tensor, hair: Tensor) -> None:
    if look.kind == "human":
        _complexion(look, face, skin)
    x, y = face.x, face.y
    front = ramp(face.z, 0.9, 1.0)
    face.lay(0.65 * spot(x, y, (0.1, 6.835), (0.055, 0.03)) * ramp(face.z, 1.25, 1.35), 0.3 * skin)
    face.lay(0.22 * spot(x, y, (0.0, 6.49), (0.16, 0.035)) * front, 0.45 * skin)
    if look.age == "old" and look.kind == "human":
        _wrinkles(face, skin)
    _lips(look, colors, face)
    if look.beard != "none":
        grain = strands(points[:, [0, 1, 2]] * points.new_tensor((1.0, 0.4, 1.0)), 1.6)
        face.lay(beard_mask(points, look.beard), 0.92 * hair * (1 + 0.16 * grain)[:, None])
    _sockets(look, colors, face, skin)
    if look.kind != "alien":
        _brows(look, face, skin, hair)


def _complexion(look: Look, face: Canvas, skin: Tensor) -> None:
    """Blood under the cheeks, nose and lids; stubble, rouge and freckles."""
    x, y = face.x, face.y
    front = ramp(face.z, 0.7, 0.9)
    blush = skin * skin.new_tensor((1.0, 0.52, 0.50))
    strength = {"child": 0.62, "young": 0.42, "old": 0.34}[look.age] * (1.0 if look.gender == "woman" else 0.75)
    face.lay(strength * spot(x, y, (0.50, 6.93), (0.19, 0.15)) * front, blush)
    face.lay(0.3 * spot(x, y, (0.0, 6.92), (0.15, 0.10)) * ramp(face.z, 1.45, 1.6), blush)
    if look.gender == "man" and look.age != "child":
        jaw = ramp(6.78 - y + 0.25 * x, 0.0, 0.2) * ramp(y, 6.05, 6.2) * ramp(face.z, 0.45, 0.7)
        face.lay(0.16 * jaw, skin * skin.new_tensor((0.45, 0.48, 0.55)))
    if look.age == "child":
        dots = symmetric_bumps(torch.stack([x, y, face.z], 1), 42.0)
        band = spot(x, y, (0.3, 6.98), (0.28, 0.09)) * front
        face.lay(0.6 * ramp(dots, 0.45, 0.6) * ramp(band, 0.35, 0.6), skin * skin.new_tensor((0.66, 0.48, 0.38)))


def _wrinkles(face: Canvas, skin: Tensor) -> None:
    """Furrows across the forehead, from the nose to the mouth, under and beside the eyes."""
    x, y = face.x, face.y
    crease = 0.42 * skin
    furrow = y - 7.93 + 0.05 * torch.cos(5 * x)
    lines = torch.exp(-((torch.sin(furrow * 26.0) / 0.30) ** 2)) * ramp(0.19 - (y - 7.90).abs(), 0.0, 0.04)
    face.lay(0.5 * lines * ramp(0.52 - x, 0.0, 0.16), crease)
    fold = x - (0.17 + 0.62 * (6.93 - y) - 0.25 * (6.93 - y) ** 2)
    face.lay(0.62 * torch.exp(-((fold / 0.024) ** 2)) * ramp(y, 6.50, 6.58) * ramp(6.96 - y, 0.0, 0.06), crease)
    bag = ((x - _EYE_X) / 0.20) ** 2 + ((y - 7.255) / 0.125) ** 2
    face.lay(0.45 * torch.exp(-(((bag - 1) / 0.16) ** 2)) * ramp(7.22 - y, 0.0, 0.05), crease)
    crow = torch.exp(-((torch.sin((y - 7.26) * 34.0 - (x - 0.5) * 3.0) / 0.35) ** 2))
    face.lay(0.4 * crow * spot(x, y, (0.60, 7.26), (0.07, 0.10)), crease)


def _lips(look: Look, colors: Palette, face: Canvas) -> None:
    """A bow above, a fuller lip below, and the line between them."""
    x, y = face.x, face.y
    front = ramp(face.z, 1.15, 1.2)
    woman = look.gender == "woman" and look.kind == "human"
    full = 1.18 if woman else (0.82 if look.gender == "man" else 1.0)
    across = (1 - (x / 0.285) ** 2).clamp(min=0)
    bow = 0.092 * across**0.8 - 0.02 * torch.exp(-((x / 0.05) ** 2))
    upper = ramp(_MOUTH_Y + full * bow - y, -0.008, 0.012) * ramp(y, _MOUTH_Y - 0.02, _MOUTH_Y)
    lower = ramp(y - _MOUTH_Y + full * 0.098 * across**0.6, -0.008, 0.014) * ramp(_MOUTH_Y - y, -0.01, 0.01)
    inside = ramp(0.285 - x, 0.0, 0.02) * front
    lips = face.color.new_tensor(colors.lips)
    face.lay(0.9 * upper * inside, 0.86 * lips)
    face.lay(0.9 * lower * inside, lips)
    shine = spot(x, y, (0.07, _MOUTH_Y - 0.05), (0.08, 0.018)) * front
    face.lay((0.4 if woman else 0.18) * shine, 0.4 * lips + 0.6)
    corner = 0.30 if look.smile else 0.285
    line = torch.exp(-(((y - _MOUTH_Y) / 0.016) ** 2)) * ramp(corner - x, 0.0, 0.02) * front
    face.lay(0.9 * line, 0.28 * lips)


def _sockets(look: Look, colors: Palette, face: Canvas, skin: Tensor) -> None:
    """The shade around the eyes, the dark edge of the upper lid, liner and shadow for women, a robot's glow."""
    x, y = face.x, face.y
    front = ramp(face.z, 0.9, 1.0)
    if look.kind == "robot":
        ring = (((x - _EYE_X) / 0.17) ** 2 + ((y - _EYE_Y) / 0.105) ** 2).sqrt()
        face.lay(0.75 * ramp(1.04 - ring, 0.0, 0.10) * front, 0.25 * skin)
        return
    depth = {"orc": 0.55, "alien": 0.4}.get(look.kind, 0.24)
    shade = torch.exp(-(((x - 0.31) / 0.24) ** 4) - ((y - 7.31) / 0.16) ** 4) * front
    face.lay(depth * shade, 0.5 * skin)
    opening = (((x - _EYE_X) / 0.128) ** 2 + ((y - _EYE_Y) / 0.060) ** 2).sqrt()
    made_up = look.gender == "woman" and look.kind == "human" and look.age != "child"
    if made_up:
        lid = ramp(opening, 0.9, 1.0) * ramp(1.8 - opening, 0.0, 0.6) * ramp(y, _EYE_Y, _EYE_Y + 0.04)
        face.lay(0.45 * lid, 0.35 * skin + skin.new_tensor((0.22, 0.08, 0.20)))
    reach = 1.30 if made_up else 1.16
    above = ramp(y - _EYE_Y - 0.05 * (x - _EYE_X), 0.0, 0.02)
    edge = ramp(opening, 0.85, 0.95) * ramp(reach - opening, 0.0, 0.08) * above
    face.lay((0.95 if made_up else 0.8) * edge * front, INK if made_up else 0.22 * skin)
    lower = ramp(opening, 0.9, 1.0) * ramp(1.12 - opening, 0.0, 0.08) * ramp(_EYE_Y - y, 0.0, 0.03)
    face.lay(0.45 * lower * front, 0.3 * skin)
    if made_up:
        wing = ramp(0.014 - (y - _EYE_Y - 0.012 - 0.45 * (x - 0.44)).abs(), 0.0, 0.007) * ramp(x, 0.43, 0.44)
        face.lay(0.95 * wing * ramp(0.505 - x, 0.0, 0.03) * front, INK)


def _brows(look: Look, face: Canvas, skin: Tensor, hair: Tensor) -> None:
    """Straight and thick, arched and thin, soft, bushy, or one dark ridge: they tell gender, age and kind."""
    x, y = face.x, face.y
    man, child, old = look.gender == "man", look.age == "child", look.age == "old"
    thick = (0.070 if man else 0.034) * (0.8 if child else 1.0) * (1.2 if old and man else 1.0)
    arch, slope, peak = (0.35, 0.02, 0.0) if man else (0.78, 0.0, -0.25)
    middle = 7.545
    if look.kind == "orc":
        thick, arch, slope, peak, middle = 0.085, 0.1, 0.26, 0.0, 7.50
    if look.kind == "robot":
        thick, arch, slope, peak, middle = 0.045, 0.0, 0.0, 0.0, 7.56
    along = ((x - 0.34) / 0.27).clamp(-1.2, 1.2)
    centre = middle + slope * 0.5 * along - 0.075 * arch * (along - peak) ** 2
    tapered = thick * (1 - 0.45 * ramp(along, 0.0, 1.1))
    brow = ramp(tapered - (y - centre).abs(), -0.006, 0.014) * ramp(1 - along.abs(), 0.0, 0.14)
    pigment = 0.62 * hair
    if look.kind == "robot":
        pigment = 0.3 * skin
    elif look.kind == "statue":
        pigment = 0.72 * skin
    elif float(hair.mean()) > 0.7 and float(skin.mean()) > 0.7:
        pigment = 0.72 * hair if old else 0.55 * hair
    face.lay(0.96 * brow * ramp(face.z, 0.5, 0.6), pigment)


def _panels(canvas: Canvas, skin: Tensor) -> None:
    """Seams between plates, rivets along them, and rings around the neck."""
    x, y, z = canvas.x, canvas.y, canvas.z
    seam = (0.022, 0.28)
    head, face = (y > 6.3).to(y), ramp(z, 0.5, 0.55)
    mask = x - (0.60 - 0.22 * ramp(7.0 - y, 0.0, 0.7))
    lines = [
        (mask, face * ramp(7.95 - y, 0.0, 0.02) * ramp(y, 6.1, 6.15)),
        (y - 7.93, head * ramp(x, 0.0, 0.01) * (z > -2)),
        (x, head * ramp(y, 7.93, 7.95)),
        (z - 0.08, head * ramp(y, 7.5, 7.6) * ramp(7.93 - y, 0.0, 0.02)),
    ]
    for distance, where in lines:
        canvas.lay(0.85 * torch.exp(-((distance / seam[0]) ** 2)) * where, seam[1] * skin)
    rivets = torch.exp(-(((y - 7.80) / 0.035) ** 2)) * ramp(torch.sin(torch.atan2(x, z - 0.2) * 16.0), 0.80, 0.9)
    canvas.lay(0.7 * rivets * head, 0.35 * skin)
    neck = ramp(6.22 - y, 0.0, 0.04) * ramp(0.75 - (x * x + z * z).sqrt(), -0.3, 0.0)
    canvas.lay(0.6 * neck * ramp(torch.sin(y * 38.0), 0.2, 0.6), 0.35 * skin)


def paint_eye(look: Look, colors: Palette, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """White under the shade of the lid, iris with a dark limbus, pupil and a glint; blank in stone, lit in metal."""
    eye = Canvas(points, (0.98, 0.98, 0.98))
    iris = points.new_tensor(colors.iris)
    radius = ((eye.x - _EYE_X) ** 2 + (eye.y - _EYE_Y) ** 2).sqrt()
    front = (eye.z > 1.2).to(radius)
    if look.kind == "statue":
        eye.lay(torch.ones_like(radius), 0.93 * points.new_tensor(colors.skin))
        eye.lay(0.5 * ramp(eye.y, 7.29, 7.345), 0.45 * points.new_tensor(colors.skin))
        return eye.color
    if look.kind == "robot":
        eye.lay(torch.ones_like(radius), 0.16 * iris)
        eye.lay(ramp(0.105 - radius, 0.0, 0.035) * front, iris)
        eye.lay(ramp(0.060 - radius, 0.0, 0.035) * front, 0.25 * iris + 0.75)
        return eye.color
    big = {"alien": 1.3, "orc": 0.85}.get(look.kind, 1.0) * (1.12 if look.age == "child" else 1.0)
    eye.lay(0.35 * ramp(eye.y, 7.30, 7.345), (0.45, 0.48, 0.60))
    eye.lay(ramp(0.075 * big - radius, 0.0, 0.010) * front, 0.28 * iris)
    eye.lay(ramp(0.064 * big - radius, 0.0, 0.010) * front, iris)
    eye.lay(0.55 * spot(eye.x, eye.y, (_EYE_X, _EYE_Y - 0.035 * big), (0.04 * big, 0.022)) * front, 0.45 * iris + 0.55)
    narrow = 2.6 if look.kind == "alien" else 1.0
    pupil = ((narrow * (eye.x - _EYE_X)) ** 2 + ((eye.y - _EYE_Y) / (1.3 if narrow > 1 else 1.0)) ** 2).sqrt()
    eye.lay(ramp(0.037 * big - pupil, 0.0, 0.008) * front, INK)
    glint = ((eye.x - _EYE_X - 0.026) ** 2 + (eye.y - _EYE_Y - 0.024) ** 2).sqrt()
    eye.lay(ramp(0.022 - glint, 0.0, 0.008) * front, (1.0, 1.0, 1.0))
    return eye.color
