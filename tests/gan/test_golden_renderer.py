"""The ancestors' plane sampling, importance sampling and marching against stored numbers."""

import goldens
import pytest
import torch
from goldens import gradients

from styleavatar3d.camera.ancestors import camera_labels
from styleavatar3d.camera.rays import rays
from styleavatar3d.gan.classic import Decoder
from styleavatar3d.gan.classic_config import ClassicDecoder
from styleavatar3d.gan.classic_renderer import (
    box_limits,
    crop_mask,
    cull_mask,
    importance_depths,
    inverse_cdf,
    march,
    plane_features,
    smooth_weights,
    stratified_depths,
    volume_features,
)


@pytest.mark.parametrize(("axes", "third"), [("eg3d", "zx"), ("corrected", "yz")])
@pytest.mark.parametrize("box", ["1", "1.6"])
def test_planes(axes, third, box):
    golden = goldens.load("plane_sampling")
    planes = golden["triplane_planes"].clone().requires_grad_()
    found = plane_features(planes, golden["points"], box=float(box), depth=None, third_plane=third)
    golden.check(f"triplane_features_{axes}_box{box}", found)
    if (axes, box) == ("eg3d", "1"):
        golden.check("triplane_grad_planes", *gradients(found, [planes], golden["triplane_dy"]))


@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize("box", ["1", "0.7"])
def test_grids(depth, box):
    golden = goldens.load("plane_sampling")
    planes = golden[f"trigrid_d{depth}_planes"].clone().requires_grad_()
    found = plane_features(planes, golden["points"], box=float(box), depth=depth)
    golden.check(f"trigrid_d{depth}_features_box{box}", found)
    if (depth, box) == (3, "1"):
        golden.check("trigrid_d3_grad_planes", *gradients(found, [planes], golden["trigrid_d3_dy"]))


@pytest.mark.parametrize("sizes", [(8,), (8, 16), (8, 16, 32, 64)])
def test_pyramids(sizes):
    golden = goldens.load("plane_sampling")
    levels = [golden[f"pyramid_planes_{size}"] for size in sizes]
    found = volume_features(levels, golden["pyramid_points"], box=0.7, depth=3)
    golden.check(f"pyramid_features_levels_{'_'.join(map(str, sizes))}_box0.7", found)


@pytest.mark.parametrize(
    ("name", "colors", "width", "rate", "features"),
    [
        ("eg3d", "sigmoid", 64, 1.0, "triplane_features_eg3d_box1"),
        ("eg3d_lr05", "sigmoid", 64, 0.5, "triplane_features_eg3d_box1"),
        ("panohead_none", "none", 64, 1.0, "trigrid_d3_features_box1"),
        ("panohead_lrelu", "lrelu", 64, 1.0, "trigrid_d3_features_box1"),
        ("panohead_sigmoid", "sigmoid", 64, 1.0, "trigrid_d3_features_box1"),
        ("pyramid", "none", 32, 1.0, "pyramid_features_levels_8_16_32_64_box0.7"),
    ],
)
def test_decoders(name, colors, width, rate, features):
    golden = goldens.load("plane_sampling")
    prefix = f"decoder_{'panohead' if name.startswith('panohead') else name}/"
    weights = {key.removeprefix(prefix): value for key, value in golden.tensors.items() if key.startswith(prefix)}
    outputs = weights["net.2.weight"].shape[0] - 1
    config = ClassicDecoder(width=width, features=outputs, colors=colors, lr_multiplier=rate)
    decoder = Decoder(golden[features].shape[-1], config)
    decoder.load_state_dict(weights)
    found, density = decoder(golden[features])
    golden.check(f"decoder_{name}_rgb", found)
    golden.check(f"decoder_{name}_sigma", density)


