"""Training of the 3D generator. The same call starts a run and resumes it."""

import json
import time

import torch

from styleavatar3d.camera.cameras import check_labels
from styleavatar3d.config import config_hash, save_config
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.gan.card import model_card
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.guard import memory_advice
from styleavatar3d.gan.losses import average_decay, update_average
from styleavatar3d.gan.schedule import Phase, phase_at
from styleavatar3d.gan.shown import make_fakes
from styleavatar3d.gan.snapshots import sample_sheet, turntable
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.steps import (
    begin_to_draw,
    discriminator_step,
    generator_step,
    heads_step,
    reconstruction_step,
)
from styleavatar3d.gan.views import Sampler, Views, load_views
from styleavatar3d.runtime.checkpoint import Checkpoints, StopSignal
from styleavatar3d.runtime.distributed import connect, refuse_deepspeed
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import Progress, Tracker
from styleavatar3d.shards.loader import ShardDataset

NO_SHARDING = (
    "its engine runs one backward pass a step and no second derivatives, and two adversaries with a gradient penalty "
    "need both; sharded would be the weights, which are small beside the activations",
    "to save memory set --train.micro_batch, --train.checkpointing true or --train.precision; `styleavatar3d plan gan` "
    "tells what a config needs",
)
"""Why not, and what else."""


def train(config: GanConfig, views: Views | None = None) -> dict:
    """Train until `kimg`; write log, snapshots, checkpoints and `weights/` under `run.out`. Returns a summary.

    `views` replaces the shards. Raises Stopped after a checkpoint on SIGTERM or Ctrl-C.
    """
    refuse_deepspeed("train gan", *NO_SHARDING)
    world, began = connect(config.train.threads), time.monotonic()
    storage, schedule = Storage.open(config.run.out), config.train.schedule
    share = world.share(config.train.batch, config.model.discriminator.group)
    resolution, z_dim = config.model.generator.image_resolution, config.model.generator.z_dim
    shown = views or load_views(config.data.shards, resolution, config.looks_at_depth)
    check_labels(shown.labels)
    sampler = Sampler(shown, config.data, config.run.seed, world.device)
    checkpoints, state = Checkpoints(storage), TrainState.fresh(config, world.device)
    identity = {"model": config_hash(config.model), "seed": config.run.seed, "batch": config.train.batch}
    resume(state, checkpoints, identity)
    tracker = Tracker(config.track, storage, config.model_dump(mode="json"), state.seen) if world.main else None
    if world.main:
        storage.publish("config.yaml", save_config(config).encode())
    progress = Progress("gan", schedule.images, state.seen, config.track.seconds)
    with memory_advice("training", f"batch {share} in this process at {resolution} px"), StopSignal() as stop:
        while state.seen < schedule.images:
            phase, first = phase_at(schedule, state.seen, resolution), state.seen + world.rank * share
            values: dict[str, float] = {}
            if phase.warm or anchored(state.seen, config):
                pairs = sampler.pairs(first, share, z_dim, phase.resolution, phase.samples)
                values |= reconstruction_step(state, pairs, config, phase, world)
            if not phase.warm:
                draws = sampler.fakes(first, share, z_dim, phase.samples)
                fakes, scalars = generator_step(state, draws, config, phase, world)
                if not config.train.reuse_fakes:
                    again = sampler.fakes(first, share, z_dim, phase.samples, purpose="fake for the discriminator")
                    with torch.no_grad():
                        fakes = make_fakes(state, again, config, phase).shown
                reals = sampler.reals(first, share, phase.resolution)
                values |= scalars | discriminator_step(state, reals, fakes, config, phase, world)
                values |= heads_step(state, reals, fakes, config, phase, world)
            state.seen += config.train.batch
            half_life = config.train.average_half_life_kimg * 1000
            update_average(state.average, state.generator, average_decay(config.train.batch, state.seen, half_life))

            ended = state.seen >= schedule.images
            if state.encoder and not state.drawing and (ended or not phase_at(schedule, state.seen, resolution).warm):
                values |= begin_to_draw(state, shown, config, world)
            progress.add({} if state.guard.close(state.seen) else values)
            stopped = world.any(stop.requested)
            if tracker and (progress.due() or ended):
                line = progress.line(state.seen)
                line |= {"resolution": phase.resolution, "skipped": state.guard.skipped}
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
        licences = [] if views else ShardDataset(config.data.shards).plan.licences
        storage.publish("weights/README.md", model_card(config, state.seen, licences).encode())
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


def anchored(seen: int, config: GanConfig) -> bool:
    """Whether the generator goes on to reconstruct in this step of adversarial training."""
    interval = config.train.anchor_interval
    return bool(interval) and seen // config.train.batch % interval == 0


@torch.no_grad()
def snapshot(average: Generator, tracker: Tracker, seen: int, phase: Phase) -> None:
    """A sheet of samples from all sides and a turntable film of the averaged generator."""
    average.measure_mean_code()
    name = f"snapshots/{seen // 1000:06d}"
    tracker.picture(f"{name}.png", sample_sheet(average, phase))
    tracker.picture(f"{name}.mp4", turntable(average, phase))
