"""The three families at tiny size: what their options do, and what they refuse."""

import pytest
import torch
from pydantic import ValidationError

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic import ClassicGenerator, mixed
from styleavatar3d.gan.classic_config import (
    ClassicBackground,
    ClassicConfig,
    ClassicDecoder,
    ClassicDiscriminatorConfig,
    ClassicRendering,
    ClassicSuperResolution,
)
from styleavatar3d.gan.classic_discriminators import ClassicDiscriminator
from styleavatar3d.gan.classic_renderer import ray_limits
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.stylegan2 import multiply_in

SMALL = {
    "z_dim": 8, "w_dim": 8, "channel_base": 64, "channel_max": 8, "plane_resolution": 16, "plane_channels": 4,
    "decoder": ClassicDecoder(width=8, features=6, colors="none"), "neural_resolution": 8, "image_resolution": 16,
    "super_resolution": ClassicSuperResolution(module="2x"),
}  # fmt: skip
NEAR = {"samples": (6, 6)}
CONFIGS = {
    "eg3d": ClassicConfig(
        family="eg3d", **SMALL | {"decoder": ClassicDecoder(width=8, features=6)}, rendering=ClassicRendering(**NEAR)
    ),
    "panohead": ClassicConfig(
        family="panohead", **SMALL, grid_depth=3, raw_layer=True, camera_shift=True,
        background=ClassicBackground(resolution=16, channel_base=64, channel_max=8),
        rendering=ClassicRendering(**NEAR, crop=0.1),
    ),
    "pyramid": ClassicConfig(
        family="pyramid", **SMALL, grid_depth=3, raw_layer=True, label_size=31, pose_numbers=6,
        background=ClassicBackground(resolution=8, channel_base=64, channel_max=8),
        rendering=ClassicRendering(**NEAR, near=2.385, far=3.12, box=0.7, crop=0.07),
    ),
}  # fmt: skip


def make(name: str, **changes) -> ClassicGenerator:
    torch.manual_seed(0)
    generator = ClassicGenerator(CONFIGS[name].model_copy(update=changes))
    for key, parameter in generator.named_parameters():
        if key.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.3)
    return generator


def labels(count: int, size: int = 25) -> torch.Tensor:
    cameras = orbit_labels(torch.arange(count) * 90.0, torch.full((count,), 5.0))
    return torch.nn.functional.pad(cameras, (0, size - 25), value=0.1)


@pytest.fixture(scope="module", params=CONFIGS)
def generator(request) -> ClassicGenerator:
    return make(request.param)


@torch.no_grad()
def test_latents_and_labels_make_views(generator):
    config = generator.config
    codes = generator.mapping(torch.randn(2, 8), labels(2, config.label_size))
    assert codes.shape == (2, config.slots, 8)
    planes = generator.planes(codes)
    assert [level.shape[-1] for level in planes] == config.level_resolutions
    view = generator.render(planes, labels(2), codes=codes)
    assert view.image.shape == (2, 3, 16, 16) and view.raw.shape == (2, 3, 8, 8)
    assert view.mask.shape == view.depth.shape == (2, 1, 8, 8)
    assert view.mask.min() >= -0.001 and view.mask.max() <= 1.001
    colors, density = generator.field(planes, torch.rand(2, 5, 3) - 0.5, codes)
    assert colors.shape == (2, 5, 3) and density.shape == (2, 5) and (density > 0).all()


@torch.no_grad()
def test_the_raw_picture_is_one_at_any_resolution_and_in_any_chunks(generator):
    codes = generator.mapping(torch.randn(1, 8), labels(1))
    planes = generator.planes(codes)
    whole = generator.render(planes, labels(1), 12, codes=codes, super_resolution=False)
    parts = generator.render(planes, labels(1), 12, codes=codes, super_resolution=False, chunk=31)
    assert whole.image.shape == (1, 3, 12, 12) and torch.equal(whole.image, whole.raw)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_every_parameter_learns(generator):
    z, conditions = torch.randn(4, 8), labels(4, generator.config.label_size)
    loss = generator(z, conditions).image.square().sum()
    if generator.pose_branch is not None:
        loss = loss + generator.body_pose(z, conditions).square().sum()
    loss.backward()
    idle = {name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()}
    # noise stays off in super-resolution; a pyramid's last picture block has no next one to learn from but its planes
    assert {name for name in idle if "superresolution" not in name} == set()
    assert all(name.endswith("noise_strength") for name in idle)
    generator.zero_grad()


