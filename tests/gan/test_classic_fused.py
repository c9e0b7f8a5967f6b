"""The fused rendering of the ancestors' networks gives what the plain one gives."""

import pytest
import torch
from torch import nn

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.camera.rays import rays
from styleavatar3d.gan.classic import Decoder as DecoderModule
from styleavatar3d.gan.classic_config import ClassicConfig, ClassicDecoder, ClassicRendering
from styleavatar3d.gan.classic_fused import effective, fusable, render_fused, texels
from styleavatar3d.gan.classic_renderer import EMPTY, crop_mask, ray_limits, render_rays, volume_features

CASES = {
    "eg3d": {"family": "eg3d", "third_plane": "zx"},
    "eg3d on white, in disparity": {
        "family": "eg3d",
        "rendering": ClassicRendering(disparity=True, white_background=True),
    },
    "auto": {"family": "eg3d", "rendering": ClassicRendering(near="auto", far="auto", box=0.6)},
    "panohead": {
        "family": "panohead", "grid_depth": 3, "decoder": ClassicDecoder(colors="none"),
        "rendering": ClassicRendering(crop=0.1),
    },
    "slow decoder": {
        "family": "panohead",
        "grid_depth": 2,
        "decoder": ClassicDecoder(colors="lrelu", lr_multiplier=0.5),
    },
    "pyramid": {"family": "pyramid", "grid_depth": 3, "decoder": ClassicDecoder(colors="none")},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_fused_equals_plain(name):
    torch.manual_seed(0)
    config = ClassicConfig(plane_channels=8, **CASES[name])
    depth, samples = config.grid_depth, (8, 6)
    sizes = (4, 8, 16) if config.family == "pyramid" else (12,)
    levels = [torch.randn(2, 3, 8 * (depth or 1), size, size) * 2 for size in sizes]
    decoder = DecoderModule(8, config.decoder)
    for layer in decoder.layers:
        nn.init.normal_(layer.bias)
    origins, directions = rays(orbit_labels(torch.tensor([0.0, 70.0]), torch.zeros(2)), 6)
    limits = ray_limits(origins, directions, config.rendering)
    draws = torch.rand(2, 36, samples[0]), torch.rand(2, 36, samples[1])

    def field(points):
        features = volume_features(
            levels, points, box=config.rendering.box, depth=depth, third_plane=config.third_plane
        )
        colors, raw = decoder(features)
        if config.rendering.crop is not None:
            raw = raw.masked_fill(crop_mask(points, box=config.rendering.box, margin=config.rendering.crop), EMPTY)
        return colors, raw

    wanted, ends = render_rays(
        field, origins, directions, *limits, *draws, disparity=config.rendering.disparity,
        white_background=config.rendering.white_background, signed=config.decoder.colors == "sigmoid",
    )  # fmt: skip
    assert fusable(config, origins)
    found, found_ends = render_fused(
        config, [texels(level, depth) for level in levels], effective(*decoder.layers, len(levels)), origins,
        directions, *limits, *draws,
    )  # fmt: skip
    torch.testing.assert_close(found_ends, ends, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.features, wanted.features, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.weight, wanted.weight, atol=2e-5, rtol=0)
    hit = wanted.weight > 1e-3
    assert hit.any()
    torch.testing.assert_close(found.depth[hit], wanted.depth[hit], atol=5e-4, rtol=0)


def test_what_cannot_be_fused_is_known():
    origins = torch.zeros(1, 1, 3)
    assert not fusable(ClassicConfig(family="panohead", grid_depth=1), origins)
    assert not fusable(ClassicConfig(family="eg3d", rendering=ClassicRendering(cull=0.5)), origins)
    assert not fusable(ClassicConfig(family="eg3d"), origins.requires_grad_())
