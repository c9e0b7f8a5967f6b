"""What a prompt states, as words of the attributes: the way back from `captions` and `synthesis.prompts`.

The vocabulary is closed, so this needs no model: words name attributes, colours belong to the noun they stand before
(or, as in "make the hair blue", behind), and "no" or "without" denies what follows. What is not understood is left to
the text encoder, which reads the prompt as well.
"""

import re

from styleavatar3d.figures.looks import ATTRIBUTES, WORDS
from styleavatar3d.miniature.captions import SYNONYMS

_MORE = {
    "round glasses": ("glasses", "spectacles", "eyeglasses"),
    "full beard": ("bearded",),
    "moustache": ("mustache",),
    "bald": ("hairless", "bald head"),
    "buzz cut": ("buzzcut", "shaved"),
    "braids": ("plaits", "pigtails"),
    "turtleneck": ("roll neck",),
    "striped shirt": ("striped",),
    "collared shirt": ("collared", "polo shirt", "polo"),
    "blonde": ("golden hair",),
    "red": ("ginger",),
    "purple": ("violet",),
    "yes": ("smile", "smiling", "happy"),
    "no": ("serious", "neutral", "unsmiling"),
    "old": ("older",),
    "orc": ("ogre",),
    "watercolour": ("painted", "painting"),
    "pencil": ("drawing", "drawn", "sketched"),
    "cel": ("cel-shaded", "cel shaded"),
    "clay": ("claymation",),
    "low-poly": ("low poly",),
    "silver": ("steel",),
}
_PEOPLE = {"boy": ("man", "child"), "girl": ("woman", "child"), "male": ("man", None), "female": ("woman", None)}
_COLOURED = {"skin": "skin", "hair_color": "hair", "eyes": "eyes", "shirt_color": "shirt"}
"""attribute of colour -> what it is the colour of"""
_NOUNS = {
    "skin": ("skin", "face", *ATTRIBUTES["kind"][1:], *SYNONYMS["orc"], *SYNONYMS["robot"], "ogre"),
    "hair": ("hair", "haircut", "hairstyle", "curls", "braids", "plaits", "afro", "mohawk", "bob", "bun", "ponytail",
             "quiff", "beard", "moustache", "mustache"),
    "eyes": ("eyes", "eye"),
    "shirt": ("shirt", "t-shirt", "tee", "turtleneck", "rollneck", "sweater", "top", "collar"),
}  # fmt: skip
_ONLY_OF_HAIR = ("short", "long")
_TOO_LITTLE = ("shirt",)
"""names that a caption may use for one value, and a user for any"""
_ABSENT = {"beard": "none", "glasses": "none", "hat": "none", "smile": "no", "hair": "bald"}
_DENIALS = ("no", "without", "not")


def stated_attributes(prompt: str) -> dict[str, str]:
    """The attributes that a prompt states, as words of `figures.looks.WORDS`; empty if it states none."""
    said: dict[str, str] = {}
    for clause in re.split(r"[,.;:!?()]| with | and | but ", f" {prompt.lower()} "):
        words = re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", clause)
        said |= _colours(words) | _names(words)
    return {name: said[name] for name in WORDS if name in said}


def _colours(words: list[str]) -> dict[str, str]:
    """Each colour of a clause goes to the nearest noun behind it, or else to the nearest before it."""
    said = {}
    things = [(place, thing) for place, word in enumerate(words) for thing, nouns in _NOUNS.items() if word in nouns]
    for place, word in enumerate(words):
        thing = next((thing for at, thing in things if at >= place), things[-1][1] if things else None)
        for attribute, owner in _COLOURED.items():
            if owner == thing and (value := _meant(attribute, word)):
                said[attribute] = value
    return said


def _names(words: list[str]) -> dict[str, str]:
    """What is named outright: the longest name wins, and takes its words away from the shorter ones."""
    said, text = {}, " " + " ".join(words) + " "
    for phrase, attribute, value in _PHRASES:
        found = re.search(rf" (?:({'|'.join(_DENIALS)}) (?:an? |any )?)?{re.escape(phrase)}(?= )", text)
        if not found or (phrase in _ONLY_OF_HAIR and "hair" not in words):
            continue
        if found[1] and attribute in _ABSENT:
            value = _ABSENT[attribute]
        if not (found[1] and value != _ABSENT.get(attribute)):
            said.setdefault(attribute, value)
        text = text[: found.start()] + " " + "_ " + text[found.end() + 1 :]
    for word, (gender, age) in _PEOPLE.items():
        if word in words:
            said |= {"gender": gender} | ({"age": age} if age else {})
    return said


def _meant(attribute: str, word: str) -> str | None:
    """The value of an attribute that a single word names."""
    return next((value for value in WORDS[attribute] if word in (value, *_others(value))), None)


def _others(value: str) -> tuple[str, ...]:
    return (*SYNONYMS.get(value, ()), *_MORE.get(value, ()))


def _phrases() -> list[tuple[str, str, str]]:
    """(phrase, attribute, value), longest first; colours are not among them, for they need a noun."""
    phrases = []
    for attribute, values in WORDS.items():
        if attribute in _COLOURED:
            continue
        for value in values:
            own = () if value in ("none", "no", "yes") else (value,)
            phrases += [(phrase, attribute, value) for phrase in (*own, *_others(value)) if phrase not in _TOO_LITTLE]
    return sorted(phrases, key=lambda one: -len(one[0]))


_PHRASES = _phrases()
