"""What a training of the style prior needs, before it is begun: its network is built without memory (meta device).

Parameters are exact; bytes kept for the backward pass and operations are counted on tensors that hold nothing.
"""

from typing import Any, NamedTuple

import torch
from pydantic import Field

from styleavatar3d.config import Strict
from styleavatar3d.gan.plan import BACKWARD, watched
from styleavatar3d.stylespace import attributes
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.denoiser import CONDITIONS, Conditions
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.statistics import Statistics

COPIES = 5
"""of each parameter: itself, its gradient, Adam's two means and the average"""


class Rate(NamedTuple):
    """Operations a second that a training step really gets of a machine, and where the number is from."""

    operations: float
    source: str


RATES = {
    "2 CPU cores": Rate(1.9e10, "measured: the 1,000 thousand pairs of the shipped prior took 13 minutes"),
    "A100": Rate(3e13, "assumed, as in `plan gan`"),
}


class Sizes(Strict):
    """Lengths that weights would tell: by default of `gan/styleavatar3d` and of CLIP ViT-L/14."""

    w_dim: int = Field(default=512, ge=1)
    slots: int = Field(default=14, ge=1)
    image: int = Field(default=768, ge=1)
    """of a picture's embedding"""
    text: int = Field(default=768, ge=1)


class PlanConfig(StyleSpaceConfig):
    plan: Sizes = Sizes()


def plan(config: PlanConfig) -> dict[str, Any]:
    """Parameters, bytes of a process and estimated seconds a kpair of `config`; nothing is trained or read."""
    prior = build(config)
    parameters = sum(parameter.numel() for parameter in prior.denoiser.parameters())
    activations, operations = step_of(prior)
    return {
        "parameters": parameters,
        "network_gib": round(4 * COPIES * parameters / 2**30, 3),
        "activations_gib": round(config.train.batch * activations / 2**30, 3),
        "pairs_gib": round(4 * config.data.count * numbers_of_a_pair(config) / 2**30, 3),
        "operations_per_pair": float(f"{operations:.3g}"),
        "seconds_per_kpair": {
            name: float(f"{1000 * operations / rate.operations:.3g}") for name, rate in RATES.items()
        },
        "seconds_are": {name: rate.source for name, rate in RATES.items()},
    }


def build(config: PlanConfig) -> StylePrior:
    """The prior of a config, without memory."""
    sizes = config.plan
    with torch.device("meta"):
        return StylePrior(config.model, Statistics(sizes.w_dim, sizes.image, sizes.text), sizes.slots, "")


def step_of(prior: StylePrior) -> tuple[float, float]:
    """Bytes that a step keeps for its backward pass, and its operations; of one pair: what a second one adds."""
    (one, once), (two, twice) = _forward(prior, 1), _forward(prior, 2)
    return two - one, (1 + BACKWARD) * (twice - once)


def _forward(prior: StylePrior, count: int) -> tuple[float, float]:
    statistics = prior.statistics
    with torch.device("meta"):
        code = torch.zeros(count, prior.tokens, len(statistics.w_mean))
        lengths = len(statistics.image_mean), len(statistics.text_mean), attributes.NUMBERS, len(CONDITIONS)
        conditions = Conditions(*(torch.zeros(count, length) for length in lengths))
        return watched(lambda: prior.denoiser(code, torch.zeros(count), conditions))


def numbers_of_a_pair(config: PlanConfig) -> int:
    """Numbers that training keeps in memory of a pair."""
    data, sizes = config.data, config.plan
    return sizes.w_dim + data.crops * sizes.image + data.texts * sizes.text + attributes.NUMBERS * bool(data.estimators)
