"""Training of the 3D generator. The same call starts a run and resumes it."""

import copy
import json
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from styleavatar3d.config import RunConfig, Strict, config_hash, save_config
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.gan.discriminator import Discriminator, DiscriminatorConfig, pictures_for
from styleavatar3d.gan.generator import Generator, GeneratorConfig, check_shapes
from styleavatar3d.gan.labels import LabelConfig, view_labels
from styleavatar3d.gan.losses import (
    average_decay,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mask_uncertainty,
    update_average,
)
from styleavatar3d.gan.schedule import Phase, Schedule, phase_at
from styleavatar3d.gan.snapshots import sample_sheet, turntable
from styleavatar3d.gan.views import DataConfig, FakeDraws, Reals, Sampler, Views, load_views
from styleavatar3d.runtime.checkpoint import Checkpoint, Checkpoints, StopSignal, load_optimizer, optimizer_tensors
from styleavatar3d.runtime.distributed import World, connect
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import Progress, TrackConfig, Tracker


class GanModel(Strict):
    """The two networks and the label that joins them."""

    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    label: LabelConfig = LabelConfig()

    @model_validator(mode="after")
    def _consistent(self):
        generator, discriminator = self.generator, self.discriminator
        if discriminator.resolution != generator.image_resolution:
            raise ValueError(f"discriminator.resolution must be the generator's, {generator.image_resolution}")
        if discriminator.label_size != self.label.size:
            raise ValueError(f"discriminator.label_size must be the label's, {self.label.size}")
        if discriminator.raw != bool(generator.super_resolution_width):
            raise ValueError("discriminator.raw must be true with super-resolution, and only then")
        return self


class GanTrain(Strict):
    """Optimisation. Rates and the penalty interval are those of StyleGAN2 unless the schedule changes them."""

    schedule: Schedule
    batch: int = Field(8, gt=0)
    threads: int = 0
    generator_rate: float = 0.0025
    discriminator_rate: float = 0.0015
    penalty_interval: int = Field(16, gt=0)
    mask_uncertainty: float = 0.0
    average_half_life_kimg: float = 5.0
    reuse_fakes: bool = True
    checkpoint_kimg: float = Field(4.0, gt=0)
    snapshot_kimg: float = Field(20.0, gt=0)


class GanConfig(Strict):
    """One run of `styleavatar3d train gan`."""

    run: RunConfig
    data: DataConfig
    model: GanModel = GanModel()
    train: GanTrain
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _consistent(self):
        start, entry = self.train.schedule.start_resolution, self.model.discriminator.entry_resolution
        final = self.model.generator.image_resolution
        if not entry <= start <= final:
            raise ValueError(f"start_resolution {start} is not between entry_resolution {entry} and {final}")
        if self.model.generator.super_resolution_width and start != final:
            raise ValueError("with super-resolution the resolution cannot grow: start_resolution must be the final one")
        return self


@dataclass
class TrainState:
    """What training changes: exactly what a checkpoint holds."""

    generator: Generator
    discriminator: Discriminator
    average: Generator
    generator_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam
    seen: int = 0

    @classmethod
    def fresh(cls, config: GanConfig, device: torch.device) -> "TrainState":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            generator = Generator(config.model.generator).to(device)
            discriminator = Discriminator(config.model.discriminator).to(device)
        average = copy.deepcopy(generator).requires_grad_(False)
        options = {"betas": (0.0, 0.99), "eps": 1e-8, "fused": True}
        return cls(
            generator,
            discriminator,
            average,
            torch.optim.Adam(generator.parameters(), config.train.generator_rate, **options),
            torch.optim.Adam(discriminator.parameters(), config.train.discriminator_rate, **options),
        )

    def networks(self) -> dict[str, torch.nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator, "average": self.average}

    def optimizers(self) -> dict[str, torch.optim.Adam]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def tensors(self) -> dict[str, Tensor]:
        found = {f"{k}.{name}": value for k, net in self.networks().items() for name, value in net.state_dict().items()}
        for name, optimizer in self.optimizers().items():
            found |= optimizer_tensors(optimizer, name)
        return found

    def restore(self, checkpoint: Checkpoint, source: str) -> None:
        for key, network in self.networks().items():
            weights = {n[len(key) + 1 :]: t for n, t in checkpoint.tensors.items() if n.startswith(key + ".")}
            check_shapes(weights, network.state_dict(), source)
            network.load_state_dict(weights)
        for name, optimizer in self.optimizers().items():
            load_optimizer(optimizer, checkpoint.tensors, name)
        self.seen = checkpoint.position


