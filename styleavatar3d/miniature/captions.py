"""Captions as people write them: the composed prompt with parts left out and reordered, or a plain sentence."""

from __future__ import annotations

import random

from styleavatar3d.figures.looks import ATTRIBUTES, BACKGROUNDS, Look, visible_attributes
from styleavatar3d.synthesis.prompts import compose, view_words

SYNONYMS = {
    "man": ("male", "guy"),
    "woman": ("female", "lady"),
    "child": ("kid",),
    "old": ("elderly",),
    "sunglasses": ("shades",),
    "full beard": ("beard",),
    "beanie": ("cap",),
    "brimmed hat": ("hat",),
    "turtleneck": ("rollneck", "sweater"),
    "t-shirt": ("tee", "shirt"),
    "striped shirt": ("stripy shirt",),
    "blonde": ("golden", "blond"),
    "purple": ("violet",),
    "buzz cut": ("buzz", "cropped"),
    "curly": ("curls",),
    "braids": ("braided",),
    "cartoon": ("toon",),
    "cel": ("anime", "comic"),
    "marble": ("sculpture",),
    "clay": ("plasticine",),
    "bronze": ("brass",),
    "low-poly": ("lowpoly", "polygonal"),
    "voxel": ("blocky", "voxels"),
    "watercolour": ("watercolor", "aquarelle"),
    "toy": ("plastic",),
    "pencil": ("graphite", "sketch"),
    "orc": ("goblin",),
    "robot": ("android",),
}


def caption(
    look: Look, style: str, yaw: float, pitch: float, draw: random.Random, background: str = BACKGROUNDS[0]
) -> str:
    """A caption of this picture, drawn from `draw`; what a viewer cannot see is never said, a background always is.

    One in ten has a word that no vocabulary holds, so that the models learn to pass over what they do not know.
    """
    text = _known_caption(look, style, yaw, pitch, draw, background)
    if draw.random() < 0.1:
        said = text.split(" ")
        said.insert(draw.randrange(len(said) + 1), "zzz")
        text = " ".join(said)
    return text


def _known_caption(look: Look, style: str, yaw: float, pitch: float, draw: random.Random, background: str) -> str:
    names = [*ATTRIBUTES, "style", "kind"]
    drop = {name for name in names if draw.random() < draw.choice((0.0, 0.2, 0.7))}
    if draw.random() < 0.12:
        drop.add("view")
    if draw.random() < 0.5:
        return sentence(look, style, yaw, pitch, drop, draw, background)
    text = compose(look, style, yaw, pitch, drop=drop, background=background).text
    if draw.random() < 0.3:
        parts = text.split(", ")
        draw.shuffle(parts)
        text = ", ".join(parts)
    return text


def sentence(
    look: Look,
    style: str,
    yaw: float,
    pitch: float,
    drop: set[str],
    draw: random.Random,
    background: str = BACKGROUNDS[0],
) -> str:
    """The same facts as a user may put them: "a blue alien with round glasses, clay style, front view"."""
    said = {name: value for name, value in visible_attributes(look, style, yaw).items() if name not in drop}
    said = {name: _synonym(value, draw) for name, value in said.items() if value not in ("none", "no", "human")}
    parts = [_noun(said)]
    features = _features(said)
    draw.shuffle(features)
    if features:
        parts[0] += f" with {features[0]}"
        parts += [draw.choice(("", "with ")) + feature for feature in features[1:]]
    if "style" not in drop:
        parts.append(draw.choice(("{} style", "{}")).format(_synonym(style, draw)))
    if "view" not in drop:
        parts.append(view_words(yaw, pitch))
    if background != BACKGROUNDS[0]:
        parts.append(f"{background} {draw.choice(('background', 'backdrop'))}")
    if draw.random() < 0.3:
        parts[1:] = draw.sample(parts[1:], len(parts) - 1)
    return ", ".join(parts)


def _noun(said: dict[str, str]) -> str:
    """ "a purple alien", "an old man": who it is; what is said here is not said again."""
    kind = said.pop("kind", "")
    words = [said.pop("skin", "") if kind else "", said.pop("age", ""), kind or said.pop("gender", "person")]
    text = " ".join(filter(None, words))
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _features(said: dict[str, str]) -> list[str]:
    features = [said[name] for name in ("beard", "glasses", "hat") if name in said]
    if "skin" in said:
        features.append(f"{said['skin']} skin")
    if "eyes" in said:
        features.append(f"{said['eyes']} eyes")
    if "shirt" in said or "shirt_color" in said:
        features.append(f"a {said.get('shirt_color', '')} {said.get('shirt', 'shirt')}".replace("  ", " "))
    if "smile" in said:
        features.append("a smile")
    if said.get("hair") == "bald":
        features.append("a bald head")
    elif "hair" in said or "hair_color" in said:
        features.append(f"{said.get('hair_color', '')} {said.get('hair', '')} hair".replace("  ", " ").strip())
    return features


def _synonym(value: str, draw: random.Random) -> str:
    return draw.choice(SYNONYMS[value]) if value in SYNONYMS and draw.random() < 0.15 else value
