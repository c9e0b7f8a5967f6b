"""Pictures of held-out figures, of a generator and of what it learned from, measured part by part by many processes."""

import inspect
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.bench.avatars import measure_avatar, measure_figure
from styleavatar3d.bench.held_out import HELD_OUT, signed
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import draw_look
from styleavatar3d.gan.generator import Generator
from styleavatar3d.metrics.features import Features, digest, open_features
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.metrics.store import FeatureStore, Measured
from styleavatar3d.miniature.renders import draw_cameras, draw_style, render_views
from styleavatar3d.runtime.distributed import World, default_device
from styleavatar3d.runtime.random import key, normal

Source = Literal["renders", "generator", "untrained", "synthesised", "avatars", "figures"]
SOLIDS = ("avatars", "figures")
_BATCH, _UNTRAINED = 25, 500


@dataclass(frozen=True)
class Job:
    """What is to be measured; plain values, so that it can be sent to other processes."""

    generator: str
    """folder of its weights"""
    readers: str
    """folder with judge/, estimators/ and clip/"""
    store: str
    """folder or s3:// prefix of what was measured; the same job goes on there"""
    samples: int = 500
    avatars: int = 20
    seed: int = 0
    features: str = "clip"
    """clip, inception, or a file of Inception weights"""
    data: str | None = None
    """shards that the generator learned from"""
    untrained: bool = True
    """whether an untrained generator is measured beside it"""
    renders: str = ""
    """folder of what was measured of renders, where several jobs share it; `store` by default"""
    part: int = 100
    """pictures that are measured before anything is written"""
    avatar_part: int = 5

    @property
    def sources(self) -> list[Source]:
        """What there is to measure, in order."""
        asked: list[tuple[Source, object]] = [
            ("renders", self.samples),
            ("generator", self.samples),
            ("untrained", self.samples and self.untrained),
            ("synthesised", self.samples and self.data),
            ("figures", self.avatars),
            ("avatars", self.avatars),
        ]
        return [source for source, wanted in asked if wanted]

    def count(self, source: Source) -> int:
        if source in SOLIDS:
            return self.avatars
        return min(self.samples, _UNTRAINED) if source == "untrained" else self.samples

    def labels(self, pictures: range) -> Float[Tensor, "count 25"]:
        """The cameras of the held-out world, from which generators are seen too."""
        return draw_cameras(self.seed + HELD_OUT, pictures.start, len(pictures))

    def conditioning(self, pictures: range) -> Float[Tensor, "count 25"]:
        """What a generator that listens to a camera is told: others of the same kind, drawn independently, so that
        what it shows to a camera it does not know of is measured (arXiv:2303.14407)."""
        return draw_cameras(key(self.seed, "conditioning camera"), pictures.start, len(pictures))


