"""A tiny random diffusion model, saved as an ordinary diffusers folder."""

from pathlib import Path

import pytest
import torch

from styleavatar3d.config import load_config
from styleavatar3d.synthesis.synthesize import SynthesisConfig


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from styleavatar3d.miniature.models import MiniatureModels, build_pipeline

    torch.manual_seed(0)
    sizes = MiniatureModels(
        text_width=16, text_layers=1, image_width=16, image_layers=1, embedding=16,
        codec_channels=(8, 8, 16), latent_channels=4, unet_channels=(16, 16, 16), heads=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("diffusion")
    build_pipeline(sizes).save_pretrained(folder)
    return folder


@pytest.fixture
def config(diffusion: Path, tmp_path: Path) -> SynthesisConfig:
    words = ["--run.out", str(tmp_path / "set"), "--model.folder", str(diffusion)]
    return load_config(SynthesisConfig, "synthesis/tiny", words)


def elsewhere(config: SynthesisConfig, out: object, **fleet: object) -> SynthesisConfig:
    """The same data set at another place, made by another fleet."""
    run = config.run.model_copy(update={"out": str(out)})
    return config.model_copy(update={"run": run, "fleet": config.fleet.model_copy(update=fleet)})
