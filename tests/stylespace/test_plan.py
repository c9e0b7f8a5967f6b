"""What a prior needs is counted on networks that have no memory."""

from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from styleavatar3d.config import load_config
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.stylespace.denoiser import Conditions
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.plan import PlanConfig, Sizes, build, plan, step_of

CONFIGS = Path(__file__).resolve().parents[2] / "configs/stylespace"
MINIATURE = Sizes(w_dim=128, slots=10, image=128, text=128)
FULL = 105_540_608


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_config_builds_on_the_meta_device(name: str):
    prior = build(load_config(PlanConfig, f"stylespace/{name}"))
    assert all(parameter.is_meta for parameter in prior.parameters())
    assert name != "full" or sum(parameter.numel() for parameter in prior.denoiser.parameters()) == FULL


def test_the_sizes_are_those_of_the_full_generator():
    generator = load_config(GanConfig, "gan/styleavatar3d").model.generator
    assert (generator.slots, generator.w_dim) == (Sizes().slots, Sizes().w_dim)


def test_the_shipped_prior_is_counted_right():
    shipped = load_config(PlanConfig, "stylespace/miniature").model_copy(update={"plan": MINIATURE})
    counted = plan(shipped)
    assert counted["parameters"] == 2_440_576 and 0.6 < counted["seconds_per_kpair"]["2 CPU cores"] < 1.0
    assert counted["pairs_gib"] == pytest.approx(16384 * 4 * (128 + 3 * 128 + 3 * 128 + 75) / 2**30, abs=1e-3)


def test_a_second_pair_adds_what_a_real_step_adds():
    """The same network with memory keeps as many bytes."""
    config = load_config(PlanConfig, "stylespace/tiny").model_copy(update={"plan": MINIATURE})
    prior = build(config).to_empty(device="cpu")
    more = bytes_kept(prior, 5) - bytes_kept(prior, 4)
    assert step_of(prior.to("meta"))[0] == pytest.approx(more, rel=0.2)


def bytes_kept(prior: StylePrior, count: int) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    known = Conditions(*(torch.zeros(count, width) for width in (128, 128, 75, 3)))
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        prior.denoiser(torch.zeros(count, 1, 128), torch.zeros(count), known)
    return sum(kept.values())
