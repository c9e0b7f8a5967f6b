import pytest
import torch

from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.face_points import TWIN, nearest_on
from styleavatar3d.figures.landmarks import LANDMARKS
from styleavatar3d.figures.looks import Look

LOOK = Look(hair="short", seed=3)


@pytest.fixture(scope="module")
def face():
    return build_figure(LOOK).face


def test_every_point_has_a_twin_on_the_other_side(face):
    assert [TWIN[twin] for twin in TWIN] == list(range(70))
    assert torch.allclose(face[list(TWIN)] * torch.tensor([-1.0, 1, 1]), face, atol=1e-4)
    middle = [point for point, twin in enumerate(TWIN) if point == twin]
    assert middle == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_points_follow_the_order_of_the_68(face):
    x, y, _ = face.unbind(1)
    for first, last in ((1, 15), (17, 26), (31, 35), (36, 39), (42, 45), (48, 54), (60, 64)):
        assert (x[first : last + 1].diff() > 0).all(), f"{first}-{last} run from the figure's right to its left"
    down = [24, 43, 47, 29, 30, 33, 51, 62, 66, 57, 8]
    assert (y[down].diff() < 0).all(), "brow, lids, nose, lips and chin from above"
    assert (y[:8].diff() < 0).all() and (y[8:17].diff() > 0).all()
    assert x[68] < 0 < x[69]


@pytest.mark.parametrize(
    ("point", "name"),
    [(8, "chin"), (30, "nose_tip"), (33, "nose_base"), (24, "brow_left_2"), (42, "eye_left_inner"),
     (45, "eye_left_outer"), (36, "eye_right_outer"), (54, "mouth_left"), (51, "mouth_top"), (57, "mouth_bottom")],
)  # fmt: skip
def test_points_lie_at_the_landmarks_of_that_name(point, name):
    figure = build_figure(LOOK)
    assert (figure.face[point] - figure.landmarks[LANDMARKS.index(name)]).norm() < 0.015


def test_points_move_with_the_face(face):
    opened = build_figure(LOOK, expression={"jawOpen": 1.0}).face - face
    assert opened[8, 1] < -0.01 and opened[57, 1] < -0.01 and opened[66, 1] < -0.01
    assert opened[[27, 30, 36, 45, 68]].norm(dim=1).max() < 0.003
    closed = build_figure(LOOK, expression={"eyeBlinkLeft": 1.0}).face - face
    assert closed[[43, 44], 1].max() < -0.003 and closed[[37, 38], 1].abs().max() < 1e-3


def test_points_lie_on_a_beard():
    bearded, shaved = (build_figure(Look(gender="man", beard=beard, seed=3)).face for beard in ("full beard", "none"))
    assert (bearded - shaved)[8].norm() > 0.02 and (bearded - shaved)[27].norm() < 1e-3


def test_nearest_on_finds_places_in_triangles():
    generator = torch.Generator().manual_seed(0)
    vertices = torch.rand(30, 3, generator=generator)
    faces = torch.arange(30).view(10, 3)
    weights = torch.rand(10, 3, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    points = (vertices[faces] * weights[..., None]).sum(1)
    found = nearest_on(vertices, faces, points)
    assert torch.allclose(found.carried(vertices), points, atol=1e-5)
    assert torch.allclose(found.weights.sum(1), torch.ones(10))
