"""A data set of twelve pictures by a tiny random diffusion model."""

from pathlib import Path

import pytest

from styleavatar3d.config import load_config
from styleavatar3d.synthesis.synthesize import SynthesisConfig


@pytest.fixture
def config(diffusion: Path, tmp_path: Path) -> SynthesisConfig:
    words = ["--run.out", str(tmp_path / "set"), "--model.folder", str(diffusion)]
    return load_config(SynthesisConfig, "synthesis/tiny", words)


def elsewhere(config: SynthesisConfig, out: object, **fleet: object) -> SynthesisConfig:
    """The same data set at another place, made by another fleet."""
    run = config.run.model_copy(update={"out": str(out)})
    return config.model_copy(update={"run": run, "fleet": config.fleet.model_copy(update=fleet)})
