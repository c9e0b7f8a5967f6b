"""What a figure looks like, in words: the single source of every attribute the miniature world can name."""

import random
from dataclasses import dataclass

STYLES = ("cartoon", "cel", "clay", "marble", "bronze", "low-poly", "voxel", "watercolour", "toy", "pencil")
COLOURLESS_STYLES = ("marble", "bronze", "pencil")
"""Styles of one material, in which only shapes tell."""
BACKGROUNDS = ("grey", "white", "sunset", "night")
"""Those that a prompt can name. The first is the plain one that everything is drawn on unless another is asked for."""

HUMAN_SKINS = ("pale", "tan", "brown", "dark")
SKINS = {
    "human": HUMAN_SKINS,
    "alien": ("blue", "purple"),
    "orc": ("green",),
    "robot": ("silver", "gold"),
    "statue": ("stone",),
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": tuple(SKINS),
    "gender": ("man", "woman"),
    "age": ("child", "young", "old"),
    "skin": tuple(skin for skins in SKINS.values() for skin in skins),
    "hair": (
        "bald",
        "buzz cut",
        "short",
        "quiff",
        "bob",
        "long",
        "ponytail",
        "bun",
        "afro",
        "mohawk",
        "curly",
        "braids",
    ),
    "hair_color": ("black", "brown", "blonde", "red", "white", "pink", "blue"),
    "eyes": ("brown", "blue", "green", "yellow"),
    "beard": ("none", "full beard", "moustache"),
    "glasses": ("none", "round glasses", "sunglasses"),
    "hat": ("none", "beanie", "brimmed hat"),
    "shirt": ("t-shirt", "striped shirt", "turtleneck", "collared shirt"),
    "shirt_color": ("red", "blue", "green", "yellow", "white", "black", "purple"),
    "smile": ("no", "yes"),
}

WORDS = {**ATTRIBUTES, "style": STYLES}
"""Everything that a picture can be asked, and what it may answer."""

HAIR_UNDER_HATS = ("bald", "short", "bob", "long", "braids")
"""Cuts that are worn, and still tell, under a hat."""
ROBOT_HAIR = ("bald", "buzz cut", "mohawk")

SIDE_FACE = 110.0
"""Degrees of yaw up to which glasses and beards still show in profile."""
HAIR_OVER_COLLARS = ("long", "bob", "afro", "curly", "braids")
FULL_FACE = 65.0
"""Degrees of yaw up to which both eyes and the mouth can be read."""


@dataclass(frozen=True)
class Look:
    """One person of the miniature world: words for what can be named, `build` and `seed` for what cannot."""

    kind: str = "human"
    gender: str = "woman"
    age: str = "young"
    skin: str = "tan"
    hair: str = "short"
    hair_color: str = "brown"
    eyes: str = "brown"
    beard: str = "none"
    glasses: str = "none"
    hat: str = "none"
    shirt: str = "t-shirt"
    shirt_color: str = "blue"
    smile: bool = False
    build: float = 0.5
    """0 slim .. 1 heavy."""
    seed: int = 0
    """Keys the shape of the face."""


def draw_look(seed: int, index: int) -> Look:
    """The look number `index` of the population `seed`: the same pair gives the same look, in any order."""
    draw = random.Random(f"look/{seed}/{index}")
    kind = draw.choices(ATTRIBUTES["kind"], (5, 1, 1, 1, 1))[0]
    gender = draw.choice(ATTRIBUTES["gender"])
    age = draw.choices(ATTRIBUTES["age"], (1, 2, 1))[0] if kind == "human" else "young"
    hair = draw.choice(ROBOT_HAIR if kind == "robot" else ATTRIBUTES["hair"])
    hair_color = draw.choice(ATTRIBUTES["hair_color"])
    bearded = gender == "man" and age != "child" and kind != "robot"
    covered = kind not in ("robot", "statue") and hair in HAIR_UNDER_HATS
    return Look(
        kind=kind,
        gender=gender,
        age=age,
        skin=draw.choice(SKINS[kind]),
        hair=hair,
        hair_color="white" if age == "old" and draw.random() < 0.6 else hair_color,
        eyes="yellow" if kind in ("alien", "orc") else draw.choice(ATTRIBUTES["eyes"][:3]),
        beard=draw.choice(ATTRIBUTES["beard"]) if bearded else "none",
        glasses=draw.choices(ATTRIBUTES["glasses"], (2, 1, 1))[0] if kind not in ("robot", "statue") else "none",
        hat=draw.choices(ATTRIBUTES["hat"], (1, 1, 1))[0] if covered else "none",
        shirt=draw.choice(ATTRIBUTES["shirt"]),
        shirt_color=draw.choice(ATTRIBUTES["shirt_color"]),
        smile=draw.random() < 0.5,
        build=draw.random(),
        seed=draw.getrandbits(31),
    )


def visible_attributes(look: Look, style: str, yaw: float) -> dict[str, str]:
    """The attributes that a viewer can verify in this style from this yaw (degrees), as words of `ATTRIBUTES`.

    Materials without paint hide every colour; clay hides the colour of the eyes only; the back hides the face. Chins
    and long hair hide necklines: of shirts only stripes are told from the front, and the cut from behind.
    """
    angle = abs((yaw + 180.0) % 360.0 - 180.0)
    hidden = set()
    if angle > FULL_FACE:
        hidden |= {"gender", "age", "eyes", "smile"}
    if angle > SIDE_FACE:
        hidden |= {"beard", "glasses"}
        if look.hair in ("long", "bob", "afro"):
            hidden.add("skin")
    if look.shirt != "striped shirt" and (angle <= SIDE_FACE or look.hair in HAIR_OVER_COLLARS):
        hidden.add("shirt")
    if look.kind != "human":
        hidden |= {"gender", "age"}
    if look.kind == "statue":
        hidden |= {"hair_color", "eyes", "shirt_color"}
    if style in COLOURLESS_STYLES:
        hidden |= {"skin", "hair_color", "eyes", "shirt_color"}
    if style == "clay" or look.glasses == "sunglasses":
        hidden.add("eyes")
    if look.hair == "bald" and (look.beard == "none" or "beard" in hidden):
        hidden.add("hair_color")
    words = {name: getattr(look, name) for name in ATTRIBUTES}
    words["smile"] = "yes" if look.smile else "no"
    return {name: word for name, word in words.items() if name not in hidden}
