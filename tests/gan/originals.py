"""Small originals of the three families with random weights, and their files."""

import json
from pathlib import Path

import torch
from gan.original_settings import original_settings
from safetensors.torch import save_file

from styleavatar3d.gan.classic import ClassicGenerator
from styleavatar3d.gan.classic_config import (
    ClassicBackground,
    ClassicCamera,
    ClassicConfig,
    ClassicDecoder,
    ClassicRendering,
    ClassicSuperResolution,
)

SMALL = {
    "z_dim": 8, "w_dim": 16, "channel_base": 64, "channel_max": 8, "plane_resolution": 16, "neural_resolution": 8,
    "image_resolution": 16, "super_resolution": ClassicSuperResolution(module="2x"),
}  # fmt: skip
GRID = {"grid_depth": 3, "raw_layer": True}
CONFIGS = {
    "eg3d": ClassicConfig(
        family="eg3d", third_plane="zx", rendering=ClassicRendering(samples=(6, 6)), **SMALL,
        camera=ClassicCamera(pivot=(0, 0, 0.2)),
    ),
    "panohead": ClassicConfig(
        family="panohead", decoder=ClassicDecoder(colors="none"), camera_shift=True, **GRID, **SMALL,
        background=ClassicBackground(resolution=8, channel_base=64, channel_max=8),
        rendering=ClassicRendering(samples=(6, 6), near="auto", far="auto", crop=0.1),
    ),
    "pyramid": ClassicConfig(
        family="pyramid", label_size=31, pose_numbers=6, plane_channels=4,
        decoder=ClassicDecoder(width=8, colors="none"), **GRID,
        background=ClassicBackground(resolution=8, channel_base=64, channel_max=8),
        **SMALL | {"channel_base": 288, "channel_max": 36},
        rendering=ClassicRendering(samples=(6, 6), near=2.385, far=3.12, box=0.7, crop=0.07),
        camera=ClassicCamera(focal=6.5104),
    ),
}  # fmt: skip


def network(family: str) -> ClassicGenerator:
    """A small one with every number at random, so that nothing can be forgotten unnoticed."""
    torch.manual_seed(7)
    generator = ClassicGenerator(CONFIGS[family]).eval().requires_grad_(False)
    for name, tensor in generator.state_dict().items():
        if not name.endswith("resample_filter"):
            tensor.copy_(torch.randn_like(tensor))
    return generator


def state_dict_file(folder: Path, generator: ClassicGenerator, **changes) -> Path:
    save_file(generator.state_dict() | changes, folder / "net_weights.safetensors")
    settings = original_settings(generator.config)
    resolution = settings.pop("neural_rendering_resolution")
    (folder / "net.json").write_text(json.dumps({"config": settings, "neural_rendering_resolution": resolution}))
    return folder / "net_weights.safetensors"
