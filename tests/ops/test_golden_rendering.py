"""Planes, decoders and whole pictures of the EG3D family, by the plain functions and by the kernel."""

import goldens
import pytest
import torch

from styleavatar3d.ops import Decoder, March, render_planes, render_planes_reference, sample_field, sample_planes
from styleavatar3d.ops import composite as c
from styleavatar3d.ops.field import decode
from styleavatar3d.ops.render_planes import CROPPED
from styleavatar3d.ops.sample_planes import sample_each_plane

RENDERERS = pytest.mark.parametrize("render", [render_planes, render_planes_reference])


def from_channels_first(planes, depth=1):
    """[N, 3, channel * depth + slice, height, width] -> [N, height, width, 3 * depth, channels]."""
    batch, _, channels, height, width = planes.shape
    split = planes.reshape(batch, 3, channels // depth, depth, height, width)
    return split.permute(0, 4, 5, 1, 3, 2).reshape(batch, height, width, 3 * depth, channels // depth)


def decoder_of(weights, prefix, rate=1.0):
    """Effective weights of a stored decoder, equalised learning rate folded in."""
    hidden, output = weights[f"{prefix}net.0.weight"].T, weights[f"{prefix}net.2.weight"].T
    biases = [rate * weights[f"{prefix}net.{layer}.bias"] for layer in (0, 2)]
    return Decoder(hidden * rate / len(hidden) ** 0.5, biases[0], output * rate / len(output) ** 0.5, biases[1])


@pytest.mark.parametrize("axes", ["eg3d", "corrected"])
@pytest.mark.parametrize("box", [1, 1.6])
def test_planes(axes, box):
    golden = goldens.load("plane_sampling")
    planes = from_channels_first(golden["triplane_planes"]).requires_grad_()
    named = "eg3d" if axes == "eg3d" else "distinct"
    found = sample_each_plane(planes, golden["points"], box=box, depths=(1, 1, 1), axes=named)
    golden.check(f"triplane_features_{axes}_box{box}", found)
    if (axes, box) == ("eg3d", 1):
        (gradient,) = torch.autograd.grad((found * golden["triplane_dy"]).sum(), planes)
        wanted = from_channels_first(golden["triplane_grad_planes"])
        torch.testing.assert_close(gradient, wanted, atol=4e-5, rtol=0)


@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize("box", [1, 0.7])
def test_grids(depth, box):
    golden = goldens.load("plane_sampling")
    planes = from_channels_first(golden[f"trigrid_d{depth}_planes"], depth).requires_grad_()
    found = sample_each_plane(planes, golden["points"], box=box, depths=(depth,) * 3)
    golden.check(f"trigrid_d{depth}_features_box{box}", found)
    if (depth, box) == (3, 1):
        (gradient,) = torch.autograd.grad((found * golden["trigrid_d3_dy"]).sum(), planes)
        wanted = from_channels_first(golden["trigrid_d3_grad_planes"], 3)
        torch.testing.assert_close(gradient, wanted, atol=3e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(8,), (8, 16), (8, 16, 32, 64)])
def test_pyramids_are_sums_where_the_original_takes_the_mean_of_levels(sizes):
    golden = goldens.load("plane_sampling")
    levels = [from_channels_first(golden[f"pyramid_planes_{size}"], 3) for size in sizes]
    found = sample_planes(levels, golden["pyramid_points"], box=0.7, depths=(3, 3, 3)) / len(sizes)
    wanted = f"pyramid_features_levels_{'_'.join(map(str, sizes))}_box0.7"
    tolerance = golden.settings["tensors"][wanted]["suggested_atol"]
    torch.testing.assert_close(found, golden[wanted].mean(1), atol=tolerance, rtol=0)


@pytest.mark.parametrize("features, prefix, colors, result, rate", [
    ("triplane_features_eg3d_box1", "eg3d", "sigmoid", "eg3d", 1),
    ("triplane_features_eg3d_box1", "eg3d_lr05", "sigmoid", "eg3d_lr05", 0.5),
    ("trigrid_d3_features_box1", "panohead", "none", "panohead_none", 1),
    ("trigrid_d3_features_box1", "panohead", "leaky_relu", "panohead_lrelu", 1),
    ("trigrid_d3_features_box1", "panohead", "sigmoid", "panohead_sigmoid", 1),
    ("pyramid_features_levels_8_16_32_64_box0.7", "pyramid", "none", "pyramid", 1),
])  # fmt: skip
def test_decoders(features, prefix, colors, result, rate):
    golden = goldens.load("plane_sampling")
    decoder = decoder_of(golden, f"decoder_{prefix}/", rate)
    rgb, raw = decode(golden[features].mean(1), decoder, hidden="softplus", colors=colors)
    golden.check(f"decoder_{result}_rgb", rgb)
    golden.check(f"decoder_{result}_sigma", raw[..., None])


def test_a_whole_pyramid_field():
    """By the kernel where there is one; the mean over levels is folded into the decoder."""
    golden = goldens.load("plane_sampling")
    levels = [from_channels_first(golden[f"pyramid_planes_{size}"], 3) for size in (8, 16, 32, 64)]
    decoder = decoder_of(golden, "decoder_pyramid/")
    decoder = decoder._replace(hidden_weight=decoder.hidden_weight / 4)
    rgb, raw = sample_field(levels, decoder, golden["pyramid_points"], box=0.7, depths=(3, 3, 3), colors="none")
    golden.check("decoder_pyramid_rgb", rgb)
    golden.check("decoder_pyramid_sigma", raw[..., None])


def test_marching_over_white():
    golden = goldens.load("ray_marcher")
    depths, raw = golden["depths"][..., 0], golden["densities"][..., 0]
    seen = c.composite(depths, raw, golden["colors"], torch.zeros(2, 7))
    golden.check("eg3d_weights", c.interval_weights(depths, raw)[..., None])
    golden.check("eg3d_rgb", seen.features * 2 - 1)
    golden.check("eg3d_rgb_white_back", seen.over(1) * 2 - 1)
    golden.check("trigrid_rgb", seen.features)
    golden.check("trigrid_rgb_white_back", seen.over(1))
    golden.check("trigrid_mask", seen.mask[..., None] * 1.002 - 0.001)
    golden.check("eg3d_depth", c.mean_depth(seen, depths.min(), depths.max())[..., None])


def test_where_samples_lie():
    golden = goldens.load("ray_marcher")
    near, far = torch.full((2, 7), 2.25), torch.full((2, 7), 3.3)
    middle = torch.full((2, 1, 12), 0.5)
    for key, jitter, spacing in (
        ("stratified_mean_jitter", middle, "depth"),
        ("stratified_disparity_mean_jitter", middle, "disparity"),
        ("stratified_explicit", golden["stratified_jitter"][..., 0], "depth"),
    ):
        golden.check(key, c.stratified_depths(near, far, jitter, "eg3d", spacing)[..., None])
    depths, weights = golden["imp_depths"][..., 0], golden["imp_weights"][..., 0]
    for key, quantiles in (
        ("imp_fine_deterministic_16", torch.linspace(0, 1, 16).expand(2, 1, 16)),
        ("imp_fine_deterministic_9", torch.linspace(0, 1, 9).expand(2, 1, 9)),
        ("imp_fine_deterministic_1", torch.zeros(2, 1, 1)),
        ("imp_fine_explicit_u_9", golden["imp_u"].view(2, 7, 9)),
    ):
        golden.check(key, c.importance_depths(depths, weights, quantiles, "eg3d")[..., None])


@RENDERERS
@pytest.mark.parametrize("drawn", ["", "_explicit"])
def test_a_picture_of_eg3d_from_its_planes(render, drawn):
    golden, weights = goldens.load("eg3d_tiny"), goldens.weights("eg3d_tiny")
    planes = from_channels_first(golden["planes"].view(2, 3, 32, 32, 32))
    near, far = torch.full((2, 256), 2.25), torch.full((2, 256), 3.3)
    coarse = golden["jitter_explicit"][..., 0] if drawn else torch.full((2, 1, 12), 0.5)
    fine = golden["u_explicit"].view(2, 256, 12) if drawn else torch.linspace(0, 1, 12).expand(2, 1, 12)
    seen = render(
        planes, decoder_of(weights, "decoder."), golden["ray_origins"], golden["ray_directions"], near, far, coarse,
        fine, box=1.0, depths=(1, 1, 1), axes="eg3d", limit=torch.inf, march=March("eg3d"),
        backdrop=torch.zeros(2, 256),
    )  # fmt: skip
    golden.check(f"image_raw{drawn}", (seen.features * 2 - 1).mT.view(2, 32, 16, 16)[:, :3])
    ends = c.stratified_depths(near, far, coarse, "eg3d")[..., [0, -1]]
    depth = c.mean_depth(seen, ends.min(), ends.max()).view(2, 1, 16, 16)
    golden.check(f"image_depth{drawn}", depth, where=seen.mask.view(2, 1, 16, 16) > 1e-3)
    if not drawn:
        golden.check("alpha", seen.mask.view(2, 1, 16, 16))


def test_points_of_eg3d():
    golden, weights = goldens.load("eg3d_tiny"), goldens.weights("eg3d_tiny")
    planes = from_channels_first(golden["planes"].view(2, 3, 32, 32, 32))
    rgb, raw = sample_field(
        planes, decoder_of(weights, "decoder."), golden["query_points"], box=1.0, depths=(1, 1, 1), axes="eg3d",
        limit=torch.inf,
    )  # fmt: skip
    golden.check("query_rgb", rgb)
    golden.check("query_sigma", raw[..., None])


@RENDERERS
@pytest.mark.parametrize("box, crop", [(1.0, 0.4), (0.7, 0.28)])
def test_the_crop_of_panohead_and_portrait3d(render, box, crop):
    golden = goldens.load("plane_sampling")
    mask = golden[f"crop_mask_thresh01_box{box:g}"][..., 0].bool()
    points = golden["points" if box == 1 else "pyramid_points"]
    assert torch.equal(points[..., [0, 2]].abs().amax(-1) > crop, mask) and CROPPED == -1000
    opaque = Decoder(torch.zeros(8, 4), torch.zeros(4), torch.zeros(4, 2), torch.tensor([25.0, 0.0]))
    origins = points + torch.tensor([0.0, -1.0, 0.0])
    limits = torch.full((2, 120), 0.99), torch.full((2, 120), 1.01)
    seen = render(
        torch.zeros(1, 2, 2, 3, 8), opaque, origins, torch.tensor([0.0, 1.0, 0.0]).expand(2, 120, 3), *limits,
        torch.full((2, 1, 4), 0.5), torch.empty(2, 1, 0), box=box, depths=(1, 1, 1), density_gain=100.0,
        march=March(crop=crop),
    )  # fmt: skip
    assert torch.equal(seen.mask < 0.5, mask) and (seen.mask[mask] == 0).all()
