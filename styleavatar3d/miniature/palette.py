"""The colours that the words of a look stand for."""

from dataclasses import dataclass

from styleavatar3d.figures.looks import Look

Color = tuple[float, float, float]

SKIN_COLORS: dict[str, Color] = {
    "pale": (0.99, 0.83, 0.74),
    "tan": (0.87, 0.63, 0.44),
    "brown": (0.59, 0.37, 0.23),
    "dark": (0.34, 0.20, 0.14),
    "blue": (0.27, 0.60, 0.95),
    "purple": (0.64, 0.42, 0.90),
    "green": (0.42, 0.66, 0.22),
    "silver": (0.72, 0.76, 0.81),
    "gold": (0.95, 0.72, 0.24),
    "stone": (0.80, 0.78, 0.74),
}
HAIR_COLORS: dict[str, Color] = {
    "black": (0.09, 0.08, 0.10),
    "brown": (0.38, 0.21, 0.10),
    "blonde": (0.96, 0.77, 0.34),
    "red": (0.80, 0.28, 0.07),
    "white": (0.91, 0.91, 0.93),
    "pink": (0.98, 0.45, 0.68),
    "blue": (0.16, 0.34, 0.86),
}
EYE_COLORS: dict[str, Color] = {
    "brown": (0.45, 0.23, 0.07),
    "blue": (0.16, 0.50, 0.96),
    "green": (0.18, 0.66, 0.27),
    "yellow": (1.00, 0.80, 0.08),
}
SHIRT_COLORS: dict[str, Color] = {
    "red": (0.86, 0.13, 0.13),
    "blue": (0.14, 0.33, 0.83),
    "green": (0.12, 0.57, 0.27),
    "yellow": (0.97, 0.80, 0.14),
    "white": (0.93, 0.93, 0.94),
    "black": (0.12, 0.12, 0.14),
    "purple": (0.50, 0.20, 0.70),
}
INK: Color = (0.06, 0.05, 0.07)
GOLD: Color = (0.95, 0.76, 0.24)
_NAVY: Color = (0.13, 0.16, 0.36)


@dataclass(frozen=True)
class Palette:
    """The colours of one look."""

    skin: Color
    hair: Color
    iris: Color
    shirt: Color
    stripe: Color
    lips: Color
    frame: Color
    hat: Color
    knob: Color = GOLD


PLASTER = Palette(
    skin=(0.84, 0.84, 0.84),
    hair=(0.60, 0.60, 0.60),
    iris=(0.42, 0.42, 0.42),
    shirt=(0.70, 0.70, 0.70),
    stripe=(0.92, 0.92, 0.92),
    lips=(0.56, 0.56, 0.56),
    frame=(0.12, 0.12, 0.12),
    hat=(0.50, 0.50, 0.50),
    knob=(0.66, 0.66, 0.66),
)
"""Tones instead of colours: what a sculptor's or draughtsman's material can tell."""


def palette(look: Look) -> Palette:
    """The colours that the words of a look stand for. A statue is of one stone."""
    skin = SKIN_COLORS[look.skin]
    if look.kind == "statue":
        stone = {name: scaled(skin, tone[0] / 0.84) for name, tone in vars(PLASTER).items()}
        return Palette(**stone)
    light_cloth = look.shirt_color in ("white", "yellow")
    dark_skin = look.skin in ("brown", "dark", "blue", "purple")
    return Palette(
        skin=skin,
        hair=HAIR_COLORS[look.hair_color],
        iris=EYE_COLORS[look.eyes],
        shirt=SHIRT_COLORS[look.shirt_color],
        stripe=_NAVY if light_cloth else (0.95, 0.94, 0.92),
        lips=_lips(look, skin),
        frame=GOLD if dark_skin else INK,
        hat=_hat(look),
    )


def scaled(color: Color, factor: float) -> Color:
    """Lighter or darker, at most white."""
    red, green, blue = (min(1.0, factor * channel) for channel in color)
    return red, green, blue


def _lips(look: Look, skin: Color) -> Color:
    if look.kind != "human":
        return scaled(skin, 0.5)
    rouge = (0.84, 0.12, 0.20) if look.gender == "woman" and look.age != "child" else (0.72, 0.33, 0.30)
    depth = 0.45 + 0.55 * skin[0]
    return scaled(rouge, depth)


def _hat(look: Look) -> Color:
    """A hat matches the shirt, but for black and white ones, which would be lost on hair."""
    if look.hat == "brimmed hat":
        return (0.62, 0.43, 0.24) if look.hair_color != "brown" else (0.86, 0.78, 0.62)
    plain = look.shirt_color in ("white", "black") or look.shirt_color == look.hair_color
    return (0.90, 0.45, 0.10) if plain else scaled(SHIRT_COLORS[look.shirt_color], 0.92)