def generator_step(
    state: TrainState, draws: FakeDraws, config: GanConfig, phase: Phase, world: World
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Update the generator; returns its pictures and their labels for the discriminator, and scalars."""
    pictures, labels, mask = make_fakes(state.generator, draws, config, phase)
    state.discriminator.requires_grad_(False)
    logits = state.discriminator(pictures, labels, fade=phase.fade)
    state.discriminator.requires_grad_(True)
    loss = generator_loss(logits)
    if config.train.mask_uncertainty:
        loss = loss + config.train.mask_uncertainty * mask_uncertainty(mask)
    state.generator_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    descend(state.generator, state.generator_optimizer, config.train.generator_rate * phase.rate, world)
    spread = pictures[:, :3].detach().std(0).mean()
    return pictures.detach(), labels, {"generator": loss.item(), "cover": mask.mean().item(), "spread": spread.item()}


def make_fakes(
    generator: Generator, draws: FakeDraws, config: GanConfig, phase: Phase
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures as the discriminator sees them, their view labels, and masks."""
    final = generator.config.image_resolution
    size = generator.config.resolution * phase.resolution // final
    codes = generator.mapping(draws.latents)
    planes = generator.planes(
        codes, resolution=generator.config.plane_resolution * phase.resolution // final, fade=phase.fade
    )
    view = generator.render(planes, draws.labels, size, jitter=draws.jitter, codes=codes)
    raw = view.raw if config.model.discriminator.raw else None
    labels = view_labels(draws.labels, draws.label_draws, config.model.label)
    return pictures_for(view.image, view.mask, raw), labels, view.mask


def real_pictures(reals: Reals, config: GanConfig) -> Tensor:
    """Data as the discriminator sees it: with super-resolution, mask and raw picture pass through half the size."""
    if not config.model.discriminator.raw:
        return pictures_for(reals.images, reals.masks)
    raw, masks = (F.avg_pool2d(maps, 2) for maps in (reals.images, reals.masks))
    return pictures_for(reals.images, masks, raw)


def discriminator_step(
    state: TrainState, reals: Reals, fakes: tuple[Tensor, Tensor], config: GanConfig, phase: Phase, world: World
) -> dict[str, float]:
    """Update the discriminator; every `penalty_interval` steps with the gradient penalty."""
    pictures = real_pictures(reals, config)
    labels = view_labels(reals.labels, reals.label_draws, config.model.label)
    both = state.discriminator(torch.cat([pictures, fakes[0]]), torch.cat([labels, fakes[1]]), fade=phase.fade)
    real_logits, fake_logits = both.chunk(2)
    loss = discriminator_loss(real_logits, fake_logits)
    values = {"discriminator": loss.item(), "real": real_logits.mean().item(), "fake": fake_logits.mean().item()}
    interval = config.train.penalty_interval
    if state.seen // config.train.batch % interval == 0:
        penalty = gradient_penalty(state.discriminator, pictures, labels, phase.fade)
        loss = loss + penalty * (phase.penalty / 2 * interval)
        values["penalty"] = penalty.item()
    state.discriminator_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    descend(state.discriminator, state.discriminator_optimizer, config.train.discriminator_rate * phase.rate, world)
    return values


def descend(network: torch.nn.Module, optimizer: torch.optim.Adam, rate: float, world: World) -> None:
    """One Adam step with the gradients' mean over all processes."""
    world.average_gradients(network)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


def train(config: GanConfig, views: Views | None = None) -> dict:
    """Train until `kimg`; write log, snapshots, checkpoints and `weights/` under `run.out`. Returns a summary.

    `views` replaces the shards. Raises Stopped after a checkpoint on SIGTERM or Ctrl-C.
    """
    world, began = connect(config.train.threads), time.monotonic()
    storage, schedule = Storage.open(config.run.out), config.train.schedule
    share = world.share(config.train.batch, config.model.discriminator.group)
    resolution = config.model.generator.image_resolution
    sampler = Sampler(views or load_views(config.data.shards, resolution), config.data, config.run.seed, world.device)
    checkpoints, state = Checkpoints(storage), TrainState.fresh(config, world.device)
    identity = {"model": config_hash(config.model), "seed": config.run.seed, "batch": config.train.batch}
    resume(state, checkpoints, identity)
    tracker = Tracker(config.track, storage, config.model_dump(mode="json"), state.seen) if world.main else None
    if world.main:
        storage.publish("config.yaml", save_config(config).encode())
    progress = Progress("gan", schedule.images, state.seen, config.track.seconds)
    with StopSignal() as stop:
        while state.seen < schedule.images:
            phase, first = phase_at(schedule, state.seen, resolution), state.seen + world.rank * share
            z_dim = config.model.generator.z_dim
            draws = sampler.fakes(first, share, z_dim, phase.samples)
            pictures, labels, values = generator_step(state, draws, config, phase, world)
            if not config.train.reuse_fakes:
                again = sampler.fakes(first, share, z_dim, phase.samples, purpose="fake for the discriminator")
                with torch.no_grad():
                    pictures, labels, _ = make_fakes(state.generator, again, config, phase)
            reals = sampler.reals(first, share, phase.resolution)
            values |= discriminator_step(state, reals, (pictures, labels), config, phase, world)
            state.seen += config.train.batch
            half_life = config.train.average_half_life_kimg * 1000
            update_average(state.average, state.generator, average_decay(config.train.batch, state.seen, half_life))

            progress.add(values)
            ended, stopped = state.seen >= schedule.images, world.any(stop.requested)
            if tracker and (progress.due() or ended):
                line = progress.line(state.seen) | {"resolution": phase.resolution}
                check_finite(line)
                tracker.report(state.seen, line)
            if tracker and (ended or passed(state.seen, config.train.batch, config.train.snapshot_kimg)):
                snapshot(state.average, tracker, state.seen, phase)
            if tracker and (ended or stopped or passed(state.seen, config.train.batch, config.train.checkpoint_kimg)):
                checkpoints.save(state.seen, state.tensors(), identity)
                tracker.flush()
            if stopped and not ended:
                raise Stopped(f"stopped after {state.seen} images; the same command goes on from there")
    summary = {
        "out": config.run.out,
        "images": state.seen,
        "seconds": round(time.monotonic() - began, 1),
        "processes": world.size,
    }
    if tracker:
        state.average.measure_mean_code()
        state.average.save_pretrained(f"{config.run.out}/weights")
        storage.publish("summary.json", json.dumps(summary).encode())
        tracker.close()
    world.wait()
    return summary


def resume(state: TrainState, checkpoints: Checkpoints, identity: dict) -> None:
    """Continue from the run's latest checkpoint, if there is one and it belongs to this config."""
    checkpoint = checkpoints.latest()
    if checkpoint is None:
        return
    if checkpoint.scalars != identity:
        raise StyleAvatarError(
            f"{checkpoints.storage.url} holds a run with another model, seed or batch",
            got=str(checkpoint.scalars),
            expected=str(identity),
            remedy="choose another --run.out, or use the config.yaml of that run",
        )
    state.restore(checkpoint, checkpoints.storage.url)


def passed(seen: int, batch: int, every_kimg: float) -> bool:
    """Whether the last batch crossed a multiple of `every_kimg`."""
    every = every_kimg * 1000
    return seen // every > (seen - batch) // every


def check_finite(values: dict[str, float]) -> None:
    """Raise if a loss is no number any more: the checkpoint before it is kept."""
    bad = [name for name, value in values.items() if value != value]
    if bad:
        raise StyleAvatarError(f"training diverged: {', '.join(bad)} is no number", remedy="lower the learning rates")


@torch.no_grad()
def snapshot(average: Generator, tracker: Tracker, seen: int, phase: Phase) -> None:
    """A sheet of samples from all sides and a turntable film of the averaged generator."""
    average.measure_mean_code()
    name = f"snapshots/{seen // 1000:06d}"
    tracker.picture(f"{name}.png", sample_sheet(average, phase))
    tracker.picture(f"{name}.mp4", turntable(average, phase))
