from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from styleavatar3d.camera.cameras import Camera, orbit_labels
from styleavatar3d.camera.rays import rays
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import KINDS, NO_PART, PART_COLORS, PERSON, WALL, guide, hybrid
from styleavatar3d.figures.heads import EYE, FRAME, HAIR, SHIRT, SKIN, Figure
from styleavatar3d.figures.keypoints import POINT_COLORS, POINTS, draw, locate
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.rasterize import rasterize
from styleavatar3d.runtime.media import grid

LOOK = Look(hair="afro", gender="man", seed=7)
GOLDEN = Path(__file__).parents[1] / "golden" / "guidance.png"
RADIUS = 0.15


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


def test_what_the_miniature_was_taught_on_stays_as_it_was():
    """A change here means training its models again. Other processors may round a byte the other way."""
    figure = build_figure(Look(hair="long", gender="woman", glasses="round glasses", hat="none", smile=True, seed=11))
    sides = ((0.0, 0.0), (35.0, 15.0), (-100.0, -10.0), (180.0, 5.0))
    views = [guide(figure, Camera.orbit(*side), 64).pictures for side in sides]
    cells = [view[kind].permute(2, 0, 1) for kind in ("depth", "keypoints") for view in views]
    drawn = grid(torch.stack(cells), 4).permute(1, 2, 0).int()
    change = (drawn - torch.tensor(np.array(Image.open(GOLDEN))).int()).abs()
    assert change.max() <= 1 and (change > 0).float().mean() < 1e-3


def ball() -> Figure:
    """A figure of which everything is known: a sphere around the origin."""
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS)
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)
    parts = torch.full((len(faces),), HAIR)
    return Figure(vertices, faces, parts, vertices, vertices / RADIUS, {}, vertices[:1])


