"""The generator's interface: shapes, truncation, files, super-resolution."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.generator import Generator, GeneratorConfig, Jitter, mix_styles

TINY = GeneratorConfig(z_dim=8, w_dim=8, widths=(8, 8, 8), resolution=16, decoder_width=16, samples=(4, 4))


def labels(count: int) -> torch.Tensor:
    return orbit_labels(torch.arange(count) * 90.0, torch.full((count,), 5.0))


@pytest.mark.parametrize("depths", [(1, 1, 1), (3, 1, 1), (3, 3, 3)])
def test_a_latent_and_a_camera_make_a_view(depths):
    generator = Generator(TINY.model_copy(update={"depths": depths}))
    planes = generator.planes(generator.mapping(torch.randn(2, 8)))
    assert [level.shape for level in planes.levels] == [(2, 16, 16, sum(depths), 16)] and len(planes) == 2
    assert generator.config.volume == ("triplane" if max(depths) == 1 else "trigrid")
    view = generator.render(planes, labels(2))
    assert view.image.shape == view.raw.shape == (2, 3, 16, 16) and view.image.abs().max() <= 1.01
    assert view.mask.shape == view.depth.shape == (2, 1, 16, 16)
    assert view.mask.min() >= 0 and view.mask.max() <= 1.001
    assert generator.render(planes, labels(2), 8, (3, 0)).image.shape == (2, 3, 8, 8)


def test_empty_rays_are_mid_grey():
    generator = Generator(TINY)
    with torch.no_grad():
        generator.renderer.decoder.output_bias[0] = -30
        generator.renderer.decoder.output_weight[:, 0] = 0
    view = generator(torch.randn(1, 8), labels(1))
    assert view.mask.abs().max() < 1e-4 and view.image.abs().max() < 1e-4


def test_truncation_draws_codes_to_the_mean():
    generator = Generator(TINY)
    generator.measure_mean_code()
    z = torch.randn(512, 8)
    full, half, none = (generator.mapping(z, t) for t in (1.0, 0.5, 0.0))
    assert full.shape == (512, generator.config.slots, 8)
    assert torch.allclose(half, (full + none) / 2, atol=1e-5)
    assert torch.allclose(none[0, 0], generator.w_mean) and (none == none[:1]).all()


def test_truncation_may_spare_fine_slots():
    generator = Generator(TINY)
    z = torch.randn(3, 8)
    full, drawn = generator.mapping(z), generator.mapping(z, 0.3)
    spared = generator.mapping(z, 0.3, cutoff=2)
    assert torch.equal(spared[:, :2], drawn[:, :2]) and torch.equal(spared[:, 2:], full[:, 2:])
    assert torch.equal(generator.mapping(z, 0.3, cutoff=0), full)


def test_styles_mix_by_slots():
    codes, others = torch.zeros(2, 6, 8), torch.ones(2, 6, 8)
    mixed = mix_styles(codes, others, torch.tensor([2, 6]))
    assert mixed[..., 0].tolist() == [[0, 0, 1, 1, 1, 1], [0] * 6]
    assert torch.equal(mix_styles(codes, others, 4)[0, :, 0], torch.tensor([0.0, 0, 0, 0, 1, 1]))


def test_every_slot_may_have_a_code_of_its_own():
    generator = Generator(TINY).requires_grad_(False)
    codes = generator.mapping(torch.randn(1, 8)).clone()
    before = generator.planes(codes).levels[0]
    for slot in range(generator.config.slots):
        changed = codes.clone()
        changed[:, slot] += 1
        after = generator.planes(changed)
        assert not torch.equal(after.levels[0], before), slot
    with pytest.raises(StyleAvatarError, match="codes are those of another generator"):
        generator.planes(codes[:, :4])


@pytest.mark.parametrize("levels", ["single", "pyramid"])
def test_all_parameters_learn(levels):
    generator = Generator(TINY.model_copy(update={"levels": levels, "coarsest": 4}))
    view = generator(torch.randn(4, 8), labels(4))
    (view.image.square().sum() + view.mask.sum()).backward()
    assert [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_one_jitter_serves_a_whole_image():
    generator = Generator(TINY)
    planes = generator.planes(generator.mapping(torch.randn(1, 8)))
    middle = generator.render(planes, labels(1), jitter=Jitter(torch.full((1, 1, 4), 0.5), torch.full((1, 1, 4), 0.5)))
    assert torch.equal(middle.image, generator.render(planes, labels(1)).image)
    moved = generator.render(planes, labels(1), jitter=Jitter(torch.zeros(1, 1, 4), torch.full((1, 1, 4), 0.5)))
    assert not torch.equal(middle.image, moved.image)
    rays = Jitter(*(torch.full((1, 256, 4), 0.5) for _ in range(2)))
    assert torch.equal(middle.image, generator.render(planes, labels(1), jitter=rays).image)


def test_density_noise_is_an_argument():
    generator = Generator(TINY).requires_grad_(False)
    planes = generator.planes(generator.mapping(torch.randn(1, 8)))
    noise = torch.randn(1, 256, 8)
    one, other = (generator.render(planes, labels(1), noise=noise).image for _ in range(2))
    assert torch.equal(one, other) and not torch.equal(one, generator.render(planes, labels(1)).image)
    assert torch.equal(
        generator.render(planes, labels(1), noise=noise * 0).image, generator.render(planes, labels(1)).image
    )


def test_planes_of_one_figure_serve_all_cameras():
    generator = Generator(TINY).requires_grad_(False)
    planes = generator.planes(generator.mapping(torch.randn(1, 8)))
    together = generator.render(planes, labels(3))
    for index, view in enumerate(together.image):
        assert torch.equal(view, generator.render(planes, labels(3)[index : index + 1]).image[0])
    rough = generator.render(planes.to(torch.bfloat16), labels(3))
    assert (rough.image - together.image).abs().max() < 0.05


def test_larger_pictures_show_the_same_scene_without_super_resolution():
    """Pixel centres of 96 pixels contain those of 32: the same rays, hence the same numbers."""
    generator = Generator(TINY).requires_grad_(False)
    planes = generator.planes(generator.mapping(torch.randn(1, 8)))
    small, large = (generator.render(planes, labels(1), size) for size in (32, 96))
    torch.testing.assert_close(large.image[..., 1::3, 1::3], small.image, atol=2e-5, rtol=0)
    torch.testing.assert_close(large.depth[..., 1::3, 1::3], small.depth, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [128, 512])
def test_a_raw_generator_of_high_resolution(size):
    generator = Generator(TINY.model_copy(update={"resolution": size, "samples": (2, 2)})).requires_grad_(False)
    view = generator(torch.randn(1, 8), labels(1))
    assert view.image is view.raw and view.image.shape == (1, 3, size, size)
    assert torch.isfinite(view.image).all() and 0 < view.mask.mean() < 1


def test_empty_rays_may_be_white():
    generator = Generator(TINY.model_copy(update={"box": 0.3})).requires_grad_(False)
    view = generator(torch.randn(1, 8), labels(1))
    white = view.over(1.0)
    torch.testing.assert_close(white, view.image + 1 - view.mask)
    missed = view.mask[0, 0] == 0
    assert missed.any() and (white[0, :, missed] == 1).all()


def test_fixed_limits_disparity_and_margin_are_honoured():
    generator = Generator(TINY).requires_grad_(False)
    planes = generator.planes(generator.mapping(torch.randn(1, 8)))
    plain = generator.render(planes, labels(1), samples=(48, 48))
    for change in ({"near_far": (2.2, 3.2)}, {"near_far": (2.2, 3.2), "spacing": "disparity"}):
        other = Generator(GeneratorConfig(**TINY.model_dump() | change))
        other.load_state_dict(generator.state_dict())
        view = other.render(planes, labels(1), samples=(64, 64))
        assert (view.mask - plain.mask).abs().mean() < 0.15 and not torch.equal(view.mask, plain.mask)
    hollow = Generator(GeneratorConfig(**TINY.model_dump() | {"margin": 0.39}))
    hollow.load_state_dict(generator.state_dict())
    assert hollow.render(planes, labels(1)).mask.mean() < plain.mask.mean() / 4
    points = torch.rand(1, 200, 3) * 0.7 - 0.35
    _, density = hollow.field(planes, points)
    assert torch.equal(density[0] == 0, points[0][:, [0, 2]].abs().amax(-1) > 0.01 + 1e-9)
    for bad in ({"near_far": (3.0, 2.0)}, {"margin": 0.5}, {"levels": "pyramid", "coarsest": 12}):
        with pytest.raises(ValueError):
            GeneratorConfig(**bad)


def test_the_field_is_what_is_rendered():
    generator = Generator(TINY)
    planes = generator.planes(generator.mapping(torch.randn(2, 8)))
    colors, density = generator.field(planes, torch.rand(2, 50, 3) * 0.6 - 0.3)
    assert colors.shape == (2, 50, 3) and density.shape == (2, 50)
    assert (density > 0).all() and colors.min() > -0.01 and colors.max() < 1.01


def test_super_resolution_doubles_the_image_and_needs_codes():
    generator = Generator(TINY.model_copy(update={"super_resolution_width": 8, "features": 6}))
    view = generator(torch.randn(2, 8), labels(2))
    assert view.image.shape == (2, 3, 32, 32) and view.raw.shape == (2, 3, 16, 16)
    with pytest.raises(StyleAvatarError, match="needs the codes"):
        generator.render(generator.planes(generator.mapping(torch.randn(2, 8))), labels(2))
    with pytest.raises(ValueError, match="more than the 3 features"):
        GeneratorConfig(super_resolution_width=8)


def test_a_generator_survives_its_files(tmp_path):
    generator = Generator(TINY)
    generator.measure_mean_code()
    generator.save_pretrained(str(tmp_path))
    loaded = Generator.from_pretrained(str(tmp_path))
    z = torch.randn(2, 8)
    assert loaded.config == TINY and not any(p.requires_grad for p in loaded.parameters())
    assert (loaded(z, labels(2)).image - generator(z, labels(2)).image).abs().max() < 0.05
    assert all(tensor.dtype == torch.float16 for tensor in load_file(tmp_path / "model.safetensors").values())


def test_files_that_do_not_fit_are_named(tmp_path):
    Generator(TINY).save_pretrained(str(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"decoder_width": 32}))
    with pytest.raises(StyleAvatarError, match="wrong shape"):
        Generator.from_pretrained(str(tmp_path))
    config.write_text(TINY.model_dump_json())
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(StyleAvatarError, match="another network"):
        Generator.from_pretrained(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(StyleAvatarError, match="not a safetensors file"):
        Generator.from_pretrained(str(tmp_path))
    config.write_text("{")
    with pytest.raises(StyleAvatarError, match="not JSON"):
        Generator.from_pretrained(str(tmp_path))
    with pytest.raises(StyleAvatarError):
        Generator.from_pretrained(str(tmp_path / "nowhere"))


def test_a_generator_lives_on_s3(s3_server):
    generator = Generator(TINY)
    generator.save_pretrained(f"{s3_server}/generator")
    loaded = Generator.from_pretrained(f"{s3_server}/generator")
    assert torch.equal(loaded.synthesis.constant, generator.synthesis.constant.half().float())


def test_a_generator_that_is_told_cameras_takes_the_front_where_none_is_said():
    generator = Generator(GeneratorConfig(z_dim=8, w_dim=8, widths=(8, 8), resolution=8, camera_width=4))
    z, labels = torch.randn(2, 8), orbit_labels(torch.tensor([0.0, 90.0]), torch.zeros(2))
    told, plain = generator.mapping(z, labels=labels), generator.mapping(z)
    assert torch.allclose(told[0], plain[0]) and not torch.allclose(told[1], plain[1])


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_super_resolution_enlarges_whatever_is_rendered(factor):
    sizes = {"z_dim": 8, "w_dim": 8, "widths": (8, 8), "resolution": 8, "features": 4}
    generator = Generator(GeneratorConfig(**sizes, super_resolution_width=8, super_resolution=factor))
    codes, labels = generator.mapping(torch.randn(1, 8)), orbit_labels(torch.zeros(1), torch.zeros(1))
    view = generator.render(generator.planes(codes), labels, 6, codes=codes, enlarged=8)
    assert view.image.shape[-1] == generator.config.image_resolution == 8 * factor and view.raw.shape[-1] == 6


def test_poses_turn_the_figure_and_rest_is_the_plain_rendering():
    generator = Generator(GeneratorConfig(z_dim=8, w_dim=8, widths=(8, 8), resolution=8, precision="parameter"))
    planes, labels = (
        generator.planes(generator.mapping(torch.randn(1, 8))),
        orbit_labels(torch.zeros(1), torch.zeros(1)),
    )
    rest, turned = torch.zeros(1, 6), torch.tensor([[0.0, 0.5, 0, 0, 0.5, 0]])
    plain, still, moved = (generator.render(planes, labels, poses=poses).image for poses in (None, rest, turned))
    assert torch.allclose(plain, still, atol=1e-4) and not torch.allclose(plain, moved, atol=1e-3)
