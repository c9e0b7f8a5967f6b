"""What a prompt states is read back from every way in which a prompt is put."""

import random

import pytest

from styleavatar3d.figures.looks import ATTRIBUTES, STYLES, draw_look, visible_attributes
from styleavatar3d.metrics.alignment import stated
from styleavatar3d.miniature.captions import sentence
from styleavatar3d.miniature.stated import stated_attributes
from styleavatar3d.synthesis.prompts import compose


@pytest.mark.parametrize("left_out", [0.0, 0.4, 0.8])
def test_captions_are_understood(left_out):
    """Word for word, but for what they cannot say: the colour of a bald man's beard, a child's age beside its name."""
    for index in range(300):
        look, style, draw = draw_look(77, index), STYLES[index % len(STYLES)], random.Random(index)
        drop = {name for name in (*ATTRIBUTES, "style", "view") if draw.random() < left_out}
        plain = index % 2 == 0
        text = sentence(look, style, 0.0, 0.0, drop, draw) if plain else compose(look, style, 0.0, 0.0, drop=drop).text
        seen = stated(visible_attributes(look, style, 0.0) | {"style": style})
        wanted = {name: word for name, word in seen.items() if name not in drop}
        found = stated_attributes(text)
        if look.hair == "bald":
            wanted.pop("hair_color", None)
        if wanted.get("shirt") == "t-shirt" or "shirt" in drop:
            wanted.pop("shirt", None), found.pop("shirt", None)
        if look.age == "child":
            wanted.pop("age", None), found.pop("age", None)
        assert found == wanted, text


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a smiling man with a pink mohawk, cartoon style",
         {"gender": "man", "hair": "mohawk", "hair_color": "pink", "smile": "yes", "style": "cartoon"}),
        ("a blue alien with round glasses, clay style",
         {"kind": "alien", "skin": "blue", "glasses": "round glasses", "style": "clay"}),
        ("make the hair blue", {"hair_color": "blue"}),
        ("add glasses", {"glasses": "round glasses"}),
        ("the same person with a beard", {"beard": "full beard"}),
        ("without glasses", {"glasses": "none"}),
        ("an old woman without a hat and no beard", {"gender": "woman", "age": "old", "beard": "none", "hat": "none"}),
        ("a girl with long black hair and green eyes wearing a red striped shirt",
         {"gender": "woman", "age": "child", "hair": "long", "hair_color": "black", "eyes": "green",
          "shirt": "striped shirt", "shirt_color": "red"}),
        ("bald, not smiling", {"hair": "bald", "smile": "no"}),
        ("xyzzy plugh", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_what_people_may_write(text, meaning):
    assert stated_attributes(text) == meaning
