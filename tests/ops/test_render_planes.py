import math

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops import (
    Decoder,
    March,
    render_planes,
    render_planes_reference,
    sample_field,
    sample_field_reference,
)
from styleavatar3d.ops._build import cpu_kernels

BOX = 0.8
GAIN = 10.0
CASES = {
    "miniature": ({"depths": (3, 1, 1), "samples": (14, 14)}, "leaky_relu", "sigmoid"),
    "tri-plane": ({"depths": (1, 1, 1), "channels": 32, "hidden": 64, "features": 32}, "softplus", "sigmoid"),
    "tri-grid": ({"depths": (3, 3, 3), "channels": 24, "features": 5}, "softplus", "none"),
    "coarse only": ({"samples": (7, 0), "channels": 8, "hidden": 16, "features": 1}, "leaky_relu", "none"),
    "odd sizes": ({"depths": (1, 2, 5), "channels": 12, "hidden": 18, "batch": 3, "rays": 5}, "softplus", "sigmoid"),
    "few samples": ({"samples": (2, 1), "batch": 1, "rays": 1}, "leaky_relu", "sigmoid"),
    "pyramid": ({"levels": (3, 6, 11), "depths": (3, 3, 3), "channels": 12, "features": 32}, "softplus", "none"),
    "pyramid of planes": ({"levels": (5, 9), "depths": (1, 1, 1), "channels": 16}, "leaky_relu", "sigmoid"),
    "one volume for all": ({"levels": (5, 9), "shared": True, "batch": 3}, "softplus", "leaky_relu"),
    "bfloat16": ({"bfloat16": True, "depths": (1, 1, 1), "channels": 32, "hidden": 64}, "softplus", "sigmoid"),
    "bfloat16 pyramid": ({"bfloat16": True, "levels": (4, 8), "channels": 8}, "leaky_relu", "none"),
    "EG3D's way": (
        {"march": March("eg3d"), "axes": "eg3d", "limit": math.inf, "colors": "sigmoid"},
        "softplus",
        "none",
    ),
    "disparity": ({"march": March(spacing="disparity"), "features": 6}, "softplus", "leaky_relu"),
    "EG3D's way in disparity": ({"march": March("eg3d", "disparity"), "depths": (2, 2, 2)}, "softplus", "sigmoid"),
    "crop": ({"march": March(crop=0.1), "levels": (4, 8)}, "leaky_relu", "sigmoid"),
    "density noise": ({"noise": True, "rays": 21}, "leaky_relu", "sigmoid"),
    "everything": (
        {"march": March("eg3d", crop=0.15), "noise": True, "backdrop": True, "levels": (4, 9), "bfloat16": True},
        "softplus",
        "leaky_relu",
    ),
}
OF_SCENE = ("depths", "channels", "hidden", "features", "samples", "batch", "rays", "levels", "shared", "bfloat16")

needs_kernel = pytest.mark.skipif(cpu_kernels() is None, reason="the CPU kernels cannot be built here")


def settings(options, hidden, colors):
    return {
        "box": BOX, "depths": options.get("depths", (3, 1, 1)), "density_gain": GAIN, "hidden": hidden, "colors": colors
    }  # fmt: skip


@pytest.fixture
def make_case(make_scene):
    """A function from a case's name to the arguments of `render_planes`."""

    def make(name):
        options, hidden, colors = CASES[name]
        scene = make_scene(**{key: value for key, value in options.items() if key in OF_SCENE})
        draw, rays = torch.Generator().manual_seed(1), scene.near.shape
        more = {key: options[key] for key in ("march", "axes", "limit") if key in options}
        if "noise" in options:
            samples = scene.coarse.shape[2] + scene.fine.shape[2]
            more["noise"] = torch.randn(*rays, samples, generator=draw)
        if "backdrop" in options:
            more["backdrop"] = torch.rand(rays, generator=draw)
        return scene, settings(options, hidden, colors) | more

    return make


