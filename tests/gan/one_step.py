"""Losses and gradients of one training step of a tiny run, for comparisons of ways to compute it."""

import torch
from gan.two_steps import NONE, views
from torch import Tensor

from styleavatar3d.config import load_config
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.schedule import phase_at
from styleavatar3d.gan.shown import make_fakes
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.steps import deception, generator_loss, real_penalty, regularisation, verdict
from styleavatar3d.gan.views import Sampler

CPU = torch.device("cpu")
FP32 = ("--train.precision", "{backbone: fp32, super_resolution: fp32, discriminator: fp32, heads: fp32}")
BF16 = (
    "--train.precision",
    "{backbone: bf16, super_resolution: bf16, renderer: bf16, discriminator: bf16, heads: bf16}",
)
FP16 = ("--train.precision", "{backbone: fp16, super_resolution: fp16, discriminator: fp16, heads: fp16}")
LARGER = (
    "--model.generator.widths", "[16, 16]", "--model.generator.resolution", "8", "--model.generator.features", "6",
    "--model.generator.super_resolution_width", "32", "--model.discriminator.raw", "true",
    "--model.discriminator.entry_resolution", "16", "--train.schedule.start_resolution", "16",
)  # fmt: skip
"""With super-resolution."""


def tiny(*more: str) -> GanConfig:
    return load_config(GanConfig, "gan/tiny-16", ["--data.shards", "none", *NONE, *more])


def losses(state: TrainState, config: GanConfig, device: torch.device = CPU) -> dict[str, Tensor]:
    """What the generator and the discriminator go down by, and the penalty; no gradients yet."""
    phase = phase_at(config.train.schedule, 40, 16)
    sampler = Sampler(views(), config.data, 0, device)
    draws = sampler.fakes(0, 8, config.model.generator.z_dim, phase.samples)
    reals = sampler.reals(0, 8, phase.resolution)
    fakes = make_fakes(state, draws, config, phase)
    wanted = generator_loss(state.discriminator(fakes.shown.pictures, fakes.shown.codes, fade=phase.fade))
    wanted = wanted + deception(state, fakes.shown, config)
    seen = type(fakes.shown)(*(part.detach() for part in fakes.shown))
    return {
        "generator": wanted + regularisation(state, fakes, draws.chance, config, phase),
        "discriminator": verdict(state, reals, seen, config, phase)[0],
        "penalty": real_penalty(state, reals, config, phase)[0],
    }


def gradients(loss: Tensor, network: torch.nn.Module) -> Tensor:
    """All of a network's, in one row."""
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
    return torch.cat([gradient.flatten() for gradient in found])


def step(*more: str, device: torch.device = CPU) -> dict[str, tuple[Tensor, Tensor]]:
    """Loss and gradients by name, of networks drawn from the run's seed."""
    config = tiny(*more)
    state = TrainState.fresh(config, device)
    networks = {"generator": state.generator, "discriminator": state.discriminator, "penalty": state.discriminator}
    found = losses(state, config, device)
    return {name: (loss.detach().cpu(), gradients(loss, networks[name]).cpu()) for name, loss in found.items()}
