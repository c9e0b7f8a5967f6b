from dataclasses import replace

import pytest
import torch

from styleavatar3d.assets import assets
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.heads import HEAD_HEIGHT, SKIN, HeadModel
from styleavatar3d.figures.looks import ATTRIBUTES, Look, draw_look

FILE = assets() / "data" / "heads.safetensors"


@pytest.fixture(scope="module")
def model():
    return HeadModel.load()


def test_the_file_is_small_and_named(model):
    assert FILE.stat().st_size <= 2_000_000
    assert len(model.expressions.names) == 52
    assert {"jawOpen", "eyeBlinkLeft", "mouthSmileRight"} <= set(model.expressions.names)
    assert "eye-scale-incr+" in model.locals.names


def test_blend_weights_of_a_point_sum_over_the_hats_to_one():
    from styleavatar3d.figures.heads import _hats

    knots = torch.tensor([-1 / 3, 0, 1 / 3, 2 / 3, 1])
    hats = _hats(torch.linspace(-0.5, 1.2, 40), knots)
    assert torch.allclose(hats.sum(1), torch.ones(40)) and (hats >= 0).all()
    assert torch.allclose(_hats(knots, knots), torch.eye(5), atol=1e-6)


def test_the_phenotype_changes_the_face_the_right_way(model):
    man, woman = model.phenotype(gender=0.0, age=0.7), model.phenotype(gender=1.0, age=0.7)
    child, adult = model.phenotype(age=0.25), model.phenotype(age=0.7)

    def skull(vertices):
        return float(vertices[model.points["crown"], 1] - vertices[model.points["chin"], 1])

    def shoulders(vertices):
        return float(vertices[model.joints["l-shoulder"], 0] - vertices[model.joints["r-shoulder"], 0])

    assert shoulders(man) > shoulders(woman) > shoulders(child)
    assert skull(adult) > skull(child)


def test_the_model_is_symmetric(model):
    """Every left feature of a random head mirrors a right one."""
    vertices = model.phenotype(gender=0.3, age=0.9, weight=0.8, african=1.0, asian=0.2, caucasian=0.1)
    model.change(vertices, {"eye-scale-incr": 1.5, "ear-scale-incr": -0.7, "cheek-volume-incr": 0.6})
    for name in ("eye", "ear"):
        left, right = vertices[model.points[f"left_{name}"]], vertices[model.points[f"right_{name}"]]
        assert torch.allclose(left * torch.tensor([-1.0, 1, 1]), right, atol=0.03)


def test_signs_of_local_changes_are_what_their_names_say(model):
    x, y, z = model.template.unbind(1)
    nostrils = (z > 1.45) & (y > 6.7) & (y < 7.0)

    def width(amount):
        vertices = model.template.clone()
        model.change(vertices, {"nose-scale-horiz-incr": amount})
        return float(vertices[nostrils, 0].abs().mean())

    assert width(1.0) > width(0.0) > width(-1.0)


def test_expressions_move_what_they_name(model):
    open_mouth = model.template.clone()
    model.express(open_mouth, {"jawOpen": 1.0})
    assert open_mouth[model.points["chin"], 1] < model.template[model.points["chin"], 1] - 0.05
    assert torch.allclose(open_mouth[model.points["crown"]], model.template[model.points["crown"]], atol=0.01)
    smile = model.template.clone()
    model.express(smile, {"mouthSmileLeft": 1.0})
    moved = (smile - model.template).norm(dim=1)
    assert model.template[moved > 0.05, 0].min() > 0


def test_unknown_names_are_errors(model):
    for act in (
        lambda: model.change(model.template.clone(), {"eye-size": 1.0}),
        lambda: model.express(model.template.clone(), {"smile": 1.0}),
        lambda: model.phenotype(wisdom=1.0),
    ):
        with pytest.raises(StyleAvatarError, match="unknown"):
            act()


def test_a_file_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "heads.safetensors"
    path.write_bytes(b"not a model")
    with pytest.raises(StyleAvatarError, match="not a baked head model"):
        HeadModel.load(path)


@pytest.mark.parametrize("index", range(12))
def test_figures_stand_where_the_world_says(index):
    figure = build_figure(draw_look(1, index))
    points = figure.key_points
    middle = (points["left_ear"] + points["right_ear"]) / 2
    assert torch.allclose(middle, torch.zeros(3), atol=1e-5)
    assert points["left_ear"][0] > 0.08 and points["nose"][2] > 0.1
    assert points["left_shoulder"][1] > -0.317 and points["right_shoulder"][1] > -0.317
    skin = figure.vertices[figure.faces[figure.parts == SKIN].unique()]
    assert skin[:, 1].min() < -0.38, "the bust must reach below every view"
    assert figure.vertices.isfinite().all() and figure.vertices[:, 0].abs().max() < 0.5
    lengths = figure.normals[figure.faces.unique()].norm(dim=1)
    assert ((lengths - 1).abs() < 1e-3).float().mean() > 0.99  # poles of balls and hair have faces of no area


def test_bare_heads_are_as_high_as_the_convention():
    model = HeadModel.load()
    for index in range(4):
        figure = build_figure(replace(draw_look(2, index), beard="none", glasses="none"))
        crown, chin = (figure.vertices[model.points[name], 1] for name in ("crown", "chin"))
        assert float(crown - chin) == pytest.approx(HEAD_HEIGHT, rel=0.02)


def test_every_cut_and_every_thing_worn_can_be_built():
    for hair in ATTRIBUTES["hair"]:
        for glasses in ATTRIBUTES["glasses"]:
            figure = build_figure(Look(kind="alien", skin="blue", hair=hair, glasses=glasses))
            assert figure.faces.max() < len(figure.vertices) and len(figure.parts) == len(figure.faces)
    bald = build_figure(Look(hair="bald"))
    assert bald.bare.sum() < len(bald.faces) and not (bald.parts == 3).any()


def test_the_same_look_is_the_same_figure():
    first, second = build_figure(draw_look(0, 5)), build_figure(draw_look(0, 5))
    assert torch.equal(first.vertices, second.vertices) and torch.equal(first.faces, second.faces)