@torch.no_grad()
def test_each_slot_has_its_say(generator):
    z = torch.randn(2, 8)
    codes = generator.mapping(z, labels(2))
    first, second = codes[:1], codes[1:]
    for slot in range(generator.config.slots):
        changed = first.clone()
        changed[:, slot] = second[:, slot]
        pictures = [generator.render(generator.planes(c), labels(1), codes=c).image for c in (first, changed)]
        assert not torch.equal(*pictures), slot
    crossed = mixed(first, second, 2)
    assert torch.equal(crossed[:, :2], first[:, :2]) and torch.equal(crossed[:, 2:], second[:, 2:])
    single = generator.planes(first[:, :1])
    assert all(torch.equal(a, b) for a, b in zip(single, generator.planes(first), strict=True))


@torch.no_grad()
def test_noise_modes(generator):
    codes = generator.mapping(torch.randn(1, 8), labels(1))
    const, again, none, drawn, other = (
        generator.planes(codes, noise=mode)[-1] for mode in ("const", "const", "none", "random", "random")
    )
    assert torch.equal(const, again)
    assert not torch.equal(const, none) and not torch.equal(drawn, other)


@torch.no_grad()
def test_truncation_and_its_cutoff(generator):
    z = torch.randn(3, 8)
    generator.backbone.mapping.w_avg.normal_()
    full, half, none = (generator.mapping(z, labels(3), truncation) for truncation in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, (full + none) / 2)
    cut = generator.mapping(z, labels(3), 0.5, 2)
    assert torch.equal(cut[:, :2], half[:, :2]) and torch.equal(cut[:, 2:], full[:, 2:])


@torch.no_grad()
def test_labels_condition_the_code():
    z = torch.randn(1, 8)
    generator = make("pyramid")
    told = [generator.mapping(z, label) for label in (None, labels(1), labels(1, 31))]
    assert not torch.equal(told[0], told[1] + 1) and not torch.equal(told[1], told[2])
    padded = torch.nn.functional.pad(labels(1), (0, 6))
    assert torch.equal(told[1], generator.mapping(z, padded))
    zeroed = make("pyramid", label_zeroed=True)
    assert torch.equal(zeroed.mapping(z, labels(1)), zeroed.mapping(z, labels(2)[1:]))
    scaled = make("pyramid", label_scale=0.0)
    assert torch.equal(scaled.mapping(z, labels(1)), zeroed.mapping(z, labels(1)))
    with pytest.raises(StyleAvatarError, match="labels have another size"):
        generator.mapping(z, torch.zeros(1, 28))
    free = make("eg3d", label_size=0)
    assert torch.equal(free.mapping(z, None), free.mapping(z, None))


@torch.no_grad()
def test_the_camera_shift_moves_the_view_but_not_the_code():
    generator, z, c = make("panohead"), torch.randn(2, 8), labels(2)
    moved = generator.shifted(z, c)
    kept = [index for index in range(25) if index not in (3, 7, 11)]
    assert torch.equal(moved[:, kept], c[:, kept]) and not torch.equal(moved, c)
    codes = generator.mapping(z, c)
    seen = generator.render(generator.planes(codes), moved, codes=codes)
    assert torch.equal(seen.image, generator(z, c).image)


@torch.no_grad()
def test_the_background_shows_where_the_volume_is_empty():
    generator = make("panohead")
    generator.decoder.net[2].bias[0] = -50.0
    z = torch.randn(2, 8)
    codes = generator.mapping(z, labels(2))
    planes = generator.planes(codes)
    view = generator.render(planes, labels(2), codes=codes)
    swapped = generator.render(planes, labels(2), codes=codes, background_codes=codes.flip(0))
    assert view.mask.abs().max() < 0.01 and not torch.equal(view.raw, swapped.raw)
    assert torch.equal(view.mask, swapped.mask)