@pytest.mark.parametrize("yaw", [0.0, 70.0, -160.0])
def test_normals_of_a_ball_are_red_to_the_left_green_above_blue_in_front(yaw):
    camera, size = Camera.orbit(yaw, 20.0), 96
    picture = guide(ball(), camera, size, ("normals",)).pictures["normals"]
    origins, directions = rays(camera.label()[None], size)
    along = (origins * directions).sum(-1)
    hit = along.square() - origins.square().sum(-1) + RADIUS**2
    inside = (hit > 0.15 * RADIUS**2).view(size, size)
    outward = (origins - (along + hit.clamp(min=0).sqrt())[..., None] * directions) / RADIUS
    right, down, away = camera.world_from_camera[:3, :3].unbind(1)
    expected = torch.stack([-outward @ right, -outward @ down, -outward @ away], -1).view(size, size, 3)
    difference = (picture - 127.5 * (1 + expected))[inside]
    assert difference.abs().max() < 6 and difference.mean().abs() < 0.5
    assert picture[0, 0].tolist() == [128, 128, 255], "what is behind faces the camera"
    left, above = picture[size // 2, size // 2 - 18], picture[size // 2 - 18, size // 2]
    assert left[0] > 200 > 140 > left[1] and above[1] > 200 > 140 > above[0]


def test_near_is_brighter_than_far(figure):
    view = guide(figure, Camera.orbit(30.0, 10.0), 96, ("depth",))
    seen = view.mask == 255
    forward = Camera.orbit(30.0, 10.0).world_from_camera[:3, 2]
    _, directions = rays(Camera.orbit(30.0, 10.0).label()[None], 96)
    z = view.depth * (directions[0] @ forward).view(96, 96)
    order = z[seen].argsort()
    assert (view.pictures["depth"][..., 0][seen][order].int().diff() <= 0).all()


def test_only_what_is_asked_is_drawn(figure):
    camera = Camera.orbit(10.0)
    assert tuple(guide(figure, camera, 32).pictures) == ("depth", "keypoints")
    assert tuple(guide(figure, camera, 32, ("seg", "normals")).pictures) == ("seg", "normals")
    assert guide(figure, camera, 32, ()).pictures == {}
    everything = guide(figure, camera, 48, KINDS)
    assert tuple(everything.pictures) == KINDS
    assert all(picture.shape == (48, 48, 3) for picture in everything.pictures.values())
    assert all(picture.dtype == torch.uint8 for picture in everything.pictures.values())
    again = guide(figure, camera, 48, KINDS)
    assert all(torch.equal(picture, again.pictures[kind]) for kind, picture in everything.pictures.items())


def test_unknown_kinds_are_errors(figure):
    with pytest.raises(StyleAvatarError, match="no such guidance") as caught:
        guide(figure, Camera.orbit(0.0), 32, ("depth", "scribble"))
    assert "scribble" in str(caught.value) and "softedge" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_picture_is_guided_by_nothing(figure, kind):
    camera = Camera.orbit(0.0, 0.0, pivot=(3.0, 0.0, 0.0))
    picture = guide(figure, camera, 32, (kind,)).pictures[kind]
    nothing = {"normals": (128, 128, 255), "seg": WALL, "parts": PART_COLORS[NO_PART]}.get(kind, (0, 0, 0))
    assert (picture == torch.tensor(nothing, dtype=torch.uint8)).all()


@pytest.mark.parametrize("kind", ["normals", "canny", "softedge", "parts", "seg"])
def test_a_mirrored_camera_sees_the_mirrored_picture(kind):
    bald = build_figure(Look(hair="bald", seed=3))
    one, other = (guide(bald, Camera.orbit(yaw, 5.0), 96, (kind,)).pictures[kind].int() for yaw in (40.0, -40.0))
    other = other.flip(1)
    if kind == "normals":
        other[..., 0] = 255 - other[..., 0]
    differs = ((one - other).abs() > 24).any(-1)
    assert differs.float().mean() < (0.02 if kind == "canny" else 0.008)


def test_parts_have_the_colours_of_their_ids():
    look = Look(gender="man", hair="short", glasses="round glasses", beard="full beard", seed=5)
    figure, camera = build_figure(look), Camera.orbit(20.0)
    picture = guide(figure, camera, 128, ("parts",), 1).pictures["parts"]
    buffer = rasterize(figure.vertices, figure.faces, camera.label()[None], 128, figure.closed)
    ids = buffer.image(figure.parts[buffer.face], NO_PART)[0]
    shown = [(picture == torch.tensor(color, dtype=torch.uint8)).all(-1) for color in PART_COLORS]
    for part in (HAIR, FRAME, EYE, NO_PART):
        assert shown[part][ids == part].all() and (ids == part).any()
    painted = ids == SKIN
    assert (shown[SKIN] | shown[SHIRT] | shown[HAIR])[painted].all()
    assert shown[HAIR][painted].sum() > 200, "a full beard is hair"
    assert shown[SHIRT][painted][-400:].all() and len(set(PART_COLORS)) == len(PART_COLORS) == NO_PART + 1


def test_segments_are_a_person_before_a_wall(figure):
    view = guide(figure, Camera.orbit(75.0), 64, ("seg",))
    person = (view.pictures["seg"] == torch.tensor(PERSON, dtype=torch.uint8)).all(-1)
    wall = (view.pictures["seg"] == torch.tensor(WALL, dtype=torch.uint8)).all(-1)
    assert (person ^ wall).all() and person[view.mask > 128].all() and wall[view.mask < 127].all()


@pytest.mark.parametrize("size", [64, 96])
def test_a_figure_without_key_points_has_every_other_kind(size):
    pictures = guide(ball(), Camera.orbit(0.0), size, KINDS).pictures
    assert pictures["openpose"].max() == pictures["keypoints"].max() == 0
    assert all(pictures[kind].float().std() > 5 for kind in ("depth", "normals", "canny", "softedge", "parts", "seg"))
