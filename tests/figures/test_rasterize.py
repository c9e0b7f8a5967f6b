import pytest
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.camera.rays import rays
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.rasterize import project, rasterize
from styleavatar3d.figures.shapes import ball, vertex_normals

LABELS = orbit_labels(torch.tensor([0.0, 40.0, 180.0]), torch.tensor([0.0, 10.0, -20.0]))


def test_depth_of_a_sphere_is_the_closed_form():
    vertices, faces = ball((0.0, 0.0, 0.0), 0.2, 64)
    depth = rasterize(vertices, faces, LABELS, 96).depth()
    origins, directions = rays(LABELS, 96)
    along = (origins * directions).sum(-1)
    under_root = along**2 - origins.square().sum(-1) + 0.2**2
    exact = torch.where(under_root > 0, -along - under_root.clamp(min=0).sqrt(), torch.inf).view(depth.shape)
    inside = under_root.view(depth.shape) > 2e-3
    assert (depth - exact)[inside].abs().max() < 1e-3
    assert depth[under_root.view(depth.shape) < 0].isinf().all()


def test_weights_are_perspective_correct():
    """A plane that leans away: interpolated positions lie on the ray at the rasterised distance."""
    vertices = torch.tensor([[-0.5, -0.3, 0.4], [0.5, -0.3, 0.4], [0.0, 0.6, -1.5]])
    buffer = rasterize(vertices, torch.tensor([[0, 1, 2]]), LABELS[:1], 64)
    origins, directions = rays(LABELS[:1], 64)
    expected = origins[0, buffer.pixel] + directions[0, buffer.pixel] * buffer.distance[:, None]
    assert len(buffer.pixel) > 500
    assert (buffer.interpolate(vertices) - expected).abs().max() < 4e-3  # vertices are snapped to 1/256 pixel
    assert torch.allclose(buffer.weights.sum(1), torch.ones(len(buffer.pixel)), atol=1e-5)


def test_neighbours_share_every_pixel_exactly_once():
    """Two triangles of a square cover what the square covers, with no gap and no pixel lost on the diagonal."""
    corners = torch.tensor([[-0.2, -0.2, 0.0], [0.2, -0.2, 0.0], [0.2, 0.2, 0.0], [-0.2, 0.2, 0.0]])
    both = rasterize(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), LABELS[:1], 64)
    size = 0.2 * 4.2647 / 2.7 * 2 * 64
    assert len(both.pixel) == round(size) ** 2
    assert set(both.face.tolist()) == {0, 1}


def test_the_nearer_face_wins_and_ties_go_to_the_first():
    square = torch.tensor([[-0.2, -0.2, 0.0], [0.2, -0.2, 0.0], [0.0, 0.2, 0.0]])
    vertices = torch.cat([square, square + torch.tensor([0, 0, 0.1])])
    behind, before = [0, 1, 2], [3, 4, 5]
    assert (rasterize(vertices, torch.tensor([behind, before]), LABELS[:1], 32).face == 1).all()
    assert (rasterize(square, torch.tensor([behind, behind]), LABELS[:1], 32).face == 0).all()


def test_closed_faces_are_not_drawn_from_behind():
    vertices, faces = torch.tensor([[-0.2, -0.2, 0.0], [0.2, -0.2, 0.0], [0.0, 0.2, 0.0]]), torch.tensor([[0, 1, 2]])
    closed = torch.ones(1, dtype=torch.bool)
    assert len(rasterize(vertices, faces, LABELS[:1], 32, closed).pixel) > 0
    assert len(rasterize(vertices, faces, LABELS[2:], 32, closed).pixel) == 0
    assert len(rasterize(vertices, faces, LABELS[2:], 32).pixel) > 0


def test_views_of_a_batch_are_the_views_alone():
    vertices, faces = ball((0.05, 0.0, 0.1), 0.15, 10)
    together = rasterize(vertices, faces, LABELS, 48).depth()
    for view in range(3):
        assert torch.equal(together[view], rasterize(vertices, faces, LABELS[view : view + 1], 48).depth()[0])


def test_the_result_does_not_depend_on_threads():
    vertices, faces = ball((0.0, 0.0, 0.0), 0.2, 12)
    threads = torch.get_num_threads()
    depths = []
    for count in (1, 2):
        torch.set_num_threads(count)
        depths.append(rasterize(vertices, faces, LABELS, 48).depth())
    torch.set_num_threads(threads)
    assert torch.equal(*depths)