def gradients(render, scene, upstream, **options):
    levels = [scene.planes] if torch.is_tensor(scene.planes) else scene.planes
    leaves = [part.detach().clone().requires_grad_() for part in (*levels, *scene.decoder)]
    scene = scene._replace(planes=leaves[: len(levels)], decoder=Decoder(*leaves[len(levels) :]))
    return [part.float() for part in torch.autograd.grad(render(*scene, **options), leaves, upstream)]


def assert_near(value, expected, relative):
    """Largest error, in units of the largest value."""
    assert value.shape == expected.shape
    assert ((value - expected).abs().max() <= relative * expected.abs().max().clamp(min=1e-3)).item()


@needs_kernel
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_equals_the_reference(make_case, name):
    scene, options = make_case(name)
    for value, expected in zip(
        render_planes(*scene, **options), render_planes_reference(*scene, **options), strict=True
    ):
        assert_near(value, expected, 5e-6)


@needs_kernel
@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_kernel_equal_those_of_the_reference(make_case, name):
    scene, options = make_case(name)
    upstream = [torch.randn_like(part) for part in render_planes_reference(*scene, **options)]
    values = gradients(render_planes, scene, upstream, **options)
    rounding = 2**-7 if "bfloat16" in CASES[name][0] else 3e-5  # one unit in the last place of the planes' format
    levels = len(values) - 4
    for index, (value, expected) in enumerate(
        zip(values, gradients(render_planes_reference, scene, upstream, **options), strict=True)
    ):
        assert_near(value, expected, rounding if index < levels else 3e-5)


@needs_kernel
@pytest.mark.parametrize("part", ["features", "mask", "depth"])
def test_one_output_alone_has_gradients(make_scene, part):
    scene, options = make_scene(), settings({}, "leaky_relu", "sigmoid")

    def total(render):
        return lambda *scene, **options: getattr(render(*scene, **options), part).sum()

    value, *_ = gradients(total(render_planes), scene, None, **options)
    expected, *_ = gradients(total(render_planes_reference), scene, None, **options)
    assert_near(value, expected, 3e-5)


@needs_kernel
@pytest.mark.parametrize("name", ["miniature", "everything"])
def test_pytorch_accepts_the_operator(make_case, name):
    scene, options = make_case(name)
    march = options.get("march", March())
    switches = [int(options["hidden"] == "leaky_relu"), 1, 0, int(march.sampling == "eg3d"), 0]
    rays = [part.contiguous() for part in (scene.origins, scene.directions, scene.near, scene.far, scene.far)]
    samples = [scene.coarse, scene.fine.sort(-1).values, options.get("noise", torch.empty(0))]
    levels = [scene.planes] if torch.is_tensor(scene.planes) else scene.planes
    leaves = [part.requires_grad_() for part in (*levels, *scene.decoder)]
    numbers = [BOX, GAIN, 30.0, march.crop]
    torch.library.opcheck(
        torch.ops.styleavatar3d.render_planes.default,
        (leaves[:-4], leaves[-4:], rays, samples, numbers, list(options["depths"]), switches),
        atol=1e-4,
        rtol=1e-3,
    )


@needs_kernel
def test_threads_change_nothing_but_rounding(make_scene):
    scene, options = make_scene(batch=1, rays=100), settings({}, "leaky_relu", "sigmoid")
    upstream = [torch.ones_like(part) for part in render_planes(*scene, **options)]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            pictures = render_planes(*scene, **options)
            results.append((pictures, gradients(render_planes, scene, upstream, **options)))
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(one, three)
    for one, three in zip(results[0][1], results[1][1], strict=True):
        assert_near(three, one, 1e-5)


