"""Two training steps in float64, by as many processes as started it; each writes what it ended with to FOLDER/RANK."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.config import load_config
from styleavatar3d.gan.discriminator import pictures_for
from styleavatar3d.gan.labels import view_labels
from styleavatar3d.gan.losses import gradient_penalty
from styleavatar3d.gan.schedule import phase_at
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.steps import discriminator_step, generator_step, heads_step
from styleavatar3d.gan.train import GanConfig
from styleavatar3d.gan.views import FakeDraws, Reals, Sampler, Views
from styleavatar3d.runtime.distributed import connect

BATCH = 8


def double(draws):
    return type(draws)(*(double(part) if isinstance(part, tuple) else part.double() for part in draws))


def views() -> Views:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    yaws = torch.rand(24, generator=generator) * 360 - 180
    return Views(images, images[:, :1] // 128 * 255, orbit_labels(yaws, torch.zeros(24)))


def run() -> dict[str, torch.Tensor]:
    """The state after two steps, and a gradient of the penalty taken through data-parallel hooks."""
    world = connect(threads=1)
    config = load_config(GanConfig, "gan/tiny-16", ["--train.batch", str(BATCH), "--data.shards", "none"])
    share = world.share(BATCH, 4)
    sampler = Sampler(views(), config.data, 0, world.device)
    state = TrainState.fresh(config, world.device)
    for network in state.networks().values():
        network.double()
    assert state.perception
    state.perception.double()
    phase = phase_at(config.train.schedule, 40, 16)
    for _ in range(2):
        first = state.seen + world.rank * share
        draws: FakeDraws = double(sampler.fakes(first, share, 16, phase.samples))
        reals: Reals = double(sampler.reals(first, share, phase.resolution))
        pictures, labels, _ = generator_step(state, draws, config, phase, world)
        discriminator_step(state, reals, (pictures, labels), config, phase, world)
        heads_step(state, reals, (pictures, labels), config, phase, world)
        state.seen += BATCH
    pictures = pictures_for(reals.images, reals.masks, reals.depths)
    labels = view_labels(reals.labels, reals.label_draws, config.model.label)
    judge = DistributedDataParallel(state.discriminator) if world.size > 1 else state.discriminator
    state.discriminator.zero_grad()
    gradient_penalty(judge, pictures, labels, phase.fade).backward()
    gradients = {f"hooked.{name}": p.grad.clone() for name, p in state.discriminator.named_parameters()}
    return {**state.tensors(), **gradients, "world": torch.tensor(world.size)}


if __name__ == "__main__":
    import os

    save_file(run(), Path(sys.argv[1]) / os.environ["RANK"])
