import pytest
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.keypoints import POINTS, draw, locate
from styleavatar3d.figures.landmarks import LANDMARKS
from styleavatar3d.figures.looks import Look


@pytest.fixture(scope="module")
def figure():
    return build_figure(Look(hair="short", seed=3))


def landmark(figure, name):
    return figure.landmarks[LANDMARKS.index(name)]


def test_landmarks_have_unique_names_and_places(figure):
    assert len(set(LANDMARKS)) == len(LANDMARKS) == len(figure.landmarks)
    assert len(figure.landmarks.unique(dim=0)) == len(LANDMARKS)


@pytest.mark.parametrize("name", [name for name in LANDMARKS if "left" in name])
def test_left_landmarks_mirror_right_ones(figure, name):
    left, right = landmark(figure, name), landmark(figure, name.replace("left", "right"))
    assert left[0] > 0 and torch.allclose(left * torch.tensor([-1.0, 1, 1]), right, atol=1e-4)


def test_landmarks_are_where_their_names_say(figure):
    down = ["brow_left_2", "eye_left_top", "eye_left_bottom", "nose_tip", "nose_base", "mouth_top", "mouth_bottom"]
    down += ["chin"]
    heights = [float(landmark(figure, name)[1]) for name in down]
    assert heights == sorted(heights, reverse=True)
    assert abs(float((landmark(figure, "lip_upper") - landmark(figure, "lip_lower"))[1])) < 0.01, "the mouth is shut"
    across = ["eye_left_inner", "eye_left_top", "eye_left_outer", "jaw_left_0"]
    widths = [float(landmark(figure, name)[0]) for name in across]
    assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("yaw", "hidden"),
    [(0.0, set()), (180.0, {"nose", "left_eye", "right_eye"}), (90.0, {"right_eye", "right_ear"})],
)
def test_what_the_skin_covers_is_not_seen(figure, yaw, hidden):
    xy, visible = locate(figure, orbit_labels(torch.tensor([yaw]), torch.tensor([0.0])))
    unseen = {name for name, seen in zip(POINTS, visible[0].tolist(), strict=True) if not seen}
    if yaw == 90.0:
        assert len(unseen & {"left_eye", "right_eye"}) == 1 and len(unseen & {"left_ear", "right_ear"}) == 1
    else:
        assert unseen == hidden
    assert draw(xy, visible, 32).shape == (1, 32, 32, 3)


def test_hair_and_hats_hide_no_point(figure):
    labels = orbit_labels(torch.tensor([30.0]), torch.tensor([0.0]))
    bare = locate(figure, labels)[1]
    worn = build_figure(Look(hair="short", hat="beanie", glasses="sunglasses", seed=3))
    assert torch.equal(locate(worn, labels)[1], bare)
