"""Synthesis: figures are posed, prompted, diffused, judged and committed, one shard a unit of work.

Everything about picture `index` follows from (run seed, index), and a unit fixes its batches and its thread, so the
same command gives the same records whoever works, in whatever order, however often it was stopped.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from styleavatar3d.camera.cameras import view_name
from styleavatar3d.config import RunConfig, Strict, save_config
from styleavatar3d.figures.guidance import KINDS, GuidedView, guide
from styleavatar3d.runtime.fleet import FleetConfig, Work
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import TrackConfig
from styleavatar3d.runtime.worker import one_thread
from styleavatar3d.shards.manifest import Plan, begin, commit, manifest_hash
from styleavatar3d.shards.parquet import finish as finish_manifest
from styleavatar3d.shards.production import missing, produce
from styleavatar3d.shards.schema import Guidance, Model, Record
from styleavatar3d.shards.tools import inspect
from styleavatar3d.shards.writer import Sample
from styleavatar3d.synthesis.gates import Gatekeeper, GatesConfig, describe_judges, draw_until_passed, picture_seed
from styleavatar3d.synthesis.masks import refine_masks
from styleavatar3d.synthesis.overlap import encoded
from styleavatar3d.synthesis.pipeline import PipelineConfig, SecondPass, describe
from styleavatar3d.synthesis.report import Progress
from styleavatar3d.synthesis.safety import Safety, SafetyConfig, policy_digest
from styleavatar3d.synthesis.scenes import (
    HEADS_LICENCE,
    DataConfig,
    Scene,
    digest,
    draw_scene,
    figure_of,
    figure_source,
)
from styleavatar3d.synthesis.studio import Studio, grouped
from styleavatar3d.synthesis.vocabulary import PromptsConfig, load_vocabulary


class SampleConfig(Strict):
    """How the diffusion model is called."""

    steps: int = Field(default=10, ge=1)
    scale: float = Field(default=3.0, ge=0)
    guidance: tuple[Guidance, ...] = (Guidance(kind="depth", scale=1.0), Guidance(kind="keypoints", scale=1.0))
    """the ControlNets that pose a picture; several are a hybrid"""
    again: SecondPass | None = None
    """draw a second time over the first picture"""
    batch: int = Field(default=25, ge=1)
    negatives: bool = True
    """name in the negative prompt what a view hides"""

    @model_validator(mode="after")
    def _kinds_are_known(self) -> "SampleConfig":
        if unknown := [one.kind for one in self.guidance if one.kind not in KINDS]:
            raise ValueError(f"guidance: nothing draws {', '.join(unknown)}; there are {', '.join(KINDS)}")
        return self


class SynthesisConfig(Strict):
    run: RunConfig
    data: DataConfig = DataConfig()
    model: PipelineConfig = PipelineConfig()
    sample: SampleConfig = SampleConfig()
    prompts: PromptsConfig | None = None
    """full-size words; without this section those of the miniature world"""
    gates: GatesConfig = GatesConfig()
    safety: SafetyConfig = SafetyConfig()
    fleet: FleetConfig = FleetConfig()
    track: TrackConfig = TrackConfig()

    def identity(self, model: Model) -> str:
        """12 hex digits over all that decides the pictures, weights included; where they go and who works does not."""
        apart: Any = {
            "fleet": True, "track": True, "run": {"out"}, "model": {"device", "folder", "offline"}, "data": {"figures"},
            "prompts": {"file"}, "gates": {"weights"}, "safety": {"policy", "classifier"},
        }  # fmt: skip
        tree = self.model_dump(mode="json", exclude=apart) | {
            "weights": model.sha256,
            "figures": [digest(path) for path in self.data.figures],
            "words": load_vocabulary(self.prompts).model_dump(mode="json") if self.prompts else None,
            "policy": policy_digest(self.safety),
            "judges": [judge.sha256 for judge in describe_judges(self.gates, self.safety)],
        }
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def run(config: SynthesisConfig) -> dict[str, Any]:
    """Make the data set of `config` at `config.run.out`, or finish it. Raises Stopped as `produce` does."""
    model, storage = describe(config.model), Storage.open(config.run.out)
    draw(config, 0)  # what cannot be drawn is said before anything is written
    plan = begin(storage, plan_of(config, model))
    storage.create("config.yaml", save_config(config).encode())
    progress = Progress(config.track, storage, config.model_dump(mode="json"), plan, len(missing(storage, plan)))
    with closing(progress):
        entries = produce(storage, plan, config.fleet, partial(prepare, config, model, storage), progress.add_shard)
        if progress.made:
            finish_manifest(storage)
    return {
        "out": storage.url,
        "pictures": sum(entry.count for entry in entries),
        "rejected": sum(len(entry.rejected) for entry in entries),
        "shards_made_now": progress.made,
        "seconds": round(progress.seconds(), 1),
        "hash": manifest_hash(entries),
        **({"gates": inspect(storage.url)["gates"]} if config.gates.asked else {}),
    }


class Tools(NamedTuple):
    """What a worker has loaded."""

    studio: Studio
    keeper: Gatekeeper


def prepare(config: SynthesisConfig, model: Model, storage: Storage) -> Work:
    """Set up a worker: load the models, return the function that makes shards."""
    studio = Studio(config.model)
    device = studio.own[0].pipeline.device
    tools = Tools(studio, Gatekeeper.open(config.gates, Safety.open(config.safety, device), device))
    return partial(make_shard, config, plan_of(config, model), storage, tools)


def make_shard(config: SynthesisConfig, plan: Plan, storage: Storage, tools: Tools, shard: int) -> dict[str, Any]:
    """The unit of work: draw, pose, diffuse, judge and commit one shard, on one thread. Returns its manifest entry."""
    scenes = [draw(config, index) for index in plan.indices(shard)]
    with one_thread():
        samples = draw_until_passed(
            scenes,
            partial(make_pictures, config, plan, tools),
            partial(withheld_picture, config, plan, tools),
            tools.keeper,
            partial(batches, config),
            partial(finish, config),
        )
    return commit(storage, shard, samples, plan.coding).model_dump()


def draw(config: SynthesisConfig, index: int) -> Scene:
    """The scene of picture `index`."""
    return draw_scene(config.run.seed, index, config.data, config.prompts, config.sample.negatives)


def batches(config: SynthesisConfig, scenes: Sequence[Scene]) -> list[list[Scene]]:
    """Scenes that one model draws at once."""
    return grouped(scenes, lambda scene: scene.model, config.sample.batch)


def make_pictures(
    config: SynthesisConfig, plan: Plan, tools: Tools, scenes: Sequence[Scene], attempt: int
) -> list[Sample]:
    """Pose the scenes' figures and diffuse a batch of pictures, all with one model."""
    sample, kinds = config.sample, [one.kind for one in config.sample.guidance]
    views = [guide(figure_of(scene), scene.camera, config.data.resolution, kinds) for scene in scenes]
    poses = {kind: torch.stack([view.pictures[kind] for view in views]) for kind in kinds}
    seeds = [picture_seed(config.run.seed, scene.index, attempt) for scene in scenes]
    prompts, negatives = zip(*(scene.prompt for scene in scenes), strict=True)
    synthesizer, models = tools.studio.model_for(scenes[0].model)
    images = synthesizer.generate(
        prompts, negatives, poses, seeds, sample.steps, sample.scale, sample.guidance, again=sample.again
    )
    samples = []
    for i, (scene, view, seed) in enumerate(zip(scenes, views, seeds, strict=True)):
        record = describe_scene(config, plan, models, scene, seed, attempt)
        samples.append(Sample(record, images[i].permute(2, 0, 1), view.mask[None], kept_guidance(config, view)))
    return samples


