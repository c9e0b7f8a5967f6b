"""Prompts: what is said, what is hidden, and that mirroring swaps sides."""

from dataclasses import replace

import pytest

from styleavatar3d.camera.cameras import view_name
from styleavatar3d.figures.looks import STYLES, Look, draw_look
from styleavatar3d.synthesis.prompts import compose, mirror_words, vocabulary, words

ALIEN = Look(kind="alien", skin="blue", glasses="round glasses", smile=True, hair="bob", hair_color="red")


def test_a_prompt_says_style_kind_attributes_and_view():
    prompt = compose(ALIEN, "cartoon", 0.0, 20.0)
    assert prompt.text.startswith("cartoon style avatar of an alien, blue skin, red bob hair")
    assert "round glasses, smiling" in prompt.text
    assert prompt.text.endswith("front view, from above")
    assert prompt.negative == "back view"


def test_shirts_hats_and_backgrounds_are_said():
    look = Look(shirt="striped shirt", shirt_color="red", hat="beanie")
    text = compose(look, "toy", 0.0, 0.0, background="sunset").text
    assert "wearing a beanie" in text and "red striped shirt, sunset background, front view" in text
    assert "red shirt" in compose(look, "toy", 0.0, 0.0, drop={"shirt"}).text
    assert "background" not in compose(look, "toy", 0.0, 0.0).text


def test_the_back_view_hides_the_face_and_says_so():
    prompt = compose(ALIEN, "cartoon", 180.0, 0.0)
    assert "glasses" not in prompt.text and "smiling" not in prompt.text
    assert {"front", "face", "eyes", "glasses"} <= set(words(prompt.negative))


@pytest.mark.parametrize(
    ("yaw", "name"),
    [
        (0, "front"),
        (22.4, "front"),
        (22.5, "front left"),
        (90, "left"),
        (180, "back"),
        (-180, "back"),
        (-90, "right"),
        (-22.5, "front"),
        (337.4, "front right"),
    ],
)
def test_sectors_are_half_open_and_left_is_the_figures_left(yaw, name):
    assert view_name(yaw) == name


def test_every_word_is_in_the_vocabulary():
    known = set(vocabulary())
    for index in range(200):
        prompt = compose(draw_look(7, index), STYLES[index % len(STYLES)], index * 47.0, index % 40 - 15.0)
        assert set(words(f"{prompt.text} {prompt.negative}")) <= known


def test_mirroring_the_camera_is_mirroring_the_words():
    for yaw in (30.0, 90.0, 140.0, -90.0, 0.0):
        left, right = compose(ALIEN, "clay", yaw, 0.0), compose(ALIEN, "clay", -yaw, 0.0)
        assert tuple(map(mirror_words, left)) == right


def test_dropped_parts_are_not_said():
    prompt = compose(ALIEN, "clay", 0.0, 0.0, drop=("style", "kind", "skin", "view", "glasses"))
    assert not {"clay", "alien", "skin", "view", "glasses"} & set(words(prompt.text))
    assert prompt.negative == ""


def test_a_child_is_never_called_a_man_or_a_woman():
    assert "a boy" in compose(replace(ALIEN, kind="human", gender="man", age="child"), "cel", 0, 0, drop=("age",)).text


def test_a_bald_head_has_no_hair_colour_even_under_a_coloured_beard():
    text = compose(Look(gender="man", hair="bald", hair_color="red", beard="full beard"), "cartoon", 0, 0).text
    assert "bald head" in text and "red" not in text and "full beard" in text
