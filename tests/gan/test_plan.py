"""Every config of a generator builds without memory, with the parameters of this table."""

from pathlib import Path

import pytest
import torch

from styleavatar3d.config import load_config
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.discriminator import Discriminator
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.plan import plan
from styleavatar3d.gan.state import TrainState, companions

CONFIGS = Path(__file__).resolve().parents[2] / "configs/gan"
FULL = {
    "styleavatar3d": (30_953_255, 38_079_168, 0),
    "eg3d": (30_662_119, 38_068_352, 0),
    "panohead": (31_228_711, 38_068_416, 17_315),
    "pyramid-1": (30_943_847, 4_153_138, 73_190),
    "pyramid-2": (30_943_847, 3_847_500, 0),
    "pyramid-3": (30_943_847, 3_847_500, 0),
}
"""parameters of generator, discriminator and what learns beside them"""


def parameters(config: GanConfig) -> tuple[int, ...]:
    with torch.device("meta"):
        networks = Generator(config.model.generator), Discriminator(config.model.discriminator), companions(config)
    return tuple(sum(parameter.numel() for parameter in network.parameters()) for network in networks)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_config_builds_on_the_meta_device(name):
    counts = parameters(load_config(GanConfig, f"gan/{name}"))
    assert counts == FULL.get(name, counts) and all(counts[:2])


def test_stages_hand_on_one_generator():
    stages = [load_config(GanConfig, f"gan/pyramid-{number}") for number in (1, 2, 3)]
    assert stages[0].model.generator == stages[1].model.generator == stages[2].model.generator
    assert [stage.model.start for stage in stages] == ["", *(f"{stage.run.out}/weights" for stage in stages[:2])]


def test_a_plan_counts_what_a_run_holds():
    config = load_config(GanConfig, "gan/tiny-16")
    needs = plan(config)
    assert tuple(needs["parameters"][name] for name in ("generator", "discriminator", "beside")) == parameters(config)
    assert needs["renderer"] == "fused" and needs["images_at_once"] == 4 and needs["parameters"]["encoder"] > 0
    alone = ("--model.encoder", "null", "--train.schedule.warm_kimg", "0", "--train.anchor_interval", "0")
    half = plan(load_config(GanConfig, "gan/tiny-16", [*alone, "--train.batch", "8", "--train.micro_batch", "4"]))
    assert half["images_at_once"] == 4 and half["activations_gib"] == needs["activations_gib"]
    state = TrainState.fresh(config, torch.device("cpu"))
    assert state.heads and needs["parameters"]["heads"] == sum(p.numel() for p in state.heads.parameters())
    blind = plan(load_config(GanConfig, "gan/tiny-16", ["--model.perception", "null"]))
    assert "heads" not in blind["parameters"] and blind["networks_gib"] < needs["networks_gib"]
    assert all(blind[name] < needs[name] for name in ("activations_gib", "operations_per_image"))
    turned = plan(load_config(GanConfig, "gan/tiny-16", ["--model.correction.kind", "shift"]))
    assert turned["renderer"] == "plain" and turned["rendering_gib"] > 0 == needs["rendering_gib"]
