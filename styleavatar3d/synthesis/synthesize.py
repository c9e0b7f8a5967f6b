"""Synthesis: looks, cameras and styles are drawn, posed, prompted, diffused and committed, one shard a unit of work.

Everything about picture `index` follows from (run seed, index), and a unit fixes its batch and its thread, so the same
command gives the same records whoever works, in whatever order, however often it was stopped.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from pydantic import Field

from styleavatar3d.camera.cameras import Camera, view_name
from styleavatar3d.config import RunConfig, Strict, save_config
from styleavatar3d.errors import Stopped
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import guide
from styleavatar3d.figures.looks import STYLES, Look, draw_look, visible_attributes
from styleavatar3d.runtime.checkpoint import StopSignal
from styleavatar3d.runtime.fleet import Fleet, FleetConfig, Work
from styleavatar3d.runtime.random import key, uniform
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import clock
from styleavatar3d.shards.manifest import Plan, begin, commit, committed, manifest_hash, read_manifest
from styleavatar3d.shards.schema import Figure, Guidance, Model, Record
from styleavatar3d.shards.writer import Sample
from styleavatar3d.synthesis.pipeline import PipelineConfig, Synthesizer, describe
from styleavatar3d.synthesis.prompts import Prompt, compose

HEADS_LICENCE = "CC0-1.0"


class DataConfig(Strict):
    """What is drawn. Near-front views are drawn more often: `front_share` of all have |yaw| < `front_yaw`."""

    count: int = Field(default=8000, ge=1)
    shard_size: int = Field(default=250, ge=1)
    resolution: int = Field(default=64, ge=16)
    views_per_figure: int = Field(default=3, ge=1)
    styles: tuple[str, ...] = STYLES
    front_share: float = Field(default=0.35, ge=0, le=1)
    front_yaw: float = Field(default=50.0, gt=0, le=180)
    pitch: tuple[float, float] = (-15.0, 25.0)
    keep_guidance: bool = True
    """store the guidance pictures with each image"""


class SampleConfig(Strict):
    """How the diffusion model is called."""

    steps: int = Field(default=10, ge=1)
    scale: float = Field(default=3.0, ge=0)
    guidance: tuple[Guidance, ...] = (Guidance(kind="depth", scale=1.0), Guidance(kind="keypoints", scale=1.0))
    """the ControlNets that pose a picture; several are a hybrid"""
    batch: int = Field(default=25, ge=1)
    negatives: bool = True
    """name in the negative prompt what a view hides"""


class SynthesisConfig(Strict):
    run: RunConfig
    data: DataConfig = DataConfig()
    model: PipelineConfig = PipelineConfig()
    sample: SampleConfig = SampleConfig()
    fleet: FleetConfig = FleetConfig()

    def identity(self, model: Model) -> str:
        """12 hex digits over all that decides the pictures, weights included; where they go and who works does not."""
        apart: Any = {"fleet": True, "run": {"out"}, "model": {"device", "folder"}}
        tree = {**self.model_dump(mode="json", exclude=apart), "weights": model.sha256}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


class Scene(NamedTuple):
    """What picture `index` shows, before any pixel."""

    index: int
    figure: int
    look: Look
    style: str
    camera: Camera
    prompt: Prompt


def run(config: SynthesisConfig) -> dict[str, Any]:
    """Make the data set of `config` at `config.run.out`, or finish it. Raises Stopped on SIGTERM and Ctrl-C."""
    model, storage = describe(config.model), Storage.open(config.run.out)
    plan = begin(storage, _plan(config, model))
    storage.create("config.yaml", save_config(config).encode())
    done = committed(storage)
    todo = [shard for shard in range(plan.shards) if shard not in done]
    progress = _Progress(plan, len(todo))
    with StopSignal() as stop, Fleet.open(config.fleet, partial(prepare, config, model, storage)) as fleet:
        for _ in fleet.run(todo, lambda: stop.requested):
            progress.add_shard()
    entries = read_manifest(storage)
    if len(entries) < plan.shards:
        raise Stopped(
            f"synthesis stopped with {len(entries)} of {plan.shards} shards committed",
            remedy="run the same command to go on",
        )
    return {
        "out": storage.url,
        "pictures": sum(entry.count for entry in entries),
        "rejected": sum(len(entry.rejected) for entry in entries),
        "shards_made_now": progress.made,
        "seconds": round(progress.seconds(), 1),
        "hash": manifest_hash(entries),
    }


def prepare(config: SynthesisConfig, model: Model, storage: Storage) -> Work:
    """Set up a worker: load the diffusion model, return the function that makes shards."""
    source = config.model
    synthesizer = Synthesizer.from_pretrained(source.folder, source.device, source.dtype, source.controlnets)
    return partial(make_shard, config, model, storage, synthesizer)


def make_shard(
    config: SynthesisConfig, model: Model, storage: Storage, synthesizer: Synthesizer, shard: int
) -> dict[str, Any]:
    """The unit of work: draw, pose, diffuse and commit one shard, on one thread. Returns its manifest entry."""
    scenes = [draw(config, index) for index in _plan(config, model).indices(shard)]
    samples: list[Sample] = []
    with one_thread():
        for start in range(0, len(scenes), config.sample.batch):
            samples += make_pictures(config, model, synthesizer, scenes[start : start + config.sample.batch])
    return commit(storage, shard, samples).model_dump()


def draw(config: SynthesisConfig, index: int) -> Scene:
    """The scene of picture `index`: several views of one figure follow each other, styles take turns."""
    data, seed = config.data, config.run.seed
    kind, place, height = uniform(seed, "camera", index, 3).tolist()
    widest = data.front_yaw if kind < data.front_share else 180.0
    yaw = (2 * place - 1) * widest
    pitch = data.pitch[0] + height * (data.pitch[1] - data.pitch[0])
    figure, style = index // data.views_per_figure, data.styles[index % len(data.styles)]
    look = draw_look(seed, figure)
    prompt = compose(look, style, yaw, pitch)
    if not config.sample.negatives:
        prompt = prompt._replace(negative="")
    return Scene(index, figure, look, style, Camera.orbit(yaw, pitch), prompt)


def make_pictures(
    config: SynthesisConfig, model: Model, synthesizer: Synthesizer, scenes: Sequence[Scene]
) -> list[Sample]:
    """Pose the scenes' figures and diffuse a batch of pictures."""
    kinds = [one.kind for one in config.sample.guidance]
    views = [guide(_figure(scene.look), scene.camera, config.data.resolution, kinds) for scene in scenes]
    poses = {kind: torch.stack([view.pictures[kind] for view in views]) for kind in kinds}
    seeds = [key(config.run.seed, "picture", scene.index) for scene in scenes]
    prompts, negatives = zip(*(scene.prompt for scene in scenes), strict=True)
    sample = config.sample
    images = synthesizer.generate(prompts, negatives, poses, seeds, sample.steps, sample.scale, sample.guidance)
    samples = []
    for i, (scene, view, seed) in enumerate(zip(scenes, views, seeds, strict=True)):
        kept = {kind: pose[i].permute(2, 0, 1) for kind, pose in poses.items()} if config.data.keep_guidance else {}
        record = describe_scene(config, model, scene, seed)
        samples.append(Sample(record, images[i].permute(2, 0, 1), view.mask[None], kept))
    return samples


