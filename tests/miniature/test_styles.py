"""Styles tell themselves apart, features can be seen, and colours belong to the figure and not to the camera."""

from dataclasses import replace
from itertools import combinations

import pytest
import torch

from styleavatar3d.camera.cameras import Camera, orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.heads import EYE, SHIRT, TEETH
from styleavatar3d.figures.looks import COLOURLESS_STYLES, STYLES, Look
from styleavatar3d.figures.rasterize import project, rasterize
from styleavatar3d.miniature import backgrounds
from styleavatar3d.miniature.renders import render_view, render_views
from styleavatar3d.miniature.sheet import write_sheets
from styleavatar3d.miniature.styles import VIEW_DEPENDENT_STYLES, shade

LOOK = Look(gender="woman", skin="pale", hair="short", hair_color="red", eyes="green", shirt="striped shirt",
            shirt_color="blue", smile=True, seed=5)  # fmt: skip
OTHERS = (
    Look(kind="alien", skin="purple", hair="bob", hair_color="pink", eyes="yellow", shirt_color="white", seed=1),
    Look(gender="man", skin="dark", hair="afro", hair_color="black", beard="full beard", shirt_color="yellow", seed=2),
    Look(gender="man", age="old", skin="tan", hair="bald", shirt="turtleneck", shirt_color="red", seed=3),
)
MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def figure():
    return build_figure(LOOK)


@pytest.fixture(scope="module")
def pictures():
    """Every figure in every style, [figures, styles, size, size, 3]."""
    figures = [build_figure(look) for look in (LOOK, *OTHERS)]
    camera = Camera.orbit(20.0, 5.0)
    return torch.stack([
        torch.stack([render_view(figure, style, camera).image.float() for style in STYLES]) for figure in figures
    ])  # fmt: skip


def surface(figure, yaw, size=64):
    """World points, canonical points, normals and parts that a camera sees, and the buffer of it."""
    labels = orbit_labels(torch.tensor([yaw]), torch.tensor([5.0]))
    buffer = rasterize(figure.vertices, figure.faces, labels, size, figure.closed)
    world, canonical = buffer.interpolate(figure.vertices), buffer.interpolate(figure.canonical)
    normals = torch.nn.functional.normalize(buffer.interpolate(figure.normals), dim=1)
    return world, canonical, normals, figure.parts[buffer.face], buffer, labels


