from dataclasses import replace

import pytest
import torch

from styleavatar3d.camera.cameras import Camera, orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import guide, hybrid
from styleavatar3d.figures.keypoints import POINT_COLORS, POINTS, draw, locate
from styleavatar3d.figures.looks import Look

LOOK = Look(hair="afro", gender="man", seed=7)


@pytest.fixture(scope="module")
def figure():
    return build_figure(LOOK)


def seen(figure, yaw, pitch=0.0):
    _, visible = locate(figure, Camera.orbit(yaw, pitch).label()[None])
    return {name for name, shown in zip(POINTS, visible[0].tolist(), strict=True) if shown}


def test_key_points_of_front_side_and_back(figure):
    body = {"neck", "left_shoulder", "right_shoulder"}
    ears = {"left_ear", "right_ear"}  # which full cheeks hide from the front
    assert seen(figure, 0) | ears == set(POINTS)
    assert seen(figure, 180) == body | {"left_ear", "right_ear"}
    left = seen(figure, 90)
    assert {"nose", "left_eye", "left_ear", "left_shoulder"} <= left
    assert not {"right_eye", "right_ear", "right_shoulder"} & left
    right = seen(figure, -90)
    assert {name.replace("left", "right") for name in left} == right


def test_hair_and_glasses_hide_no_key_point(figure):
    bald = build_figure(replace(LOOK, hair="bald"))
    masked = build_figure(replace(LOOK, hair="long", glasses="sunglasses"))
    for yaw in range(-180, 180, 30):
        assert seen(bald, yaw) == seen(masked, yaw)


def test_yaw_90_shows_the_left_ear_and_a_face_that_points_to_the_left(figure):
    xy, _ = locate(figure, Camera.orbit(90.0).label()[None])
    point = dict(zip(POINTS, xy[0], strict=True))
    assert point["nose"][0] < point["left_ear"][0] - 0.1


def test_key_points_outside_the_picture_are_not_drawn(figure):
    label = Camera.orbit(0.0, 0.0, pivot=(2.0, 0.0, 0.0)).label()[None]
    assert not locate(figure, label)[1].any()
    assert draw(*locate(figure, label), 32).max() == 0


def test_points_have_the_colours_of_the_body_layout(figure):
    labels = Camera.orbit(0.0).label()[None]
    xy, visible = locate(figure, labels)
    picture = draw(xy, visible, 256)[0]
    for name, (x, y), shown in zip(POINTS, (xy[0] * 256).long().tolist(), visible[0], strict=True):
        if not shown:
            continue
        assert picture[y, x].round().int().tolist() == list(POINT_COLORS[name])


def test_guidance_of_a_view(figure):
    view = guide(figure, Camera.orbit(30.0, 10.0), 64)
    assert view.pictures["depth"].shape == view.pictures["keypoints"].shape == (64, 64, 3)
    assert view.pictures["depth"].dtype == torch.uint8
    assert torch.equal(view.depth.isfinite(), view.mask > 0)
    covered = view.depth[view.mask > 0]
    assert 2.2 < covered.min() < covered.max() < 3.2
    grey = view.pictures["depth"][..., 0]
    assert grey[view.mask == 0].max() == 0 and grey.max() == 255
    nearest = view.depth.flatten().argmin()
    assert grey.flatten()[nearest] > 240
    assert (view.pictures["depth"] == grey[..., None]).all()


def test_a_mirrored_camera_sees_the_mirrored_guidance():
    """Figures are symmetric, so the two sides are mirror images up to how pixels fall."""
    bald = build_figure(Look(hair="bald", seed=3))
    one, other = guide(bald, Camera.orbit(40.0, 5.0), 64), guide(bald, Camera.orbit(-40.0, 5.0), 64)
    difference = (one.mask.float() - other.mask.flip(1).float()).abs().mean()
    assert difference < 1.0
    both = (one.mask == 255) & (other.mask.flip(1) == 255)
    assert (one.depth - other.depth.flip(1))[both].abs().mean() < 1e-3


def test_hybrid_draws_key_points_over_depth():
    depth = torch.full((2, 2, 3), 9, dtype=torch.uint8)
    points = torch.zeros_like(depth)
    points[0, 1] = torch.tensor([0, 0, 153], dtype=torch.uint8)
    mixed = hybrid(depth, points)
    assert mixed[0, 1].tolist() == [0, 0, 153] and (mixed.sum(-1) == 27).sum() == 3


def test_sizes_that_make_no_picture_are_errors(figure):
    with pytest.raises(StyleAvatarError, match="no picture"):
        guide(figure, Camera.orbit(0.0), 0)
    with pytest.raises(StyleAvatarError, match="no picture"):
        guide(figure, Camera.orbit(0.0), 64, supersample=0)


def test_locate_takes_many_views(figure):
    labels = orbit_labels(torch.tensor([0.0, 120.0]), torch.zeros(2))
    xy, visible = locate(figure, labels)
    assert xy.shape == (2, 8, 2) and visible.shape == (2, 8)
    assert torch.allclose(xy[1], locate(figure, labels[1:])[0][0])
