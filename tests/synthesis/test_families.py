"""The public architectures are written down right: as many parameters as the published weights have."""

import pytest
import torch

from styleavatar3d.config import load_config
from styleavatar3d.synthesis.families import FAMILIES
from styleavatar3d.synthesis.footprint import _Living, count_parameters, footprint
from styleavatar3d.synthesis.sources import Source
from styleavatar3d.synthesis.synthesize import SynthesisConfig


@pytest.mark.parametrize("name", FAMILIES)
def test_every_part_has_the_parameters_of_its_table(name: str):
    assert count_parameters(name) == FAMILIES[name].parameters


@pytest.mark.parametrize("name", FAMILIES)
def test_the_full_configs_are_of_their_family_and_pinned(name: str):
    config = load_config(SynthesisConfig, f"synthesis/{name}")
    assert config.model.family == name and config.data.resolution == FAMILIES[name].size
    for source in [f"{config.model.folder}@{config.model.revision}", *config.model.controlnets.values()]:
        assert len(Source(source).name.partition("@")[2]) == 40


def test_living_bytes_are_counted_exactly():
    weights = torch.empty(50, 60, device="meta")
    with _Living() as living:
        weights.t()  # was there before
        first = torch.empty(1000, device="meta")
        second = first + 1
        del first
        third = second * 2  # 8000 bytes live, never more
        view = third.view(10, 100)
        del second, third
    assert living.peak == 8000 and living.now == 4000 and view.numel() == 1000


def test_memory_grows_with_the_batch_and_with_controlnets():
    one, four = (footprint("sd15", batch, size=256) for batch in (1, 4))
    assert one["weights"] == four["weights"] == 2 * sum(FAMILIES["sd15"].parameters.values())
    assert 3 < four["denoising"] / one["denoising"] < 5 and four["decoding"] == one["decoding"]
    two = footprint("sd15", 1, controlnets=2, size=256)
    assert two["weights"] - one["weights"] == 2 * FAMILIES["sd15"].parameters["controlnet"]
    assert footprint("sd15", 4, slicing=False, size=256)["decoding"] > 3 * one["decoding"]
