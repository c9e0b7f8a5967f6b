"""Two training steps in float64, by as many processes as started it; each writes what it ended with to FOLDER/RANK."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.config import load_config
from styleavatar3d.gan.chance import Chance
from styleavatar3d.gan.discriminator import pictures_for
from styleavatar3d.gan.losses import gradient_penalty
from styleavatar3d.gan.schedule import phase_at
from styleavatar3d.gan.shown import real_parts, show
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.steps import discriminator_step, generator_step, heads_step
from styleavatar3d.gan.train import GanConfig
from styleavatar3d.gan.views import Sampler, Views
from styleavatar3d.runtime.distributed import connect

BATCH = 8


def double(draws):
    if isinstance(draws, Chance):
        return draws
    return type(draws)(*(double(part) if isinstance(part, tuple) else part.double() for part in draws))


def views() -> Views:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=generator)
    yaws = torch.rand(24, generator=generator) * 360 - 180
    return Views(images, images[:, :1] // 128 * 255, orbit_labels(yaws, torch.zeros(24)))


NONE = ("--model.encoder", "null", "--train.schedule.warm_kimg", "0", "--train.anchor_interval", "0")
EVERYTHING = (
    *NONE, "--model.generator.camera_width", "4", "--model.label.kind", "noisy camera", "--model.label.wrong_camera",
    "0.5", "--model.discriminator.label_size", "25", "--model.correction.kind", "full", "--model.discriminator.pose",
    "true", "--train.augment.active", "true", "--train.augment.mirror", "false", "--train.augment.start", "0.5",
    "--train.augment.speed_kimg", "0.1", "--train.density_variation", "0.25", "--train.density_points", "20",
    "--train.penalty_shares", "{image: 1, raw: 0, mask: 2, depth: 0}",
    "--train.schedule.fades", "{blur: {start: 1, end: 1, kimg: 1}, swap: {start: 0.5, end: 0.5, kimg: 1}, "
    "density_noise: {start: 0.5, end: 0.5, kimg: 1}, pose_prior: {start: 0.5, end: 0.5, kimg: 1}}",
)  # fmt: skip
"""Every part that a recipe may add."""


def run(*more: str, steps: int = 2) -> dict[str, torch.Tensor]:
    """The state after two steps, and a gradient of the penalty taken through data-parallel hooks."""
    world = connect(threads=1)
    words = ["--train.batch", str(BATCH), "--data.shards", "none", *more]
    config = load_config(GanConfig, "gan/tiny-16", words)
    share = world.share(BATCH, 4)
    sampler = Sampler(views(), config.data, 0, world.device)
    state = TrainState.fresh(config, world.device)
    for network in state.networks().values():
        network.double()
    assert state.perception
    state.perception.double()
    phase = phase_at(config.train.schedule, 40, 16)
    reals = double(sampler.reals(world.rank * share, share, phase.resolution))
    for _ in range(steps):
        first = state.seen + world.rank * share
        draws = double(sampler.fakes(first, share, 16, phase.samples))
        reals = double(sampler.reals(first, share, phase.resolution))
        fakes, _ = generator_step(state, draws, config, phase, world)
        discriminator_step(state, reals, fakes, config, phase, world)
        heads_step(state, reals, fakes, config, phase, world)
        state.seen += BATCH
    shown = show(state, pictures_for(**real_parts(reals, config, phase)), reals, config, phase)
    judge = DistributedDataParallel(state.discriminator) if world.size > 1 else state.discriminator
    state.discriminator.zero_grad()
    gradient_penalty(judge, shown.pictures, shown.codes, phase.fade).backward()
    gradients = {f"hooked.{name}": p.grad.clone() for name, p in state.discriminator.named_parameters()}
    return {**state.tensors(), **gradients, "world": torch.tensor(world.size)}


if __name__ == "__main__":
    import os

    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    save_file(run(), folder / rank)
    save_file(run(*EVERYTHING), folder / f"everything-{rank}")
