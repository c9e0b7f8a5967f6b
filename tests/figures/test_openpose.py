import colorsys
import math
from dataclasses import replace

import pytest
import torch

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.face_points import TWIN
from styleavatar3d.figures.guidance import guide
from styleavatar3d.figures.keypoints import BODY, BONES, LIMBS, POINT_COLORS, POINTS, locate
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.openpose import bone_width, discs, locate_face, spindle

SIZE = 256


@pytest.fixture(scope="module")
def figure():
    return build_figure(Look(hair="bald", seed=3))


def drawn(figure, yaw, pitch=0.0, size=SIZE):
    return guide(figure, Camera.orbit(yaw, pitch), size, ("openpose",)).pictures["openpose"]


def white(picture):
    return int((picture == 255).all(-1).sum())


def test_colours_are_a_rainbow_of_18_and_bones_are_darker():
    for i, color in enumerate(BODY.values()):
        assert color == tuple(round(255 * part) for part in colorsys.hsv_to_rgb(i / 18, 1, 1))
    for (start, end), color, bright in zip(BONES, BONES.values(), BODY.values(), strict=False):
        assert start in BODY and end in BODY
        assert color == tuple(int(0.6 * part) for part in bright)
    assert len(BODY) == 18 and len(BONES) == 17
    assert POINT_COLORS.items() <= BODY.items() and LIMBS.items() <= BONES.items()


def test_visible_points_have_their_colours(figure):
    faceless = replace(figure, face=None)
    picture = drawn(faceless, 30.0)
    xy, visible = locate(faceless, Camera.orbit(30.0).label()[None])
    assert visible.sum() >= 6 and white(picture) == 0
    for name, (x, y), seen in zip(POINTS, (xy[0] * SIZE).long().tolist(), visible[0].tolist(), strict=True):
        if seen:
            assert picture[y, x].tolist() == list(BODY[name])


@pytest.mark.parametrize("yaw", [0.0, 40.0, -75.0])
def test_face_points_are_white_where_they_are_seen(figure, yaw):
    picture = drawn(figure, yaw)
    xy, visible = locate_face(figure, Camera.orbit(yaw).label()[None])
    x, y = (xy[0][visible[0]] * SIZE).long().unbind(1)
    assert len(x) > (65 if yaw == 0 else 30) and (picture[y, x] == 255).all()
    assert white(picture) > len(x) / 2


@pytest.mark.parametrize("yaw", [180.0, 130.0, -130.0, 150.0])
def test_no_face_is_seen_from_behind(figure, yaw):
    assert white(drawn(figure, yaw)) == 0
    assert not locate_face(figure, Camera.orbit(yaw).label()[None])[1].any()


def test_the_mirrored_camera_sees_the_twin_of_every_point(figure):
    (one, seen), (other, seen_too) = (
        locate_face(figure, Camera.orbit(yaw, 5.0).label()[None]) for yaw in (35.0, -35.0)
    )
    assert torch.equal(seen[0, list(TWIN)], seen_too[0])
    assert torch.allclose(one[0, list(TWIN)] * torch.tensor([-1, 1]) + torch.tensor([1, 0]), other[0], atol=1e-3)


def test_what_is_unknown_is_not_drawn(figure):
    assert drawn(replace(figure, key_points={}, face=None), 0.0).max() == 0
    eyeless = {name: point for name, point in figure.key_points.items() if "eye" not in name}
    assert white(drawn(replace(figure, key_points=eyeless), 0.0)) == 0
    with pytest.raises(StyleAvatarError, match="not known"):
        locate_face(replace(figure, face=None), Camera.orbit(0.0).label()[None])


def test_arms_are_drawn_where_they_are_known(figure):
    shoulder = figure.key_points["left_shoulder"]
    bent = figure.key_points | {"left_elbow": shoulder + torch.tensor([-0.05, 0.05, 0.05])}
    picture = drawn(replace(figure, key_points=bent), 0.0)
    color = torch.tensor(BODY["left_elbow"], dtype=torch.uint8)
    assert (picture == color).all(-1).any() and not (drawn(figure, 0.0) == color).all(-1).any()


def test_widths_are_those_of_the_networks():
    assert bone_width(512) == 4 and bone_width(768) == 6
    assert bone_width(1024) == 12, "xinsir's ControlNet for SDXL was taught thick bones"


def test_discs_and_spindles_cover_their_area():
    centre = torch.tensor([[20.3, 31.8]])
    for radius in (1.5, 4.0):
        assert discs(centre, radius, 64).sum().item() == pytest.approx(math.pi * radius**2, rel=0.05)
    bone = spindle(torch.tensor([10.0, 12.0]), torch.tensor([50.0, 42.0]), 4.0, 64)
    assert bone.sum().item() == pytest.approx(math.pi * 25 * 4, rel=0.03)
    assert bone[27, 30] == 1 and bone.max() == 1
    ends = spindle(torch.tensor([50.0, 42.0]), torch.tensor([10.0, 12.0]), 4.0, 64)
    assert torch.allclose(bone, ends, atol=1e-5)


def test_discs_beside_the_picture_leave_it_alone():
    assert discs(torch.tensor([[-9.0, 5.0], [5.0, 99.0]]), 3.0, 32).max() == 0
    assert discs(torch.zeros(0, 2), 3.0, 32).max() == 0
    half = discs(torch.tensor([[0.0, 16.0]]), 3.0, 32)
    assert half.sum().item() == pytest.approx(math.pi * 4.5, rel=0.1)
