"""Hair, hats, glasses and collars in template coordinates."""

import pytest
import torch
from torch.nn.functional import normalize

from styleavatar3d.figures.anatomy import HEAD_CENTRE
from styleavatar3d.figures.collars import collars
from styleavatar3d.figures.dress import build_figure, garment
from styleavatar3d.figures.hair import Skull, haircuts
from styleavatar3d.figures.heads import FRAME, HAIR, HAT, LENS, SKIN, HeadModel
from styleavatar3d.figures.looks import ATTRIBUTES, HAIR_UNDER_HATS, Look
from styleavatar3d.figures.wear import antennae, brim, hats, moustache, trim

ONE_SIDED = ("ponytail", "bun")
"""A tail that swings to the left, and a swirl."""


@pytest.fixture(scope="module")
def model():
    return HeadModel.load()


@pytest.fixture(scope="module")
def skull(model):
    skin = model.template[model.faces[model.parts == SKIN].unique()]
    return Skull(skin[skin[:, 1] > 6.3])


@pytest.fixture(scope="module")
def cuts(skull):
    return haircuts(skull)


def boundary(cut) -> int:
    """Edges that belong to one face only, once the points that lie at one place are made one."""
    _, index = torch.unique((cut.vertices * 1e4).round(), dim=0, return_inverse=True)
    faces = index[cut.faces]
    faces = faces[(faces != faces.roll(1, 1)).all(1)]
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    return int((torch.unique(edges, dim=0, return_counts=True)[1] == 1).sum())


def asymmetry(vertices: torch.Tensor) -> float:
    """How far the farthest point is from the mirror image of another, decimetres."""
    return float(torch.cdist(vertices * torch.tensor([-1.0, 1, 1]), vertices).amin(1).max())


def test_there_is_a_cut_for_every_word(cuts):
    assert set(cuts) == set(ATTRIBUTES["hair"]) - {"bald"}


@pytest.mark.parametrize("name", [name for name in ATTRIBUTES["hair"] if name != "bald"])
def test_cuts_are_light_finite_and_mirrored(cuts, name):
    cut = cuts[name]
    assert cut.vertices.isfinite().all() and cut.flow.shape == cut.vertices.shape
    assert 200 < len(cut.faces) <= 2800 and cut.faces.max() < len(cut.vertices)
    assert (asymmetry(cut.vertices) < 0.02) == (name not in ONE_SIDED)
    assert cut.vertices[:, 1].max() < 9.2, "taller hair leaves the picture"


@pytest.mark.parametrize("name", [name for name in ATTRIBUTES["hair"] if name != "bald"])
def test_cuts_open_only_inside_the_head(cuts, skull, name):
    """The only open edges are those that end under the skin."""
    cut = cuts[name]
    offset = cut.vertices - HEAD_CENTRE
    over = offset.norm(dim=1) - skull.radius(normalize(offset, dim=1))
    keep = cut.faces[(over[cut.faces] > -0.03).all(1)]
    hem = keep.unique()
    assert len(hem) and boundary(cut) <= 160


def test_strands_of_a_tail_run_along_it(cuts):
    tail = cuts["ponytail"].flow[-24 * 13 :].view(24, 13, 3)
    around = torch.atan2(tail[..., 0], tail[..., 2] - HEAD_CENTRE[2])
    assert torch.allclose(around, around[:1].expand_as(around), atol=1e-4)
    assert (tail[1:, 0, 1] < tail[:-1, 0, 1]).all()


@pytest.mark.parametrize("name", [name for name in HAIR_UNDER_HATS if name != "bald"])
def test_trimmed_hair_lies_inside_every_hat(cuts, skull, name):
    trimmed = trim(cuts[name], skull)
    offset = trimmed.vertices - HEAD_CENTRE
    above = trimmed.vertices[:, 1] > brim(torch.atan2(offset[:, 0], offset[:, 2])) + 0.1
    over_skin = (offset.norm(dim=1) - skull.radius(normalize(offset, dim=1)))[above]
    assert above.any() and over_skin.max() < 0.06
    for hat in hats(skull).values():
        out = hat.vertices - HEAD_CENTRE
        crown = hat.vertices[:, 1] > brim(torch.atan2(out[:, 0], out[:, 2])) + 0.3
        assert (out.norm(dim=1) - skull.radius(normalize(out, dim=1)))[crown].min() > 0.06


def test_what_is_worn_is_mirrored(model, skull):
    skin = (model.template, model.faces[model.parts == SKIN])
    for cut in [*hats(skull).values(), *collars(skin).values(), antennae(), moustache()]:
        assert cut.vertices.isfinite().all()
        assert asymmetry(cut.vertices) < 0.08, "the triangles under a collar are not mirrored"


def test_every_shirt_has_its_collar(model):
    shapes = {shirt: garment(model, f"shirt: {shirt}") for shirt in ATTRIBUTES["shirt"]}
    assert len({len(shape.cut.faces) for shape in shapes.values()}) == 3, "stripes are paint"
    top = {name: float(shape.cut.vertices[:, 1].max()) for name, shape in shapes.items()}
    assert top["turtleneck"] > top["collared shirt"] > top["t-shirt"]


def test_glasses_fit_the_face():
    for age in ATTRIBUTES["age"]:
        figure = build_figure(Look(age=age, glasses="sunglasses", hair="bald"))
        frame = figure.vertices[figure.faces[figure.parts == FRAME].unique()]
        lens = figure.vertices[figure.faces[figure.parts == LENS].unique()]
        eye = figure.key_points["left_eye"]
        assert lens[:, 0].max() > eye[0] + 0.02 and lens[:, 2].min() > eye[2] - 0.03
        assert frame[:, 2].min() < figure.key_points["left_ear"][2] + 0.06, "arms reach the ears"
        assert asymmetry(frame) < 0.004


def test_hats_and_hair_are_parts_of_their_own():
    figure = build_figure(Look(hair="braids", hat="beanie"))
    assert {HAIR, HAT} <= set(figure.parts.tolist())
    assert len(figure.faces) <= 16_500, "the heaviest of all: braids under a beanie"
