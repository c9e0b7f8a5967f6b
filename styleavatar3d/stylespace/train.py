"""Train the style prior on pairs of codes and embeddings."""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.assets import shipped
from styleavatar3d.config import config_hash, save_config
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.runtime.checkpoint import Checkpoint, Checkpoints, StopSignal
from styleavatar3d.runtime.distributed import World, connect
from styleavatar3d.runtime.learner import AveragedAdamW, Learner, learner
from styleavatar3d.runtime.licences import stated_licences
from styleavatar3d.runtime.random import generator as random_generator
from styleavatar3d.runtime.random import key, normal
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import Progress, Tracker
from styleavatar3d.stylespace import attributes, codes, evaluate
from styleavatar3d.stylespace.config import StyleSpaceConfig, TrainConfig
from styleavatar3d.stylespace.denoiser import Conditions
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.statistics import Statistics


@dataclass
class TrainState:
    """What learns, and how far it is; a checkpoint saves `learner.tensors()` at `seen`."""

    prior: StylePrior
    """its denoiser is given the averaged weights where they are needed"""
    learner: Learner
    statistics: Statistics
    """those of the prior, on the CPU, where the pairs are"""
    seen: int = 0
    """pairs"""


def train(config: StyleSpaceConfig) -> dict[str, Any]:
    """Make the pairs if they are not there, train, write `weights/`, and say how well held-out pairs are found again.

    The same call resumes. Raises Stopped after a checkpoint when told to stop.
    """
    world, storage, settings = connect(zero=True), Storage.open(config.run.out), config.train
    if world.main:
        codes.make(config)
        storage.publish("config.yaml", save_config(config).encode())
    world.wait()
    manifest, pairs, statistics = codes.load(config.data.codes)
    training, held_out = split(pairs, config.data.held_out)
    checkpoints, total = Checkpoints(storage), int(settings.kpairs * 1000)
    state = begin(config, start(config, statistics, manifest), world, checkpoints.latest())
    tracker = Tracker(config.track, storage, config.model_dump(mode="json"), state.seen) if world.main else None
    progress = Progress("stylespace", total, state.seen, config.track.seconds)
    next_checkpoint = _next(config, state.seen)
    with StopSignal() as stop:
        while state.seen < total:
            progress.add({"loss": step(state, training, settings, config.run.seed, world)})
            stopping = world.any(stop.requested)
            if world.any(world.main and progress.due()) or state.seen >= total:
                progress.add({"held_out": held_out_loss(state, held_out, world)})
                if tracker:
                    tracker.report(state.seen, progress.line(state.seen))
            if state.seen >= next_checkpoint or stopping or state.seen >= total:
                next_checkpoint = _next(config, state.seen)
                tensors = state.learner.tensors()
                if world.main:
                    checkpoints.save(state.seen, tensors, {})
            if stopping and state.seen < total:
                raise Stopped("training of the style prior was stopped", remedy="the same command goes on")
    state.learner.average_into(state.prior.denoiser)
    prior, ways = state.prior, {"processes": world.size, "zero": world.zero}
    summary: dict[str, Any] = {"kpairs": state.seen / 1000, "weights": f"{storage.url}/weights"} | ways
    if tracker:
        summary |= evaluate.measure(config, prior.cpu(), held_out)
        prior.strangers = summary.get("strangers")
        publish_weights(storage, prior, model_card(config, prior, summary))
        storage.publish("summary.json", json.dumps(summary, indent=2).encode())
        tracker.report(state.seen, {name: value for name, value in summary.items() if isinstance(value, float)})
        tracker.close()
    world.wait()
    return summary


def start(config: StyleSpaceConfig, statistics: Statistics, manifest: dict[str, Any]) -> StylePrior:
    """The prior before its first step: random, or with the weights of `model.start` and its statistics."""
    if config.model.start:
        return StylePrior.from_pretrained(
            shipped(config.model.start),
            manifest["generator_sha256"],
            {role: model.sha256 for role, model in codes.encoders_of(manifest).items()},
        )
    torch.manual_seed(key(config.run.seed, "denoiser"))
    return StylePrior(
        config.model, statistics, manifest["slots"], manifest["generator_sha256"], manifest["attributes"],
        encoders=codes.encoders_of(manifest),
    )  # fmt: skip


