"""Train the judge of `metrics.judge` on renders of a population of its own."""

from typing import Any

import torch
from torch.nn import functional as F

from styleavatar3d.figures.looks import WORDS
from styleavatar3d.metrics.judge import Judge, yaw_bins
from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.pictures import Pictures, coin, draw_indices
from styleavatar3d.miniature.reading import (
    attribute_targets,
    degrade,
    face_loss,
    masked_cross_entropy,
    reading_scores,
    shift,
    truths,
)
from styleavatar3d.miniature.session import Session
from styleavatar3d.runtime.distributed import World


def train_judge(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds, and how well the averaged judge reads held-out renders."""
    recipe, seed = config.train.judge, config.run.seed + 7919
    torch.manual_seed(seed)
    judge: Any = Judge()
    judge.to(memory_format=torch.channels_last)
    session = Session("judge", judge, recipe, config, world)
    targets, turned = attribute_targets(pictures, WORDS), pictures.yaw

    for step in session.steps():
        indices = draw_indices(len(pictures), recipe.batch, seed, "judge", step)
        mirrored = coin(recipe.batch, 0.5, seed, "judge mirror", step).to(world.device)
        images = degrade(pictures.batch(indices).roll(shift(seed, step), (2, 3)), seed, step)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        yaw = turned[indices].to(world.device) * (1 - 2 * mirrored.float())
        with session.autocast:
            logits = {name: numbers.float() for name, numbers in judge(images).items()}
        turn, face = F.cross_entropy(logits["yaw"], yaw_bins(yaw)), face_loss(logits["face"][:, 0], yaw)
        known = {name: target[indices].to(world.device) for name, target in targets.items()}
        words = sum(masked_cross_entropy(logits[name], known[name]) for name in WORDS)
        session.learn(3 * turn + 0.5 * face + words, turn=turn, face=face, words=words / len(WORDS))

    return {**session.spent(), **judge_renders(session.average.eval(), held_out)}


def judge_renders(judge: Judge, pictures: Pictures) -> dict[str, float]:
    """How well this judge reads these renders: `reading.reading_scores`."""
    truth = truths(pictures.looks, pictures.styles, pictures.yaw)
    return reading_scores(*judge.judge(pictures.batch(torch.arange(len(pictures)))), pictures.yaw, truth)
