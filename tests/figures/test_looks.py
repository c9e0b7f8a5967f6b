from dataclasses import asdict, replace

from styleavatar3d.figures.looks import ATTRIBUTES, STYLES, Look, draw_look, visible_attributes


def test_a_look_is_a_function_of_seed_and_index():
    assert draw_look(3, 11) == draw_look(3, 11)
    assert draw_look(3, 11) != draw_look(3, 12)
    assert draw_look(3, 11) != draw_look(4, 11)


def test_every_word_of_the_vocabulary_is_drawn():
    looks = [asdict(draw_look(0, i)) for i in range(400)]
    for name, words in ATTRIBUTES.items():
        drawn = {look[name] for look in looks}
        assert drawn == ({True, False} if name == "smile" else set(words)), name


def test_styles_hide_what_they_do_not_show():
    look = Look(kind="alien", skin="blue", eyes="yellow", glasses="round glasses")
    assert visible_attributes(look, "cartoon", 0)["eyes"] == "yellow"
    clay, marble = visible_attributes(look, "clay", 0), visible_attributes(look, "marble", 0)
    assert clay["skin"] == "blue" and clay["kind"] == "alien" and clay["glasses"] == "round glasses"
    assert not {"skin", "hair_color", "eyes", "shirt_color"} & set(marble)
    assert marble["glasses"] == "round glasses"


def test_the_back_hides_the_face_whichever_way_yaw_is_counted():
    look = Look(gender="man", beard="full beard", glasses="round glasses", smile=True)
    for yaw in (-180.0, 180.0, 540.0):
        assert not {"beard", "glasses", "eyes", "smile", "gender"} & set(visible_attributes(look, "cartoon", yaw))
    assert visible_attributes(look, "cartoon", 90)["beard"] == "full beard"
    assert visible_attributes(look, "cartoon", 350) == visible_attributes(look, "cartoon", -10)


def test_baldness_hides_the_colour_of_hair_unless_a_beard_shows_it():
    bald = Look(hair="bald", gender="man")
    assert "hair_color" not in visible_attributes(bald, "cartoon", 0)
    bearded = replace(bald, beard="full beard")
    assert visible_attributes(bearded, "cartoon", 0)["hair_color"] == "brown"
    assert "hair_color" not in visible_attributes(bearded, "cartoon", 180)


def test_of_shirts_only_stripes_are_told_from_the_front():
    plain, striped = Look(hair="short", shirt="turtleneck"), Look(hair="short", shirt="striped shirt")
    assert "shirt" not in visible_attributes(plain, "cartoon", 0)
    assert visible_attributes(plain, "cartoon", 0)["shirt_color"] == "blue"
    assert visible_attributes(striped, "cartoon", 0)["shirt"] == "striped shirt"
    assert visible_attributes(plain, "cartoon", 170)["shirt"] == "turtleneck"
    assert "shirt" not in visible_attributes(replace(plain, hair="long"), "cartoon", 170)


def test_there_are_ten_styles_five_kinds_and_twelve_cuts():
    assert len(set(STYLES)) == 10 and len(ATTRIBUTES["kind"]) == 5 and len(ATTRIBUTES["hair"]) == 12