@torch.no_grad()
def test_pictures_are_cropped_and_points_are_not():
    generator, open_wide = make("panohead"), make("panohead", rendering=ClassicRendering(**NEAR))
    generator.decoder.net[2].bias[0] = 50.0
    open_wide.load_state_dict(generator.state_dict())
    codes = generator.mapping(torch.randn(1, 8), labels(1))
    planes = generator.planes(codes)
    wide = labels(1)
    wide[:, [16, 20]] = 2.0
    cropped, whole = (g.render(planes, wide, codes=codes).mask for g in (generator, open_wide))
    assert cropped.min() < 0.1 and whole.min() > 0.9 and cropped.max() > 0.9
    points = torch.tensor([[[0.45, 0.0, 0.0]]])
    assert torch.equal(generator.raw_field(planes, points)[1], open_wide.raw_field(planes, points)[1])
    noisy = [open_wide.render(planes, labels(1), codes=codes, density_noise=100.0).mask for _ in range(2)]
    assert not torch.equal(*noisy)


@torch.no_grad()
def test_rays_that_miss_the_box_get_limits_of_those_that_hit():
    rendering = ClassicRendering(near="auto", far="auto", box=1.0)
    origins = torch.tensor([[[0.0, 0.0, 2.0], [0.0, 0.0, 2.5], [0.0, 3.0, 2.0]]])
    directions = torch.tensor([[[0.0, 0.0, -1.0]]]).repeat(1, 3, 1)
    near, far = ray_limits(origins, directions, rendering)
    torch.testing.assert_close(near, torch.tensor([[1.5, 2.0, 1.5]]))
    torch.testing.assert_close(far, torch.tensor([[2.5, 3.0, 2.0]]))
    generator = make("eg3d", rendering=ClassicRendering(**NEAR, near="auto", far="auto", disparity=True))
    assert generator(torch.randn(1, 8), labels(1), chunk=10).image.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"near": "auto", "far": "auto"}, {"disparity": True}, {"white_background": True}, {"samples": (5, 0)}],
    ids=str,
)
def test_the_fused_operator_is_the_plain_twin(generator, changes, monkeypatch):
    rendering = ClassicRendering.model_validate(generator.config.rendering.model_dump() | changes)
    monkeypatch.setattr(generator, "config", generator.config.model_copy(update={"rendering": rendering}))
    draws = torch.rand(2, 64, rendering.samples[0]), torch.rand(2, 64, rendering.samples[1])
    levels = [level.detach().requires_grad_() for level in generator.planes(generator.mapping(torch.randn(2, 8)))]

    def render() -> tuple:
        maps = generator._maps(levels, labels(2), 8, None, draws, 0.0, None)
        weights = torch.linspace(-1, 1, maps.features.shape[-1])
        return *maps, *torch.autograd.grad((maps.features * weights).sum() + maps.weight.sum(), levels)

    fused = render()
    monkeypatch.setattr("styleavatar3d.gan.classic.fusable", lambda *_: False)
    for one, other in zip(fused, render(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_gradients_reach_a_camera_that_moves():
    generator = make("panohead")
    view = generator(torch.randn(2, 8), labels(2))
    view.mask.sum().backward()
    assert generator.t_mapping.fc1.bias.grad.abs().min() > 0


@torch.no_grad()
def test_a_white_background():
    generator = make("eg3d", rendering=ClassicRendering(**NEAR, white_background=True))
    generator.decoder.net[2].bias[0] = -50.0
    codes = generator.mapping(torch.randn(1, 8), labels(1))
    view = generator.render(generator.planes(codes), labels(1), codes=codes)
    torch.testing.assert_close(view.raw, torch.ones(1, 3, 8, 8), atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("module", "rays", "image"), [("2x", 8, 16), ("4x", 8, 32), ("8x", 8, 32), ("8xdc", 8, 32)])
def test_super_resolution_modules(module, rays, image):
    sizes = {"neural_resolution": rays, "image_resolution": image}
    generator = make("eg3d", **sizes, super_resolution=ClassicSuperResolution(module=module))
    z = torch.randn(1, 8)
    assert generator(z, labels(1)).image.shape[-1] == image
    larger = generator(z, labels(1), resolution=20).image.shape[-1]
    assert larger == (40 if module == "4x" else image)


@torch.no_grad()
def test_a_saved_generator_comes_back_the_same(generator, tmp_path):
    generator.save_pretrained(str(tmp_path))
    loaded = Generator.from_pretrained(str(tmp_path))
    z = torch.randn(1, 8)
    assert torch.equal(loaded(z, labels(1)).image, generator(z, labels(1)).image)


def test_the_pose_heads_treat_both_sides_alike():
    from styleavatar3d.camera.cameras import mirror_labels

    generator, z = make("pyramid"), torch.randn(2, 8)
    left = orbit_labels(torch.tensor([40.0, 70.0]), torch.zeros(2))
    signs = torch.tensor([1, -1, -1, 1, -1, -1])
    torch.testing.assert_close(generator.body_pose(z, left) * signs, generator.body_pose(z, mirror_labels(left)))
    judge = ClassicDiscriminator(
        ClassicDiscriminatorConfig(
            family="pyramid", resolution=16, channel_base=64, channel_max=8, label_size=31, pose_numbers=6, mask=True
        )
    )
    image, raw, mask = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    seen = judge.body_pose(image, raw, left, mask)
    assert seen.shape == (2, 6)
    mirrored = judge.body_pose(image.flip(3), raw.flip(3), mirror_labels(left), mask.flip(3))
    torch.testing.assert_close(seen * signs, mirrored)


def test_what_does_not_fit_is_refused():
    generator = make("panohead")
    codes = generator.mapping(torch.randn(1, 8), labels(1))
    with pytest.raises(StyleAvatarError, match="another number of slots"):
        generator.planes(codes[:, :3])
    with pytest.raises(StyleAvatarError, match="depend on the codes"):
        generator.render(generator.planes(codes), labels(1))
    for changes in (
        {"grid_depth": None}, {"third_plane": "zx"}, {"plane_resolution": 24}, {"raw_layer": False},
        {"super_resolution": None}, {"rendering": {"near": "auto"}}, {"rendering": {"samples": (3, 3)}},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            ClassicConfig.model_validate(CONFIGS["panohead"].model_dump() | changes)


@pytest.mark.parametrize("name", CONFIGS)
def test_convolutions_in_bfloat16_change_pictures_a_little_and_nothing_else(name):
    """Nothing else: weights, what comes out, and what is differentiated stay float32."""
    exact, quick = make(name), make(name, convolutions="bf16")
    z, label = torch.randn(2, 8, generator=torch.Generator().manual_seed(1)), exact.front_label(2)
    seen = [generator(z, label) for generator in (exact, quick)]
    assert seen[1].image.dtype == torch.float32 and {p.dtype for p in quick.parameters()} == {torch.float32}
    error = (seen[1].image - seen[0].image).norm() / seen[0].image.norm()
    assert 1e-5 < error < 0.02
    gradients = [
        torch.autograd.grad(view.image.square().mean(), generator.backbone.synthesis.b8.conv1.weight)[0]
        for view, generator in zip(seen, (exact, quick), strict=True)
    ]
    assert torch.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0) > 0.99


def test_a_discriminator_can_multiply_in_bfloat16_and_go_back():
    torch.manual_seed(0)
    network = ClassicDiscriminator(
        ClassicDiscriminatorConfig(family="eg3d", resolution=16, channel_base=64, channel_max=8)
    )
    pictures, label = torch.randn(4, 3, 16, 16), orbit_labels(torch.zeros(4), torch.zeros(4))
    exact = network(pictures, pictures, label)
    multiply_in(network, torch.bfloat16)
    quick = network(pictures, pictures, label)
    assert quick.dtype == torch.float32 and 0 < (quick - exact).abs().max() < 0.05 * exact.abs().max().clamp(min=0.1)
    multiply_in(network, None)
    assert torch.equal(network(pictures, pictures, label), exact)
