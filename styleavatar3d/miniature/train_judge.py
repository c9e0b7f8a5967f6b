"""Train the judge of `metrics.judge` on renders of a population of its own."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.figures.looks import visible_attributes
from styleavatar3d.metrics.judge import HEADS, Judge, view_of
from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.pictures import Pictures, coin, draw_indices
from styleavatar3d.miniature.session import Session
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.random import generator

UNSEEN = -100


def train_judge(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds and the share of right views and attributes in held-out renders."""
    recipe, seed = config.train.judge, config.run.seed + 7919
    torch.manual_seed(seed)
    judge: Any = Judge()
    judge.to(memory_format=torch.channels_last)
    session = Session("judge", judge, recipe, config, world)
    targets = attribute_targets(pictures)

    for step in session.steps():
        indices = draw_indices(len(pictures), recipe.batch, seed, "judge", step)
        mirrored = coin(recipe.batch, 0.5, seed, "judge mirror", step)
        images = degrade(pictures.batch(indices), seed, step)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        yaw = torch.deg2rad(pictures.yaw[indices]) * (1 - 2 * mirrored.float())
        with session.autocast:
            direction, logits = judge(images.contiguous(memory_format=torch.channels_last))
        turn = (direction.float() - torch.stack([yaw.sin(), yaw.cos()], 1)).pow(2).mean()
        words = sum(masked_cross_entropy(logits[name].float(), targets[name][indices]) for name in HEADS) / len(HEADS)
        session.learn(2 * turn + words, turn=turn, words=words)

    scores = judge_renders(session.average.eval(), held_out)
    return {**session.spent(), **scores}


def degrade(images: Float[Tensor, "batch 3 64 64"], seed: int, step: int) -> Float[Tensor, "batch 3 64 64"]:
    """Shift by up to 3 px, blur half of the pictures, add noise: synthesised pictures are not as crisp as renders."""
    source = generator(seed, "degrade", step)
    down, right = torch.randint(-3, 4, (2,), generator=source).tolist()
    images = images.roll((down, right), (2, 3))
    soft = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(len(images), 1, 1, 1, generator=source) * 2
    images = torch.lerp(images, soft, (share - 1).clamp(min=0))
    return images + 0.06 * torch.rand(len(images), 1, 1, 1, generator=source) * torch.randn(
        images.shape, generator=source
    )


def masked_cross_entropy(logits: Float[Tensor, "batch words"], target: Int[Tensor, "batch"]) -> Tensor:
    """Mean over the pictures in which the attribute can be seen; 0 when it can be seen in none."""
    seen = (target != UNSEEN).sum().clamp(min=1)
    return F.cross_entropy(logits, target, ignore_index=UNSEEN, reduction="sum") / seen


def attribute_targets(pictures: Pictures) -> dict[str, Int[Tensor, "count"]]:
    """Index of each attribute's word, and of the style; -100 where it cannot be seen."""
    columns: dict[str, list[int]] = {name: [] for name in HEADS}
    for look, style, yaw in zip(pictures.looks, pictures.styles, pictures.yaw.tolist(), strict=True):
        seen = visible_attributes(look, style, yaw) | {"style": style}
        for name, words in HEADS.items():
            columns[name].append(words.index(seen[name]) if name in seen else UNSEEN)
    return {name: torch.tensor(column) for name, column in columns.items()}


def judge_renders(judge: Judge, pictures: Pictures) -> dict[str, float]:
    """How often the judge is right about the four-way view, and about visible attributes, on these renders."""
    judgement = judge.judge(pictures.batch(torch.arange(len(pictures))))
    views = [
        view_of(guess) == view_of(true)
        for guess, true in zip(judgement.yaw.tolist(), pictures.yaw.tolist(), strict=True)
    ]
    scores: dict[str, list[bool]] = {name: [] for name in HEADS}
    everyone = zip(judgement.words, pictures.looks, pictures.styles, pictures.yaw.tolist(), strict=True)
    for words, look, style, yaw in everyone:
        for name, value in (visible_attributes(look, style, yaw) | {"style": style}).items():
            scores[name].append(words[name] == value)
    accuracy = {name: round(sum(right) / max(len(right), 1), 3) for name, right in scores.items()}
    return {"view": round(sum(views) / len(views), 3), **accuracy}