def begin(config: StyleSpaceConfig, prior: StylePrior, world: World, checkpoint: Checkpoint | None) -> TrainState:
    """Ready for the next step: the first, or the one after the checkpoint."""
    statistics = copy.deepcopy(prior.statistics)
    network = copy.deepcopy(prior.denoiser).to(world.device).train().requires_grad_(True)
    prior.to(world.device).eval().requires_grad_(False)
    settings = config.train
    network.use_attention(config.model.attention, torch.bfloat16 if settings.precision == "bf16" else torch.float32)
    optimizer = AveragedAdamW(network.parameters(), settings.learning_rate, (0.9, 0.99), weight_decay=0.05)
    learns = learner(
        network, optimizer, world, batch=settings.batch, precision=settings.precision, clip=settings.clip,
        compiled=settings.compile, saved=checkpoint.tensors if checkpoint else None,
    )  # fmt: skip
    return TrainState(prior, learns, statistics, checkpoint.position if checkpoint else 0)


def step(state: TrainState, pairs: dict[str, Tensor], settings: TrainConfig, seed: int, world: World) -> float:
    """One step on the batch that belongs to this position of the run; returns the loss."""
    batch = draw_batch(state, pairs, settings, seed, world)
    loss = state.prior.loss(*batch, denoiser=state.learner)
    rate = settings.learning_rate * schedule(state.seen, settings)
    state.seen += settings.batch
    state.learner.step(loss, rate, average_weight(state.seen, settings))
    return world.average(loss.detach()).item()


@torch.no_grad()
def held_out_loss(state: TrainState, pairs: dict[str, Tensor], world: World) -> float:
    """The loss of the averaged weights on pictures never trained on, always at the same levels and noise."""
    state.learner.average_into(state.prior.denoiser)
    standard = state.statistics.standard_code(pairs["codes"]).expand(-1, state.prior.tokens, -1).to(world.device)
    conditions = state.prior.conditions(image=pairs["embeddings"][:, 0])
    level = torch.arange(len(standard), device=world.device) / len(standard)
    noise = normal(0, "held out", 0, tuple(standard.shape)).to(world.device)
    return state.prior.loss(standard, conditions, level, noise).item()


class Batch(NamedTuple):
    """What `StylePrior.loss` takes."""

    standard: Float[Tensor, "batch tokens w"]
    conditions: Conditions
    level: Float[Tensor, "batch"]
    noise: Float[Tensor, "batch tokens w"]


def draw_batch(state: TrainState, pairs: dict[str, Tensor], settings: TrainConfig, seed: int, world: World) -> Batch:
    """This rank's part of the batch at `state.seen`."""
    size = settings.batch
    draw = random_generator(seed, "style batch", state.seen)
    indices = batch_indices(seed, state.seen, size, len(pairs["codes"]))
    standard = state.statistics.standard_code(pairs["codes"][indices]).expand(-1, state.prior.tokens, -1)
    conditions = draw_conditions(state.statistics, pairs, indices, settings, draw)
    level, noise = torch.rand(size, generator=draw), torch.randn(standard.shape, generator=draw)
    share = world.share(size)
    part = slice(world.rank * share, (world.rank + 1) * share)
    standard, level, noise = (value[part].to(world.device) for value in (standard, level, noise))
    return Batch(standard, Conditions(*(value[part].to(world.device) for value in conditions)), level, noise)


def draw_conditions(
    statistics: Statistics, pairs: dict[str, Tensor], indices: Tensor, settings: TrainConfig, draw: torch.Generator
) -> Conditions:
    """For each code a crop of its render, a caption and some of its attributes; each may be left unknown."""
    size, drop = len(indices), settings.drop
    crops = torch.randint(pairs["embeddings"].shape[1], (size,), generator=draw)
    captions = torch.randint(pairs["texts"].shape[1], (size,), generator=draw)
    disturbance = [
        settings.noise * torch.randn(size, pairs[name].shape[2], generator=draw) for name in ("embeddings", "texts")
    ]
    kept = torch.rand(size, 3, generator=draw) >= torch.tensor([drop.image, drop.text, drop.attributes])
    kept &= torch.rand(size, 1, generator=draw) >= drop.all
    said = (
        attributes.some_of(pairs["seen"][indices], draw) if "seen" in pairs else torch.zeros(size, attributes.NUMBERS)
    )
    if "seen" not in pairs:
        kept[:, 2] = False
    return Conditions(
        statistics.image(pairs["embeddings"][indices, crops]) + disturbance[0],
        statistics.text(pairs["texts"][indices, captions]) + disturbance[1],
        said,
        kept.float(),
    )


