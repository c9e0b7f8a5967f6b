"""The call of the diffusion model: which ControlNets take part, and what they change."""

from pathlib import Path

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.schema import Guidance
from styleavatar3d.synthesis.pipeline import PipelineConfig, Synthesizer, describe, describe_models


@pytest.fixture(scope="module")
def synthesizer(diffusion: Path) -> Synthesizer:
    made = Synthesizer.from_pretrained(diffusion, device="cpu", dtype="float32")
    torch.manual_seed(0)
    for network in made.controlnets.values():  # their last convolutions begin at zero, and would change nothing
        for layer in [*network.controlnet_down_blocks, network.controlnet_mid_block]:
            torch.nn.init.normal_(layer.weight, std=0.5)
    return made


def make(synthesizer: Synthesizer, guidance: list[Guidance]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    pictures = {
        kind: torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8, generator=draw) for kind in ("depth", "keypoints")
    }
    return synthesizer.generate(["a man", "an orc"], ["", ""], pictures, [1, 2], 3, 2.0, guidance)


def test_each_kind_of_guidance_counts_and_none_counts_twice(synthesizer: Synthesizer):
    depth, points = Guidance(kind="depth", scale=1.0), Guidance(kind="keypoints", scale=1.0)
    asked = {"both": [depth, points], "depth": [depth], "points": [points], "default": []}
    made = {name: make(synthesizer, guidance) for name, guidance in asked.items()}
    assert made["both"].shape == (2, 64, 64, 3) and made["both"].dtype == torch.uint8
    assert torch.equal(made["both"], made["default"]) and torch.equal(made["both"], make(synthesizer, [depth, points]))
    assert not torch.equal(made["both"], made["depth"]) and not torch.equal(made["depth"], made["points"])


def test_scale_and_steps_of_guidance_are_obeyed(synthesizer: Synthesizer):
    full = make(synthesizer, [Guidance(kind="depth", scale=1.0)])
    assert not torch.equal(full, make(synthesizer, [Guidance(kind="depth", scale=0.3)]))
    assert not torch.equal(full, make(synthesizer, [Guidance(kind="depth", scale=1.0, end=0.4)]))
    silent = [Guidance(kind="depth", scale=0.0), Guidance(kind="keypoints", scale=0.0)]
    assert torch.equal(make(synthesizer, silent), make(synthesizer, silent[:1]))


def test_unknown_guidance_and_missing_controlnets_are_named(synthesizer: Synthesizer, diffusion: Path, tmp_path: Path):
    with pytest.raises(StyleAvatarError, match="smell"):
        make(synthesizer, [Guidance(kind="smell", scale=1.0)])
    plain = tmp_path / "plain"
    plain.mkdir()
    for part in diffusion.iterdir():
        if part.name != "controlnets":
            (plain / part.name).symlink_to(part)
    with pytest.raises(StyleAvatarError, match="no ControlNet"):
        Synthesizer.from_pretrained(plain)
    elsewhere = {"depth": str(diffusion / "controlnets" / "depth")}
    assert list(Synthesizer.from_pretrained(plain, device="cpu", controlnets=elsewhere).controlnets) == ["depth"]
    own, other = PipelineConfig(folder=str(plain)), PipelineConfig(folder=str(plain), controlnets=elsewhere)
    assert describe(other).sha256 == describe(other).sha256 != describe(PipelineConfig(folder=str(diffusion))).sha256
    assert [model.id for model in describe_models(other)] == ["plain", "depth"]
    with pytest.raises(StyleAvatarError, match="no ControlNet"):
        describe(own)
