import pytest
import torch
from torch.nn.functional import max_pool2d

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.edges import blur, canny, exposed, shadows, soft_edges
from styleavatar3d.figures.guidance import guide
from styleavatar3d.figures.looks import Look


@pytest.fixture(scope="module")
def view():
    figure = build_figure(Look(hair="bald", seed=3))
    return guide(figure, Camera.orbit(30.0, 5.0), 192, ("canny", "softedge"))


def grown(mask, pixels):
    return max_pool2d(mask[None, None].float(), 2 * pixels + 1, 1, pixels)[0, 0] > 0


def step(height, size=64):
    picture = torch.full((size, size), 60.0)
    picture[:, size // 2 :] += height
    return picture


def disc(size=128, radius=40.0):
    at = torch.arange(size) + 0.5 - size / 2
    return at.square()[None] + at.square()[:, None], radius


def test_thresholds_are_sobel_gradients():
    """Across a step of h, Sobel's operator answers 4 h."""
    assert not canny(step(24.0)).any(), "less than the lower threshold"
    assert canny(step(51.0)).any(), "more than the higher"
    assert not canny(step(40.0)).any(), "between the two, joined to nothing"
    picture = step(40.0)
    picture[:8, 32:] += 40
    assert canny(picture)[20:60].any(), "between the two, joined to something strong"


def test_edges_are_thin_and_lie_where_brightness_changes():
    square, radius = disc()
    edges = canny(255 * (radius + 0.5 - square.sqrt()).clamp(0, 1))
    away = (square.sqrt() - radius).abs()
    assert edges[away < 1].any() and not edges[away > 1.5].any()
    assert edges.sum() < 2 * 3.1416 * radius * 1.3
    ring = (away < 0.7).float()
    assert (grown(edges, 1)[ring > 0]).float().mean() > 0.99, "the circle is closed"
    assert torch.equal(canny(torch.full((32, 32), 77.0)), torch.zeros(32, 32, dtype=torch.bool))


def test_canny_draws_the_silhouette(view):
    edges = view.pictures["canny"][..., 0]
    assert set(edges.unique().tolist()) == {0, 255} and (view.pictures["canny"] == edges[..., None]).all()
    inside = view.mask > 127
    border = grown(inside, 1) & grown(~inside, 1)
    border[:, :2] = border[:, -2:] = border[:2] = border[-2:] = False
    assert (grown(edges > 0, 2)[border]).float().mean() > 0.98
    assert not (edges > 0)[~grown(inside, 2)].any(), "nothing is drawn beside the figure"


def test_a_face_has_lines_and_the_back_of_a_head_has_none():
    figure = build_figure(Look(hair="bald", seed=3))
    front, back = (guide(figure, Camera.orbit(yaw), 192, ("canny", "softedge")) for yaw in (0.0, 180.0))
    for kind, some in (("canny", 150), ("softedge", 400)):
        face, nape = (view.pictures[kind][70:110, 80:112, 0] > 60 for view in (front, back))
        assert face.sum() > some and not nape.any(), kind


def test_soft_lines_are_brightest_on_edges_and_fade(view):
    lines = view.pictures["softedge"][..., 0].float()
    hard = view.pictures["canny"][..., 0] > 0
    assert lines[hard].mean() > 150 > 15 > lines[~grown(hard, 10)].mean()
    assert len(lines.unique()) > 64


def test_soft_lines_know_no_sign_and_no_shading():
    picture = step(60.0)[None] / 255
    lines = soft_edges(picture)
    assert torch.allclose(lines, soft_edges(1 - picture), atol=1e-5)
    assert lines[0, :, 31:33].min() > 0.5 and lines[0, :, :20].max() < 0.01
    assert torch.allclose(lines, lines.flip(2), atol=1e-5)
    slope = torch.linspace(0, 1, 256).expand(1, 256, 256)
    assert soft_edges(slope).max() < 0.03, "light that falls off is no line"


def test_soft_lines_scale_with_the_picture():
    small, large = (soft_edges(step(80.0, size)[None, :32] / 255)[0, 16] for size in (512, 1024))
    assert large.max().item() == pytest.approx(small.max().item(), abs=0.05) and small.max() > 0.8
    assert large.sum().item() == pytest.approx(2 * small.sum().item(), rel=0.1), "twice as many pixels, as wide a line"


def test_blur_keeps_sums_and_constants():
    assert torch.allclose(blur(torch.full((1, 9, 9), 3.0), 2.0), torch.full((1, 9, 9), 3.0))
    dot = torch.zeros(1, 33, 33)
    dot[0, 16, 16] = 1
    soft = blur(dot, 2.0)[0]
    at = torch.arange(33) - 16.0
    assert soft.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert ((soft.sum(0) * at.square()).sum().sqrt()).item() == pytest.approx(2.0, rel=0.02)


def test_shadows_lie_behind_what_is_near():
    depth = torch.full((1, 64, 64), torch.inf)
    depth[:, 8:56, 8:56] = 2.7
    depth[:, 20:44, 20:44] = 2.6
    dark = shadows(depth)[0]
    assert dark[32, 19] > 0.3 and dark[32, 20:44].max() == 0, "beside the near square, and not on it"
    assert dark[~depth[0].isfinite()].max() == 0 and dark[9, 9] == 0, "the outer border is in nobody's shadow"
    assert shadows(torch.full((1, 16, 16), torch.inf)).max() == 0


def test_colours_are_exposed_to_their_brightest():
    grey = exposed(torch.tensor([[0.2, 0.2, 0.2], [0.1, 0.1, 0.1]]))
    assert grey.tolist() == pytest.approx([0.95, 0.475], abs=1e-5)
    assert exposed(torch.zeros(3, 3)).max() == 0 and len(exposed(torch.zeros(0, 3))) == 0