def batch_indices(seed: int, position: int, batch: int, count: int) -> Tensor:
    """Which pairs the samples position .. position + batch are: each epoch reads every pair once, in its own order."""
    epochs = range(position // count, (position + batch - 1) // count + 1)
    order = torch.cat([torch.randperm(count, generator=random_generator(seed, "order", epoch)) for epoch in epochs])
    first = position - epochs.start * count
    return order[first : first + batch]


def schedule(seen: int, settings: TrainConfig) -> float:
    """Learning rate over its peak: linear warm-up, then half a cosine to zero."""
    warmup, total = settings.warmup_kpairs * 1000, settings.kpairs * 1000
    rise = min(1.0, (seen + settings.batch) / warmup) if warmup else 1.0
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, seen / total)))


def average_weight(seen: int, settings: TrainConfig) -> float:
    """What the newest weights count in their average: its half-life is `ema_kpairs`, at first a tenth of the run."""
    half_life = min(settings.ema_kpairs * 1000, 0.1 * seen)
    return 1 - 0.5 ** (settings.batch / half_life)


def split(pairs: dict[str, Tensor], held_out: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Training pairs, and the last `held_out`."""
    count = len(pairs["codes"])
    if held_out >= count:
        raise StyleAvatarError(
            "no pairs are left to train on",
            got=f"{held_out} of {count} held out",
            expected="data.held_out below data.count",
        )
    return (
        {name: value[:-held_out] for name, value in pairs.items()},
        {name: value[-held_out:] for name, value in pairs.items()},
    )


def publish_weights(storage: Storage, prior: StylePrior, card: str) -> None:
    """Put the prior's folder under `weights/` of the run."""
    with TemporaryDirectory() as temporary:
        prior.save_pretrained(temporary)
        (Path(temporary) / "README.md").write_text(card)
        for path in sorted(Path(temporary).rglob("*")):
            if path.is_file():
                storage.publish(f"weights/{path.relative_to(temporary)}", path.read_bytes())


def model_card(config: StyleSpaceConfig, prior: StylePrior, summary: dict[str, Any]) -> str:
    """What the weights are, what they belong to, and how well held-out pairs are found again.

    It passes on the licences that the generator's card states: every code comes from there.
    """
    licences = stated_licences(Storage.open(shipped(config.data.generator)))
    encoders = prior.encoders or {}
    readers = ", ".join(f"{role}: {model.id}, {model.licence}" for role, model in encoders.items()) or "not recorded"
    figures = "".join(f"- {name}: {value}\n" for name, value in summary.items() if isinstance(value, float))
    return f"""---
library_name: styleavatar3d
tags: [style-prior, avatar, machine-made]
licences_of_training_data: {json.dumps(licences, ensure_ascii=False)}
generator_sha256: {prior.generator_sha256}
seed: {config.run.seed}
config_hash: {config_hash(config)}
---
# Style prior

Diffusion over the codes of generator {prior.generator_sha256[:12]}, conditioned on embeddings of pictures and texts
({readers}) and on attributes;
trained on {config.data.count} codes and renders of that generator. It works with no other.
Measured on {config.data.held_out} pairs held out, one sample each, nothing ranked ("explained": share of their codes'
variance; retrieval among {config.track.retrieval}; "attributes_found": stated words that the estimator finds):

{figures}
`StylePrior.from_pretrained(folder)` of `styleavatar3d.stylespace.diffusion` loads it.
"""


def _next(config: StyleSpaceConfig, seen: int) -> float:
    period = config.track.checkpoint_kpairs * 1000
    return (seen // period + 1) * period