def withheld_picture(config: SynthesisConfig, plan: Plan, tools: Tools, scene: Scene) -> Sample:
    """The sample of a prompt that is refused: it is posed, and no model draws it."""
    kinds, size = [one.kind for one in config.sample.guidance], config.data.resolution
    view = guide(figure_of(scene), scene.camera, size, kinds)
    record = describe_scene(config, plan, tools.studio.own[1], scene, picture_seed(config.run.seed, scene.index, 0), 0)
    return Sample(record, torch.zeros(3, size, size, dtype=torch.uint8), view.mask[None], kept_guidance(config, view))


def kept_guidance(config: SynthesisConfig, view: GuidedView) -> dict[str, Tensor]:
    """What is stored beside a picture of the guidance that posed it."""
    if not config.data.keep_guidance:
        return {}
    return {kind: picture.permute(2, 0, 1) for kind, picture in view.pictures.items()}


def finish(config: SynthesisConfig, samples: list[Sample]) -> list[Sample]:
    """Refine the masks of judged pictures and code everything as files."""
    if config.data.masks == "refined":
        images, masks = (torch.stack([getattr(s, part) for s in samples]) for part in ("image", "mask"))
        refined = refine_masks(images, masks)
        samples = [sample._replace(mask=mask) for sample, mask in zip(samples, refined, strict=True)]
    return encoded(samples, config.data.files)


def describe_scene(
    config: SynthesisConfig, plan: Plan, models: Sequence[Model], scene: Scene, seed: int, attempt: int
) -> Record:
    """The record of a picture, before anybody has judged it."""
    yaw, pitch = scene.camera.yaw, scene.camera.pitch
    return Record(
        index=scene.index,
        attempt=attempt,
        seed=seed,
        camera=scene.camera.label().tolist(),
        yaw=yaw,
        pitch=pitch,
        prompt=scene.prompt.text,
        negative=scene.prompt.negative,
        kind=scene.kind,
        style=scene.style,
        view=view_name(yaw),
        attributes=scene.attributes,
        guidance=list(config.sample.guidance),
        models=list(models),
        figure=scene.figure,
        gates={},
        verdict="accepted",
        config_hash=plan.config_hash,
    )


def plan_of(config: SynthesisConfig, model: Model) -> Plan:
    """The data set that `config` and the weights make. Reads every figure's file, and refuses those that hold none."""
    figures = {figure_source(path).licence for path in config.data.figures} or {HEADS_LICENCE}
    return Plan(
        count=config.data.count,
        shard_size=config.data.shard_size,
        resolution=config.data.resolution,
        config_hash=config.identity(model),
        licences=sorted({*model.licence.split(", "), *figures}),
        coding=config.data.files,
    )