class Population:
    """A job with its networks, each loaded when it is first needed."""

    def __init__(self, job: Job):
        self.job = job

    @cached_property
    def features(self) -> Features:
        return open_features(self.job.features, f"{self.job.readers}/clip")

    @cached_property
    def judge(self) -> Judge:
        return Judge.from_pretrained(f"{self.job.readers}/judge")

    @cached_property
    def estimator(self) -> Estimator:
        return Estimator.from_pretrained(f"{self.job.readers}/estimators")

    @cached_property
    def generator(self) -> Generator:
        return Generator.from_pretrained(self.job.generator, default_device())

    @cached_property
    def untrained(self) -> Generator:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.job.seed)
            return Generator(self.generator.config).to(default_device()).eval().requires_grad_(False)

    def store(self, source: Source) -> FeatureStore:
        """What was measured of `source`."""
        readers = {"judge": digest(self.judge.state_dict()), "estimator": digest(self.estimator.state_dict())}
        about: dict[str, Any] = {"source": source, "features": self.features.name, "seed": self.job.seed, **readers}
        about["size"] = self.generator.config.image_resolution
        if source in ("generator", "avatars"):
            about["generator"] = digest(self.generator.state_dict())
        if source == "synthesised":
            about["data"] = self.job.data
        part = self.job.avatar_part if source in SOLIDS else self.job.part
        place = self.job.store
        if source in ("renders", "figures"):
            place = self.job.renders or place
        return FeatureStore(f"{place}/{source}", self.job.count(source), about, part)

    def stores(self) -> Iterator[tuple[str, FeatureStore, Callable[[range], Measured]]]:
        """What `bench.workers.fill` has to fill."""
        for source in self.job.sources:
            yield source, self.store(source), partial(self.measure, source)

    @torch.inference_mode()
    def measure(self, source: Source, pictures: range) -> Measured:
        """One part of `source`."""
        if source in SOLIDS:
            return self._measure_solids(source, pictures)
        measured: list[Measured] = []
        for first in range(pictures.start, pictures.stop, _BATCH):
            some = range(first, min(first + _BATCH, pictures.stop))
            images = self.images(source, some)
            seen = self.judge.judge(images)
            pitch = self.estimator.estimate(images).pitch
            measured.append({"features": self.features(images), "yaw": seen.yaw, "face": seen.face, "pitch": pitch})
        return {name: torch.cat([each[name] for each in measured]) for name in measured[0]}

    def _measure_solids(self, source: Source, which: range) -> Measured:
        rows = []
        for index in which:
            if source == "avatars":
                rows.append(measure_avatar(self.generator, self.judge, self.features, index, self.job.seed))
            else:
                size = self.generator.config.image_resolution
                rows.append(measure_figure(self.judge, self.features, index, self.job.seed, size))
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def images(self, source: Source, pictures: range) -> Float[Tensor, "count 3 size size"]:
        """Pictures in [-1, 1], on the CPU."""
        if source == "renders":
            return signed(self.renders(pictures))
        if source == "synthesised":
            return signed(shard_pictures(self.job.data or "", pictures, self.job.samples))
        generator = self.generator if source == "generator" else self.untrained
        z = normal(self.job.seed, "evaluate generator", pictures.start, (len(pictures), generator.config.z_dim))
        labels = self.job.labels(pictures)
        codes = codes_of(generator, z.to(default_device()), self.job.conditioning(pictures))
        return generator.render(generator.planes(codes), labels.to(codes), codes=codes).image.float().cpu()

    def renders(self, pictures: range) -> UInt8[Tensor, "count 3 size size"]:
        """Held-out figures, one view each, as large as the generator's pictures."""
        seed, size, made = self.job.seed + HELD_OUT, self.generator.config.image_resolution, []
        for index, label in zip(pictures, self.job.labels(pictures), strict=True):
            figure = build_figure(draw_look(seed, index))
            made.append(render_views(figure, draw_style(seed, index), label[None], size)[0].image.movedim(-1, 0))
        return torch.stack(made)


def codes_of(generator: Any, z: Float[Tensor, "batch z"], cameras: Float[Tensor, "batch 25"]) -> Tensor:
    """Codes [batch, slots, w] at truncation 1, of a generator that listens to cameras or does not."""
    listens = "labels" in inspect.signature(generator.mapping).parameters
    return generator.mapping(z, labels=cameras.to(z)) if listens else generator.mapping(z)


def shard_pictures(data: str, pictures: range, count: int) -> UInt8[Tensor, "some 3 size size"]:
    """Some of the first `count` pictures of these shards. Raises StyleAvatarError if they are fewer."""
    from styleavatar3d.shards.loader import ShardDataset

    shards = ShardDataset(data)
    if len(shards) < count:
        raise StyleAvatarError("too few pictures to compare with", got=len(shards), expected=f"{count} in {data}")
    return shards.load(pictures)["image"]


@contextmanager
def stored(job: Job, world: World) -> Iterator[Job]:
    """The job with a store: its own, or one that is gone afterwards."""
    if job.store:
        yield job
        return
    if world.size > 1:
        raise StyleAvatarError(
            "several processes need a store that all of them see", expected="--store FOLDER or s3://bucket/prefix"
        )
    with tempfile.TemporaryDirectory() as folder:
        yield replace(job, store=folder)
