import pytest
import torch
import torch.nn.functional as F

from styleavatar3d.ops.sample_planes import sample_each_plane, sample_planes

BOX = 0.8


def from_channels_first(planes, depth):
    """[N, 3, channel * depth + slice, height, width] -> [N, height, width, 3 * depth, channels]."""
    batch, _, channels, height, width = planes.shape
    split = planes.view(batch, 3, channels // depth, depth, height, width)
    return split.permute(0, 4, 5, 1, 3, 2).reshape(batch, height, width, 3 * depth, channels // depth)


def ramps(size=32, depths=(1, 1, 1)):
    """Every plane holds its own width coordinate in channel 0 and its height coordinate in channel 1."""
    centres = (torch.arange(size) + 0.5) / size * 2 - 1
    u, v = centres.expand(size, size), centres[:, None].expand(size, size)
    return torch.stack([u, v], -1)[None, :, :, None].expand(1, size, size, sum(depths), 2)


@pytest.mark.parametrize("depths", [(1, 1, 1), (3, 1, 1), (3, 3, 3)])
def test_every_pair_of_axes_has_exactly_one_plane(depths):
    point = torch.tensor([0.1, -0.2, 0.3]) * BOX / 2
    features = sample_each_plane(ramps(depths=depths), point.view(1, 1, 3), box=BOX, depths=depths)[0, :, 0]
    x, y, z = 0.1, -0.2, 0.3
    for plane, expected in enumerate([(x, y), (x, z), (y, z)]):
        assert features[plane].tolist() == pytest.approx(expected, abs=1e-5)


def test_slices_of_a_grid_run_along_the_axis_its_plane_lacks():
    grid = torch.zeros(1, 4, 4, 9, 1)
    grid[..., 2::3, :] = 1  # the last slice of each of three
    end = 0.32  # between the centre of the last slice and its far edge
    for plane, axis in enumerate((2, 1, 0)):
        point = torch.zeros(1, 1, 3)
        point[..., axis] = end
        assert sample_each_plane(grid, point, box=BOX, depths=(3, 3, 3))[0, plane].item() > 0.6
        assert sample_each_plane(grid, -point, box=BOX, depths=(3, 3, 3))[0, plane].item() == 0


def test_a_grid_of_one_slice_would_fade_with_depth():
    plane, w = torch.randn(1, 2, 1, 6, 6), torch.linspace(-1, 1, 9)
    places = torch.stack([torch.full_like(w, 0.1), torch.full_like(w, 0.3), w], -1).view(1, 1, 1, -1, 3)
    as_grid = F.grid_sample(plane, places, align_corners=False)[0, :, 0, 0]
    as_plane = F.grid_sample(plane[:, :, 0], places[0, ..., :2], align_corners=False)[0, :, 0]
    torch.testing.assert_close(as_grid, as_plane * (1 - w.abs() / 2))


def test_outside_is_zero_and_the_mean_is_over_three_planes():
    planes = torch.ones(1, 4, 4, 3, 8)
    inside, outside = torch.zeros(1, 1, 3), torch.full((1, 1, 3), BOX)
    settings = {"box": BOX, "depths": (1, 1, 1)}
    assert sample_planes(planes, inside, **settings).unique().item() == pytest.approx(1)
    assert sample_planes(planes, outside, **settings).abs().max() == 0
    beyond_z = torch.tensor([[[0.0, 0.0, BOX]]])  # only the (x, y) plane still sees it
    assert sample_planes(planes, beyond_z, **settings).unique().item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("box", [1, 0.7])
def test_grids_equal_those_of_panohead(plane_numbers, box):
    planes = from_channels_first(plane_numbers["trigrid_d3_planes"], 3)
    features = sample_each_plane(planes, plane_numbers["points"], box=box, depths=(3, 3, 3))
    torch.testing.assert_close(features, plane_numbers[f"trigrid_d3_features_box{box}"], atol=2e-5, rtol=0)


def test_planes_equal_corrected_ones_of_eg3d(plane_numbers):
    planes = from_channels_first(plane_numbers["triplane_planes"], 1)
    features = sample_each_plane(planes, plane_numbers["points"], box=1, depths=(1, 1, 1))
    torch.testing.assert_close(features, plane_numbers["triplane_features_corrected_box1"], atol=2e-5, rtol=0)
