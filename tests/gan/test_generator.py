"""The generator's interface: shapes, truncation, files, super-resolution."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.generator import Generator, GeneratorConfig, Jitter

TINY = GeneratorConfig(z_dim=8, w_dim=8, widths=(8, 8, 8), resolution=16, decoder_width=16, samples=(4, 4))


def labels(count: int) -> torch.Tensor:
    return orbit_labels(torch.arange(count) * 90.0, torch.full((count,), 5.0))


@pytest.mark.parametrize("depths", [(1, 1, 1), (3, 1, 1), (3, 3, 3)])
def test_a_latent_and_a_camera_make_a_view(depths):
    generator = Generator(TINY.model_copy(update={"depths": depths}))
    planes = generator.planes(generator.mapping(torch.randn(2, 8)))
    assert planes.shape == (2, 16, 16, sum(depths), 16)
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


def test_all_parameters_learn():
    generator = Generator(TINY)
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