def test_the_figures_left_is_in_the_right_half_of_a_front_view():
    xy, depth = project(torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]]), LABELS[:1])
    assert xy[0, 0, 0] > 0.5 and xy[0, 1, 1] < 0.5 and depth[0, 2] == pytest.approx(2.6, abs=1e-5)


def test_slivers_flat_sides_and_corners_on_centres_are_covered_exactly():
    """Against brute force: a pixel is covered when its centre is on the inner side of all three snapped edges."""
    draws = torch.Generator().manual_seed(0)
    corners = torch.randint(-64, 65, (60, 3, 2), generator=draws).float() / 32 * 0.2
    corners[::3, 1, 1] = corners[::3, 0, 1]  # flat tops and bottoms
    vertices = torch.cat([corners, torch.zeros(60, 3, 1)], 2)
    centre = torch.stack(torch.meshgrid(*2 * [torch.arange(32) + 0.5], indexing="ij"), -1).flip(-1).double()
    for triangle in vertices:
        buffer = rasterize(triangle, torch.tensor([[0, 1, 2]]), LABELS[:1], 32)
        xy = (project(triangle.double(), LABELS[:1].double())[0][0] * 32 * 256).round()
        start, edge = xy, xy.roll(-1, 0) - xy
        side = torch.stack(
            [
                e[0] * (centre[..., 1] * 256 - s[1]) - e[1] * (centre[..., 0] * 256 - s[0])
                for e, s in zip(edge, start, strict=True)
            ]
        )
        flat = edge[0, 0] * edge[1, 1] == edge[0, 1] * edge[1, 0]
        inside = ((side >= 0).all(0) | (side <= 0).all(0)) & ~flat
        assert torch.equal(buffer.depth()[0].isfinite(), inside)


def test_blocks_hold_the_pixels_of_each_block():
    vertices, faces = ball((0.05, 0.0, 0.1), 0.15, 10)
    buffer = rasterize(vertices, faces, LABELS, 48)
    picture = buffer.image(buffer.distance, 0.0)
    mean = picture.view(3, 24, 2, 24, 2).mean((2, 4))
    assert torch.allclose(buffer.blocks(buffer.distance, 2, 0.0).mean(0), mean, atol=1e-6)


def test_faces_tell_whether_they_are_seen_from_behind():
    vertices, faces = torch.tensor([[-0.2, -0.2, 0.0], [0.2, -0.2, 0.0], [0.0, 0.2, 0.0]]), torch.tensor([[0, 1, 2]])
    assert not rasterize(vertices, faces, LABELS[:1], 32).behind.any()
    assert rasterize(vertices, faces, LABELS[2:], 32).behind.all()


def test_a_mesh_behind_the_camera_is_not_drawn():
    vertices, faces = ball((0.0, 0.0, 5.0), 0.2, 6)
    assert len(rasterize(vertices, faces, LABELS[:1], 32).pixel) == 0


def test_too_many_triangles_are_refused():
    faces = torch.zeros(1 << 22, 3, dtype=torch.long)
    with pytest.raises(StyleAvatarError, match="too many triangles"):
        rasterize(torch.zeros(3, 3), faces, LABELS, 32)


def test_normals_of_a_ball_point_outwards():
    vertices, faces = ball((0.0, 0.0, 0.0), 1.0, 16)
    normals = vertex_normals(vertices, faces)
    inner = vertices[:, 1].abs() < 0.9
    seam = vertices[:, 2] < -0.9  # the grid's first and last column meet there
    assert (normals * vertices).sum(1)[inner & ~seam].min() > 0.98


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_sees_what_the_cpu_sees():
    vertices, faces = ball((0.0, 0.0, 0.0), 0.2, 40)
    here = rasterize(vertices, faces, LABELS, 64)
    there = rasterize(vertices.cuda(), faces.cuda(), LABELS.cuda(), 64)
    assert torch.equal(here.pixel, there.pixel.cpu()) and torch.equal(here.face, there.face.cpu())
    assert torch.allclose(here.distance, there.distance.cpu(), atol=1e-5)