@needs_kernel
@pytest.mark.parametrize("hidden", ["leaky_relu", "softplus"])
def test_huge_planes_make_no_nan(make_scene, hidden):
    scene, options = make_scene(), settings({}, hidden, "sigmoid")
    scene = scene._replace(planes=scene.planes * 200)
    upstream = [torch.ones_like(part) for part in render_planes(*scene, **options)]
    for part in (*render_planes(*scene, **options), *gradients(render_planes, scene, upstream, **options)):
        assert torch.isfinite(part).all()


@needs_kernel
def test_a_broken_network_shows(make_scene):
    scene = make_scene()
    scene.planes[0, :, :, :, 0] = math.nan
    seen = render_planes(*scene, **settings({}, "leaky_relu", "sigmoid"))
    assert seen.features[0].isnan().any()
    assert not seen.features[1].isnan().any()


@needs_kernel
def test_field_of_the_kernel_equals_the_reference(make_scene):
    options = {"box": BOX, "depths": (3, 1, 1), "hidden": "leaky_relu", "colors": "sigmoid"}
    scene, points = make_scene(), torch.rand(2, 53, 3) - 0.5
    values = sample_field(scene.planes, scene.decoder, points, **options)
    expected = sample_field_reference(scene.planes, scene.decoder, points, **options)
    for value, reference in zip(values, expected, strict=True):
        assert_near(value, reference, 5e-6)


def test_field_equals_the_decoder_of_panohead(plane_numbers):
    layers = [plane_numbers[f"decoder_panohead/net.{i}.{part}"] for i in (0, 2) for part in ("weight", "bias")]
    gains = [1 / layers[0].shape[1] ** 0.5, 1 / layers[2].shape[1] ** 0.5]  # equalised learning rate
    decoder = Decoder(layers[0].T * gains[0], layers[1], layers[2].T * gains[1], layers[3])
    planes = plane_numbers["trigrid_d3_planes"].view(1, 3, 8, 3, 12, 10).permute(0, 4, 5, 1, 3, 2).flatten(3, 4)
    for colors in ("sigmoid", "none"):
        features, raw_density = sample_field(
            planes, decoder, plane_numbers["points"], box=1, depths=(3, 3, 3), hidden="softplus", colors=colors
        )
        torch.testing.assert_close(features, plane_numbers[f"decoder_panohead_{colors}_rgb"], atol=2e-5, rtol=0)
        torch.testing.assert_close(
            raw_density, plane_numbers["decoder_panohead_sigmoid_sigma"][..., 0], atol=2e-5, rtol=0
        )


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["leaky_relu", "softplus"])
def test_the_reference_is_differentiable_twice_in_float64(make_scene, hidden):
    scene = make_scene(channels=3, hidden=4, features=2, samples=(4, 3), batch=1, rays=3, size=3, dtype=torch.float64)
    scene = scene._replace(fine=scene.fine[..., :0])  # importance depths count as constants, differences do not

    def render(planes, *decoder):
        changed = scene._replace(planes=planes, decoder=Decoder(*decoder))
        return tuple(render_planes(*changed, **settings({}, hidden, "sigmoid")))

    leaves = [part.requires_grad_() for part in (scene.planes, *scene.decoder)]
    assert torch.autograd.gradcheck(render, leaves)
    assert torch.autograd.gradgradcheck(render, leaves)


