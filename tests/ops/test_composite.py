import math

import pytest
import torch
import torch.nn.functional as F

from styleavatar3d.ops import composite as c


def test_a_slab_of_constant_density_lets_through_exp_minus_density_times_thickness():
    raw, gain = 0.7, 3.0
    depths = torch.tensor([2.0, 2.1, 2.35, 2.5, 3.0], dtype=torch.float64)
    density = gain * math.log1p(math.exp(raw - 1))
    seen = c.composite(
        depths, torch.full_like(depths, raw), torch.ones(5, 2, dtype=torch.float64), depths.new_tensor(3.0), gain
    )
    assert seen.mask.item() == pytest.approx(1 - math.exp(-density), abs=1e-12)
    assert seen.features.tolist() == pytest.approx([seen.mask.item()] * 2)


def test_an_empty_ray_is_transparent_and_ends_at_far():
    seen = c.composite(torch.linspace(2, 3, 6), torch.full((6,), -30.0), torch.rand(6, 3), torch.tensor(3.25))
    assert seen.mask.item() == pytest.approx(0, abs=1e-9)
    assert seen.depth.item() == pytest.approx(3.25)
    assert seen.features.abs().max() < 1e-9


def test_the_nearer_of_two_opaque_walls_hides_the_other():
    depths = torch.linspace(2, 3, 11)
    raw = torch.full((11,), -30.0)
    raw[[3, 4, 7, 8]] = 30.0
    colors = torch.zeros(11, 2)
    colors[3:5, 0], colors[7:9, 1] = 1, 1
    seen = c.composite(depths, raw, colors, torch.tensor(3.0), density_gain=1000.0)
    assert seen.mask.item() == pytest.approx(1)
    assert seen.features[1].item() == 0
    assert seen.features[0].item() > 0.4  # an interval has the mean colour of its ends: air and wall
    assert seen.depth.item() == pytest.approx(2.25, abs=1e-4)  # the middle of the interval in which the wall begins


def test_marching_equals_that_of_eg3d(ray_numbers):
    depths, raw = ray_numbers["depths"][..., 0], ray_numbers["densities"][..., 0]
    weights = c.interval_weights(depths, raw)
    torch.testing.assert_close(weights, ray_numbers["eg3d_weights"][..., 0], atol=1e-6, rtol=0)
    seen = c.composite(depths, raw, ray_numbers["colors"], depths[..., -1])
    torch.testing.assert_close(seen.features, ray_numbers["trigrid_rgb"], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.mask * 1.002 - 0.001, ray_numbers["trigrid_mask"][..., 0], atol=1e-5, rtol=0)
    hit = seen.mask > 1e-3
    mean_depth = (seen.depth - (1 - seen.mask) * depths[..., -1]) / seen.mask
    torch.testing.assert_close(mean_depth[hit], ray_numbers["trigrid_depth"][..., 0][hit], atol=1e-5, rtol=0)


def test_gradients_of_marching_equal_those_of_eg3d(ray_numbers):
    raw, colors = (ray_numbers[name].clone().requires_grad_() for name in ("densities", "colors"))
    depths = ray_numbers["depths"][..., 0]
    seen = c.composite(depths, raw[..., 0], colors, depths[..., -1])
    (2 * seen.features * ray_numbers["dy_rgb"]).sum().backward()  # EG3D scales features by * 2 - 1
    torch.testing.assert_close(raw.grad, ray_numbers["eg3d_grad_densities"], atol=1e-5, rtol=0)
    torch.testing.assert_close(colors.grad, ray_numbers["eg3d_grad_colors"], atol=1e-5, rtol=0)


def test_smoothing_and_inversion_equal_those_of_eg3d(ray_numbers):
    weights = ray_numbers["imp_weights"][..., 0].flatten(0, 1)
    smooth = c.smooth_weights(weights)
    torch.testing.assert_close(smooth[:, 1:-1], ray_numbers["imp_smoothed_weights"], atol=1e-6, rtol=0)
    drawn = c.inverse_cdf(ray_numbers["imp_bins"], smooth[:, 1:-1], ray_numbers["imp_u"])
    torch.testing.assert_close(drawn, ray_numbers["imp_fine_explicit_u_9"][..., 0].flatten(0, 1), atol=1e-5, rtol=0)
    drawn = c.inverse_cdf(ray_numbers["pdf_bins"], ray_numbers["pdf_weights"], ray_numbers["pdf_u"])
    torch.testing.assert_close(drawn, ray_numbers["pdf_samples_explicit_u_12"], atol=1e-5, rtol=0)


def test_stratified_depths_are_those_of_eg3d_when_far_is_one_part_further(ray_numbers):
    jitter = ray_numbers["stratified_jitter"][..., 0]
    near = torch.full(jitter.shape[:2], 2.25)
    far = near + (3.3 - 2.25) * 12 / 11
    torch.testing.assert_close(
        c.stratified_depths(near, far, jitter), ray_numbers["stratified_explicit"][..., 0], atol=1e-5, rtol=0
    )


def test_importance_samples_gather_where_the_weight_is_and_stay_sorted():
    depths = torch.linspace(2, 3, 11)[None]
    weights = torch.zeros(1, 10)
    weights[0, 6] = 1  # between 2.6 and 2.7
    drawn = c.importance_depths(depths, weights, torch.rand(1, 200))
    assert (drawn.diff() >= 0).all()
    assert ((drawn > 2.5) & (drawn < 2.8)).float().mean() > 0.9
    assert drawn.mean().item() == pytest.approx(2.65, abs=0.02)


def test_a_missed_ray_has_samples_of_no_length():
    near = torch.tensor([2.0, 2.0])
    far = torch.tensor([2.0, 1.0])
    assert (c.stratified_depths(near, far, torch.rand(1, 5)) == 2).all()
    assert c.interval_weights(torch.full((5,), 2.0), torch.full((5,), 30.0)).sum() == 0
    assert torch.isfinite(c.importance_depths(torch.full((1, 5), 2.0), torch.zeros(1, 4), torch.rand(1, 5))).all()


def test_weights_are_differentiable_in_float64():
    depths = torch.rand(2, 6, dtype=torch.float64).sort(-1).values
    raw = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda raw: c.interval_weights(depths, raw, 4.0), raw)
    assert F.relu(-c.interval_weights(depths, raw, 4.0)).max() == 0
