"""Train the miniature world's models, stage by stage: clip and codec, the diffusion on top of both, judge, estimators.

Each stage resumes by itself and does nothing when it is done, so stages may run in several processes at once
(`--train.stages clip` beside `--train.stages codec`). `out/weights` holds a folder for each model that is done.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from styleavatar3d.config import config_hash, save_config
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.landmarks import LANDMARKS
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.models import save_pipeline
from styleavatar3d.miniature.pictures import render, render_for_judge
from styleavatar3d.miniature.session import trained
from styleavatar3d.miniature.train_clip import tokenizer_for, train_clip, trained_clip
from styleavatar3d.miniature.train_codec import train_codec
from styleavatar3d.miniature.train_diffusion import finished_pipeline, train_coarse, train_diffusion
from styleavatar3d.miniature.train_estimators import render_for_estimators, train_estimators
from styleavatar3d.miniature.train_judge import train_judge
from styleavatar3d.runtime.distributed import connect
from styleavatar3d.runtime.storage import Storage

STAGES = {
    "clip": train_clip, "codec": train_codec, "coarse": train_coarse, "diffusion": train_diffusion,
    "judge": train_judge, "estimators": train_estimators,
}  # fmt: skip
OWN_RENDERS = {"judge": render_for_judge, "estimators": render_for_estimators}
EXPORTED = ("diffusion", "judge", "estimators")
CARD = """---
license: apache-2.0
---
Part of StyleAvatar3D's miniature world: `{name}`, trained from random weights by `styleavatar3d train miniature`
(config {config}) on renders of parametric heads (CC0). Amounts, seconds and scores: `../training.json`.
It knows 64 px busts of that little world and nothing of real people.
"""


def train(config: MiniatureConfig) -> dict[str, Any]:
    """Run the stages of `config.train.stages` that are not done; returns a summary of each.

    Raises Stopped on SIGTERM or Ctrl-C, and StyleAvatarError when the diffusion is asked for before clip and codec.
    """
    world = connect(config.train.threads)
    storage = Storage.open(config.run.out)
    pictures, held_out = (part.to(world.device) for part in render(config))
    summary: dict[str, Any] = {}
    for stage in [name for name in STAGES if name in config.train.stages]:
        own = OWN_RENDERS[stage](config).to(world.device) if stage in OWN_RENDERS else pictures
        summary[stage] = STAGES[stage](config, own, held_out, world)
        if world.main:
            storage.publish(f"{stage}/summary.json", json.dumps(summary[stage], indent=2).encode())
            storage.publish("config.yaml", save_config(config).encode())
    if world.main and set(EXPORTED) & set(config.train.stages):
        summary["weights"] = export(config)
    world.wait()
    return summary


def export(config: MiniatureConfig) -> str:
    """Write the weights of this run's stages in fp16, and all summaries, under `out/weights`; returns that place.

    The diffusion is a pipeline with CLIP and codec, which come with it; diffusers writes it to local folders only.
    """
    storage = Storage.open(config.run.out)
    home = f"{storage.url}/weights"
    summaries = {
        stage: json.loads(storage.read(f"{stage}/summary.json"))
        for stage in STAGES
        if storage.exists(f"{stage}/summary.json")
    }
    exported = [name for name in EXPORTED if name in config.train.stages]
    if "diffusion" in exported:
        export_diffusion(config, storage)
        exported.append("clip")
    if "judge" in exported:
        trained("judge", Judge(), config).save_pretrained(f"{home}/judge")
    if "estimators" in exported:
        trained("estimators", Estimator(LANDMARKS), config).save_pretrained(f"{home}/estimators")
    for name in exported:
        storage.publish(f"weights/{name}/README.md", CARD.format(name=name, config=config_hash(config)).encode())
    about = json.dumps({"seed": config.run.seed, **summaries}, indent=2) + "\n"
    storage.publish("weights/training.json", about.encode())
    return home


def export_diffusion(config: MiniatureConfig, storage: Storage) -> None:
    """The pipeline with its ControlNets, and CLIP beside it."""
    folder = storage.local_path("weights")
    if folder is None:
        got = config.run.out
        raise StyleAvatarError("a diffusion is exported to a local folder", got=got, remedy="use a local run.out")
    pipeline, controlnets = finished_pipeline(config)
    halves = {kind: network.half() for kind, network in controlnets.items()}
    save_pipeline(folder / "diffusion", pipeline.to(dtype=torch.float16), halves)
    trained_clip(config).half().save_pretrained(folder / "clip")
    tokenizer_for(config).save_pretrained(folder / "clip")