@pytest.mark.parametrize("render", [render_planes, render_planes_reference])
def test_an_even_volume_lets_through_exp_minus_density_times_length(make_scene, render):
    scene = make_scene(samples=(8, 4))
    raw = 0.7
    decoder = Decoder(*(torch.zeros_like(part) for part in scene.decoder[:3]), torch.tensor([raw, 0.0, 0.0, 0.0]))
    seen = render(*scene._replace(decoder=decoder), **settings({}, "leaky_relu", "sigmoid"))
    length = (scene.far - scene.near) / 8 * (7 + scene.coarse[..., 7] - scene.coarse[..., 0])
    expected = 1 - torch.exp(-GAIN * math.log1p(math.exp(raw - 1)) * length)
    torch.testing.assert_close(seen.mask, expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(seen.features, 0.5 * seen.mask[..., None].expand_as(seen.features), atol=2e-6, rtol=0)
    missed = scene.far == scene.near
    assert (seen.mask[missed] == 0).all() and (seen.depth[missed] == scene.far[missed]).all()


@pytest.mark.parametrize("render", [render_planes, render_planes_reference])
def test_an_empty_volume_is_transparent(make_scene, render):
    scene = make_scene()
    nothing = Decoder(*(torch.zeros_like(part) for part in scene.decoder[:3]), torch.tensor([-30.0, 0.0, 0.0, 0.0]))
    seen = render(*scene._replace(decoder=nothing), **settings({}, "softplus", "sigmoid"))
    assert seen.mask.abs().max() < 1e-6
    torch.testing.assert_close(seen.depth, scene.far)


@pytest.mark.parametrize("render", [render_planes, render_planes_reference])
def test_the_wall_in_front_hides_the_wall_behind(render):
    """Two opaque walls across z, coloured by a second channel; seen from the front (+z), then from the back."""
    size, walls = 64, torch.zeros(64, 2)
    walls[40:44], walls[20:24, 0] = 1, 1  # at z = +0.125 (bright) and z = -0.125 (dark)
    planes = torch.zeros(2, size, size, 3, 8)
    planes[..., 1, :2] = walls[:, None] * 3  # the (x, z) plane; the mean over planes makes it 1
    pick = torch.zeros(8, 8)
    pick[0, 0], pick[1, 1] = 1, 1
    output_weight = torch.zeros(8, 2)
    output_weight[0, 0], output_weight[1, 1] = 40, 20
    decoder = Decoder(pick, torch.zeros(8), output_weight, torch.tensor([-20.0, -10.0]))
    ends = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    axis = torch.tensor([0.0, 0.0, 1.0])
    near, far = torch.full((2, 1), 2.3), torch.full((2, 1), 3.1)
    jitter = torch.full((2, 1, 96), 0.5)
    seen = render(
        planes, decoder, 2.7 * ends * axis, -ends * axis, near, far, jitter, jitter,
        box=BOX, depths=(1, 1, 1), density_gain=50.0, hidden="leaky_relu", colors="sigmoid",
    )  # fmt: skip
    assert seen.mask.min() > 0.999
    assert seen.features[0, 0, 0] > 0.8
    assert seen.features[1, 0, 0] < 0.05
    assert seen.depth[0, 0].item() == pytest.approx(2.7 - 0.15, abs=0.015)  # where the walls' near faces are
    assert seen.depth[1, 0].item() == pytest.approx(2.7 - 0.15, abs=0.015)


@pytest.mark.parametrize("render", [render_planes, render_planes_reference])
def test_one_jitter_for_an_image_equals_the_same_for_each_ray(make_scene, render):
    scene, options = make_scene(), settings({}, "leaky_relu", "sigmoid")
    shared = scene._replace(fine=scene.fine[:, :1])
    each = shared._replace(coarse=shared.coarse.expand(2, 35, -1), fine=shared.fine.expand(2, 35, -1))
    for one, other in zip(render(*shared, **options), render(*each, **options), strict=True):
        assert torch.equal(one, other)


def test_gradients_to_rays_take_the_reference(make_scene):
    scene = make_scene()
    origins = scene.origins.clone().requires_grad_()
    render_planes(*scene._replace(origins=origins), **settings({}, "softplus", "none")).mask.sum().backward()
    assert origins.grad.abs().max() > 0


def test_shapes_that_do_not_belong_together_are_named(make_scene):
    scene, options = make_scene(), settings({}, "leaky_relu", "sigmoid")
    with pytest.raises(StyleAvatarError, match="slices of each plane do not agree"):
        render_planes(*scene, **{**options, "depths": (1, 1, 1)})
    with pytest.raises(StyleAvatarError, match="of no level"):
        render_planes(*scene._replace(planes=[]), **options)
    with pytest.raises(StyleAvatarError, match="levels of a pyramid differ"):
        render_planes(*scene._replace(planes=[scene.planes, scene.planes[..., :8]]), **options)
    with pytest.raises(StyleAvatarError, match="planes of batch 1"):
        render_planes(*scene._replace(planes=scene.planes.repeat(2, 1, 1, 1, 1)[:3]), **options)
    with pytest.raises(StyleAvatarError, match="density noise has a wrong shape"):
        render_planes(*scene, **options, noise=torch.zeros(2, 35, 3))
    with pytest.raises(StyleAvatarError, match="unknown sampling"):
        render_planes(*scene, **options, march=March("random"))  # type: ignore[arg-type]
    with pytest.raises(StyleAvatarError, match="disparity has no value at the camera"):
        near = torch.zeros_like(scene.near)
        render_planes(*scene._replace(near=near), **options, march=March(spacing="disparity"))
    with pytest.raises(StyleAvatarError, match="decoder does not fit"):
        render_planes(*scene._replace(planes=scene.planes[..., :8]), **options)
    with pytest.raises(StyleAvatarError, match="coarse jitter has a wrong shape"):
        render_planes(*scene._replace(coarse=scene.coarse[..., :1]), **options)


@pytest.mark.parametrize("render", [render_planes, render_planes_reference])
def test_a_level_of_zeros_changes_nothing_and_two_equal_levels_count_twice(make_scene, render):
    scene, options = make_scene(size=8), settings({}, "softplus", "none")
    one = render(*scene, **options)
    for levels in ([scene.planes, torch.zeros(2, 4, 5, 5, 16)], [scene.planes / 2, scene.planes / 2]):
        for value, expected in zip(render(*scene._replace(planes=levels), **options), one, strict=True):
            torch.testing.assert_close(value, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("render", [render_planes, render_planes_reference])
def test_noise_that_undoes_the_density_leaves_nothing(make_scene, render):
    scene = make_scene(samples=(8, 0))
    decoder = Decoder(*(torch.zeros_like(part) for part in scene.decoder[:3]), torch.tensor([20.0, 0.0, 0.0, 0.0]))
    noise = torch.full((2, 35, 8), -60.0)
    seen = render(*scene._replace(decoder=decoder), **settings({}, "softplus", "none"), noise=noise)
    assert seen.mask.max() < 1e-6


def test_quantiles_may_come_in_any_order(make_scene):
    scene, options = make_scene(), settings({}, "leaky_relu", "sigmoid") | {"march": March("eg3d")}
    noise = torch.randn(2, 35, 11)
    shuffled = torch.tensor([3, 0, 4, 2, 1])
    mixed = torch.cat([noise[..., :6], noise[..., 6:][..., shuffled]], -1)
    one = render_planes(*scene, **options, noise=noise)
    other = render_planes(*scene._replace(fine=scene.fine[..., shuffled]), **options, noise=mixed)
    for value, expected in zip(other, one, strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("render", [render_planes, render_planes_reference])
def test_the_same_numbers_give_the_same_picture(make_scene, render):
    scene, options = make_scene(), settings({}, "leaky_relu", "sigmoid")
    for one, other in zip(render(*scene, **options), render(*scene, **options), strict=True):
        assert torch.equal(one, other)


@needs_kernel
def test_tiny_numbers_are_zero_in_the_kernel_and_nowhere_else(make_case):
    """They are slow; `lanes.h` says how slow."""
    scene, options = make_case("miniature")
    upstream = [torch.full_like(part, 1e-40) for part in render_planes(*scene, **options)]
    assert not any(part.any() for part in gradients(render_planes, scene, upstream, **options))
    assert (torch.full((64,), 1e-40) * 0.5 > 0).all()