def test_what_is_cropped_and_culled():
    golden = goldens.load("plane_sampling")
    for points, box, margin in (("points", 1, 0.1), ("pyramid_points", 0.7, 0.1 * 0.7)):
        found = crop_mask(golden[points], box=box, margin=margin)
        assert torch.equal(found, golden[f"crop_mask_thresh01_box{box}"].bool())
    assert torch.equal(cull_mask(golden["cull_density"], 0.5), golden["cull_mask_0.5"].bool())


@pytest.mark.parametrize("white", [False, True])
@pytest.mark.parametrize("marcher", ["eg3d", "trigrid"])
def test_marching(marcher, white):
    golden, suffix = goldens.load("ray_marcher"), "_white_back" if white else ""
    colors, density = (golden[key].clone().requires_grad_() for key in ("colors", "densities"))
    depths = golden["depths"].clone().requires_grad_()
    maps, weights = march(depths[..., 0], colors, density[..., 0], white_background=white, signed=marcher == "eg3d")
    golden.check(f"{marcher}_rgb{suffix}", maps.features)
    golden.check(f"{marcher}_depth{suffix}", maps.depth[..., None])
    golden.check(f"{marcher}_weights{suffix}", weights[..., None])
    if marcher == "trigrid":
        golden.check("trigrid_mask", maps.weight[..., None] * 1.002 - 0.001)
    elif not white:
        found = gradients(maps.features, [colors, density, depths], golden["dy_rgb"])
        for key, gradient in zip(("colors", "densities", "depths"), found, strict=True):
            golden.check(f"eg3d_grad_{key}", gradient)


def test_importance_sampling():
    golden = goldens.load("ray_marcher")
    depths, weights = golden["imp_depths"][..., 0], golden["imp_weights"][..., 0]
    golden.check("imp_smoothed_weights", smooth_weights(weights)[..., 1:-1].flatten(0, 1))
    for count in (1, 9, 16):
        even = torch.linspace(0, 1, count).expand(1, 1, count)
        golden.check(f"imp_fine_deterministic_{count}", importance_depths(depths, weights, even)[..., None])
    drawn = golden["imp_u"].unflatten(0, depths.shape[:2])
    golden.check("imp_fine_explicit_u_9", importance_depths(depths, weights, drawn)[..., None])


def test_the_inverse_cdf():
    golden = goldens.load("ray_marcher")
    bins, weights = golden["pdf_bins"], golden["pdf_weights"]
    golden.check("pdf_samples_deterministic_12", inverse_cdf(bins, weights, torch.linspace(0, 1, 12).expand(5, 12)))
    golden.check("pdf_samples_explicit_u_12", inverse_cdf(bins, weights, golden["pdf_u"]))


def test_stratified_depths():
    golden = goldens.load("ray_marcher")
    middle, drawn = torch.full((2, 7, 12), 0.5), golden["stratified_jitter"][..., 0]
    golden.check("stratified_mean_jitter", stratified_depths(2.25, 3.3, middle)[..., None])
    golden.check("stratified_explicit", stratified_depths(2.25, 3.3, drawn)[..., None])
    found = stratified_depths(2.25, 3.3, middle, disparity=True)
    golden.check("stratified_disparity_mean_jitter", found[..., None])
    each = stratified_depths(torch.full((2, 7), 2.25), torch.full((2, 7), 3.3), middle, disparity=True)
    torch.testing.assert_close(each, found)


@pytest.mark.parametrize("box", ["1", "1.6"])
def test_where_rays_cross_the_box(box):
    golden = goldens.load("ray_marcher")
    near, far = box_limits(golden["box_ray_origins"], golden["box_ray_directions"], float(box))
    golden.check(f"box_{box}_near", near[..., None])
    golden.check(f"box_{box}_far", far[..., None])


def test_rays_of_skewed_and_off_centre_cameras():
    golden = goldens.load("ray_marcher")
    labels = camera_labels(golden["sampler_cam2world"], golden["sampler_intrinsics"])
    origins, directions = rays(labels, 5)
    golden.check("sampler_origins_5", origins)
    golden.check("sampler_directions_5", directions)
