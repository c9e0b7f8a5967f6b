"""Prompts: style, kind, attributes and view in words; a negative that names what this view hides.

The parts follow StyleAvatar3D (arXiv 2305.19012, data generation). Everything here is pure: the same look, style and
camera give the same words. The wording is data (`data/prompts.yaml`), the attribute values are those of
`figures.looks`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

import yaml

from styleavatar3d.assets import assets
from styleavatar3d.camera.cameras import view_name
from styleavatar3d.figures.looks import ATTRIBUTES, BACKGROUNDS, STYLES, Look, visible_attributes
from styleavatar3d.shards.schema import mirror_words

__all__ = ["Prompt", "compose", "mirror_words", "view_words", "vocabulary", "words"]

_UNSAID = {"no", "none"}


class Prompt(NamedTuple):
    text: str
    negative: str


@cache
def wording() -> dict[str, Any]:
    """The parsed `data/prompts.yaml`."""
    return yaml.safe_load((assets() / "data" / "prompts.yaml").read_text(encoding="utf-8"))


def view_words(yaw: float, pitch: float) -> str:
    """Words for a camera at `yaw`, `pitch` (true degrees), for example "back left view, from above"."""
    parts = [wording()["views"][view_name(yaw)]["words"]]
    above, below = wording()["pitches"]["above"], wording()["pitches"]["below"]
    if pitch >= above["at_least"]:
        parts.append(above["words"])
    elif pitch <= below["at_most"]:
        parts.append(below["words"])
    return ", ".join(parts)


def compose(
    look: Look, style: str, yaw: float, pitch: float, *, drop: Collection[str] = (), background: str = BACKGROUNDS[0]
) -> Prompt:
    """The prompt of `look` drawn in `style` on `background` and seen from `yaw`, `pitch` (degrees).

    Only what a viewer could check is said (`visible_attributes`), and a background only if it is not the plain one.
    `drop` names parts to leave out: attributes, "style", "kind" or "view"; without "view" nothing is known to be
    hidden and the negative is empty.
    """
    said = {
        name: value
        for name, value in visible_attributes(look, style, yaw).items()
        if name not in drop and value not in _UNSAID
    }
    if background != BACKGROUNDS[0]:
        said["background"] = background
    if look.hair == "bald":
        said.pop("hair_color", None)  # it is the beard's
    parts = [_subject(look, style, said, drop), *_attribute_phrases(said)]
    if "view" in drop:
        return Prompt(", ".join(parts), "")
    parts.append(view_words(yaw, pitch))
    return Prompt(", ".join(parts), ", ".join(wording()["views"][view_name(yaw)]["hides"]))


def _subject(look: Look, style: str, said: dict[str, str], drop: Collection[str]) -> str:
    age, person = said.get("age", ""), said.get("gender", wording()["person"])
    if look.age == "child" and (age or "gender" in said):
        age, person = "", wording()["children"][person]
    kind = said.get("kind", "")
    template = wording()["subject"]
    if "style" in drop:
        template = template.replace("{style} style ", "")
    if kind not in ("", "human"):
        person = ""
    text = template.format(style=style, age=age, kind="" if kind == "human" else kind, person=person)
    return re.sub(r"\ba(?= [aeiou])", "an", " ".join(text.split()))


def _attribute_phrases(said: dict[str, str]) -> list[str]:
    phrases, exceptions = wording()["phrases"], wording()["exceptions"]
    names = [name for name, phrase in phrases.items() if {name, *_places(phrase)} & set(said)]
    return [exceptions.get(said.get(name, "")) or _fill(phrases[name], wording()["defaults"] | said) for name in names]


def _places(phrase: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", phrase)


def _fill(template: str, said: dict[str, str]) -> str:
    return " ".join(re.sub(r"\{(\w+)\}", lambda match: said.get(match[1], ""), template).split())


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word a prompt can contain, and the synonyms a user may type; lower case, sorted, without repetition."""
    said = wording()
    sentences = ["an", said["subject"], said["person"], *said["children"].values(), said["synonyms"], *STYLES]
    sentences += [*said["phrases"].values(), *said["exceptions"].values(), *said["defaults"].values(), *BACKGROUNDS]
    sentences += [value for values in ATTRIBUTES.values() for value in values]
    for view in said["views"].values():
        sentences += [view["words"], *view["hides"]]
    sentences += [pitch["words"] for pitch in said["pitches"].values()]
    return tuple(sorted(set(words("\n".join(re.sub(r"\{\w+\}", " ", sentence) for sentence in sentences)))))


def words(text: str) -> list[str]:
    """The lower-case words of a text, hyphenated words whole, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", text.lower())