@pytest.mark.parametrize("style", STYLES)
def test_a_point_has_one_colour_whatever_else_is_seen(figure, style):
    _, points, normals, parts, _, _ = surface(figure, 30.0)
    colors, told = shade(figure, style, points, normals, parts)
    some = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[: len(points) // 3]
    alone, told_alone = shade(figure, style, points[some], normals[some], parts[some])
    assert torch.allclose(colors[some], alone, atol=1e-4) and torch.equal(told[some], told_alone)
    assert colors.min() >= 0 and colors.max() <= 1 and (told == SHIRT).any()


@pytest.mark.parametrize("style", STYLES)
def test_a_point_and_its_mirror_image_have_one_colour(figure, style):
    """But for points that lie on a border of paint or of cubes, where rounding decides."""
    _, points, normals, parts, _, _ = surface(figure, 30.0)
    one, _ = shade(figure, style, points, normals, parts)
    other, _ = shade(figure, style, points * MIRROR, normals * MIRROR, parts)
    assert ((one - other).abs().amax(1) > 0.02).float().mean() < 0.005


@pytest.mark.parametrize("style", STYLES)
def test_two_cameras_see_one_colour(figure, style):
    """Points that both see, a pixel apart at most: half of them differ by less than a grey level in a hundred."""
    world, points, normals, parts, _, _ = surface(figure, 10.0, 192)
    *seen, buffer, labels = surface(figure, 25.0, 192)
    colors = shade(figure, style, points, normals, parts)[0]
    canvas = buffer.image(shade(figure, style, *seen[1:])[0], -1.0)[0]
    xy, _ = project(world, labels)
    column, row = (xy[0] * 192).long().clamp(0, 191).unbind(1)
    distance = (world - labels[0, [3, 7, 11]]).norm(dim=1)
    same = (buffer.depth()[0][row, column] - distance).abs() < 0.004
    assert same.float().mean() > 0.5
    difference = (colors - canvas[row, column]).abs().mean(1)[same]
    assert difference.median() < 0.03


def test_only_ink_depends_on_the_view(figure):
    assert VIEW_DEPENDENT_STYLES == ("cel",)
    for style in STYLES:
        view = render_view(figure, style, Camera.orbit(0.0))
        assert view.view_dependent == (style == "cel")
    cel = render_view(figure, "cel", Camera.orbit(0.0), 256)
    dark = (cel.image.float().mean(-1) < 40) & (cel.mask == 255)
    assert 0.01 < dark.float().mean() < 0.12


def test_every_pair_of_styles_differs(pictures):
    for one, other in combinations(range(len(STYLES)), 2):
        difference = (pictures[:, one] - pictures[:, other]).abs().mean((1, 2, 3))
        assert difference.min() > 2.0, (STYLES[one], STYLES[other], difference)


def test_each_style_has_the_character_of_its_name(pictures):
    grey = pictures.mean(-1)
    smooth = torch.nn.functional.avg_pool2d(grey, 3, 1, 1)
    averages = {
        "chroma": pictures.amax(-1) - pictures.amin(-1),
        "light": grey,
        "detail": (grey - smooth).abs(),
        "black": (pictures.amax(-1) < 40).float(),
        "white": (pictures.amin(-1) > 235).float(),
        "warmth": pictures[..., 0] - pictures[..., 2],
    }
    score = {name: dict(zip(STYLES, values.mean((0, 2, 3)).tolist(), strict=True)) for name, values in averages.items()}
    assert max(score["chroma"]["marble"], score["chroma"]["pencil"]) < 5 < score["chroma"]["clay"]
    assert score["chroma"]["toy"] > score["chroma"]["cartoon"] > 1.15 * score["chroma"]["clay"]
    assert score["black"]["cel"] > 1.3 * score["black"]["cartoon"]
    assert score["white"]["toy"] > score["white"]["clay"]
    assert score["light"]["watercolour"] > score["light"]["cartoon"] + 5
    assert score["detail"]["voxel"] > 1.1 * score["detail"]["cartoon"]
    assert score["detail"]["pencil"] > 1.25 * score["detail"]["marble"]
    assert score["warmth"]["bronze"] == max(score["warmth"].values())


@pytest.mark.parametrize("style", COLOURLESS_STYLES)
def test_materials_hide_colours_and_show_shapes(style):
    """Another skin, hair, iris and shirt colour changes nothing; sunglasses and a beard do."""
    look = replace(LOOK, gender="man")
    camera = Camera.orbit(15.0, 5.0)
    plain = render_view(build_figure(look), style, camera).image.float()
    recoloured = replace(look, hair_color="blue", eyes="brown", shirt_color="black")
    assert torch.equal(render_view(build_figure(recoloured), style, camera).image.float(), plain)
    for change in ({"glasses": "sunglasses"}, {"beard": "full beard"}, {"hair": "afro"}):
        shown = render_view(build_figure(replace(look, **change)), style, camera).image.float()
        assert ((shown - plain).abs().amax(-1) > 25).sum() > 30, change


@pytest.mark.parametrize("age", ("child", "young", "old"))
@pytest.mark.parametrize("gender", ("man", "woman"))
def test_eyes_and_teeth_are_drawn_at_64_pixels(gender, age):
    look = replace(LOOK, gender=gender, age=age, eyes="blue", seed=8)
    view = render_view(build_figure(look), "cartoon", Camera.orbit(0.0))
    eyes = view.parts == EYE
    for half in (eyes[:, :32], eyes[:, 32:]):
        assert half.any(0).sum() >= 6 and half.any(1).sum() >= 3
    red, _, blue = view.image.float().unbind(-1)
    assert (eyes & (blue > red + 25)).sum() >= 12, "two irises"
    assert (eyes & (view.image.amin(-1) > 150)).sum() >= 6, "white around them"
    teeth = view.parts == TEETH
    assert teeth.sum() >= 5 and view.image[teeth].float().mean() > 150
    shut = render_view(build_figure(replace(look, smile=False)), "cartoon", Camera.orbit(0.0))
    assert (shut.parts == TEETH).sum() <= 2


def test_eyes_of_statues_are_blank_and_of_robots_alight():
    statue, robot = Look(kind="statue", skin="stone", eyes="blue", seed=4), Look(kind="robot", skin="gold", eyes="blue")
    stone, lamp = (render_view(build_figure(look), "cartoon", Camera.orbit(0.0)) for look in (statue, robot))
    eyes = stone.image[stone.parts == EYE].float()
    assert (eyes.amax(-1) - eyes.amin(-1)).max() < 60 and eyes.mean() > 90
    lit = lamp.image[lamp.parts == EYE].float()
    assert lit[:, 2].mean() > lit[:, 0].mean() + 40


def test_backgrounds_are_behind_the_figure(figure):
    assert backgrounds.NAMES[0] == "grey" and len(set(backgrounds.NAMES)) == len(backgrounds.NAMES) >= 6
    painted = {name: backgrounds.paint(name, 48) for name in backgrounds.NAMES}
    assert (painted["grey"] * 255 == 127).all()
    for one, other in combinations(painted.values(), 2):
        assert one.shape == (48, 48, 3) and one.min() >= 0 and one.max() <= 1
        assert (one - other).abs().mean() > 0.03
    labels = orbit_labels(torch.tensor([0.0, 0.0]), torch.tensor([5.0, 5.0]))
    grey, night = render_views(figure, "toy", labels, 48, backgrounds=["grey", "night"])
    inside, outside = grey.mask == 255, grey.mask == 0
    assert torch.equal(grey.image[inside], night.image[inside])
    assert torch.equal(night.image[outside], (painted["night"] * 255).round().to(torch.uint8)[outside])
    with pytest.raises(StyleAvatarError, match="unknown background"):
        backgrounds.paint("plaid", 32)


@pytest.mark.slow
def test_sheets_show_every_word(tmp_path):
    written = write_sheets(str(tmp_path), 32)
    assert {path.stem for path in tmp_path.glob("*.png")} >= {"styles", "hair", "expressions", "backgrounds"}
    assert len(written["files"]) == len(list(tmp_path.iterdir()))


def test_sheets_of_no_size_are_refused(tmp_path):
    with pytest.raises(StyleAvatarError, match="no such sheet"):
        write_sheets(str(tmp_path), 8)