def describe_scene(config: SynthesisConfig, model: Model, scene: Scene, seed: int) -> Record:
    """The record of a picture."""
    yaw, pitch = scene.camera.yaw, scene.camera.pitch
    return Record(
        index=scene.index,
        attempt=0,
        seed=seed,
        camera=scene.camera.label().tolist(),
        yaw=yaw,
        pitch=pitch,
        prompt=scene.prompt.text,
        negative=scene.prompt.negative,
        kind=scene.look.kind,
        style=scene.style,
        view=view_name(yaw),
        attributes=visible_attributes(scene.look, scene.style, yaw),
        guidance=list(config.sample.guidance),
        models=[model],
        figure=Figure(id=f"{config.run.seed}/{scene.figure}", source="data/heads.safetensors", licence=HEADS_LICENCE),
        gates={},
        verdict="accepted",
        config_hash=config.identity(model),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums are taken in another order by more threads, which changes the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=2)
def _figure(look: Look) -> Any:
    return build_figure(look)


def _plan(config: SynthesisConfig, model: Model) -> Plan:
    return Plan(
        count=config.data.count,
        shard_size=config.data.shard_size,
        resolution=config.data.resolution,
        config_hash=config.identity(model),
        licences=sorted({model.licence, HEADS_LICENCE}),
    )


class _Progress:
    """One line on stderr a shard: how far, how fast, how long still."""

    def __init__(self, plan: Plan, todo: int):
        self.plan, self.todo, self.made, self.began = plan, todo, 0, time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def add_shard(self) -> None:
        self.made += 1
        rate = self.made * self.plan.shard_size / self.seconds()
        done = self.plan.shards - self.todo + self.made
        pictures = min(done * self.plan.shard_size, self.plan.count)
        left = clock(self.seconds() / self.made * (self.todo - self.made))
        print(
            f"synthesis  {pictures}/{self.plan.count} pictures  {rate:.1f}/s  {left} left", file=sys.stderr, flush=True
        )
