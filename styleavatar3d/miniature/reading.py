"""What training to read pictures takes, for the judge and for the estimators: damaged pictures, the truth, losses."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.camera.cameras import quarter_name
from styleavatar3d.figures.looks import Look, visible_attributes
from styleavatar3d.miniature.pictures import Pictures
from styleavatar3d.runtime.random import generator

UNSEEN = -100
FACE_TO, NO_FACE_FROM = 100.0, 125.0
"""Degrees of |yaw|: up to the first a face shows, from the second on none does; nothing is asked in between."""


def degrade(images: Float[Tensor, "batch 3 64 64"], seed: int, step: int) -> Float[Tensor, "batch 3 64 64"]:
    """Tint, soften and stain pictures in [-1, 1]: what diffusion and generator make is not as crisp as renders.

    Each picture is blended with its blurred self, and gets noise of one pixel and of blots of four, as a codec leaves
    them, all of its own strength. A quarter of the pictures stays clean.
    """
    source, count = generator(seed, "degrade", step), len(images)
    dirty = (torch.rand(count, 1, 1, 1, generator=source) < 0.75).float()
    soft, fine, blotted = (dirty * torch.rand(count, 1, 1, 1, generator=source) for _ in range(3))
    contrast = 1 + 0.07 * dirty * torch.randn(count, 1, 1, 1, generator=source)
    tint = 0.07 * dirty * torch.randn(count, 3, 1, 1, generator=source)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blots = F.interpolate(torch.randn(count, 3, 16, 16, generator=source), scale_factor=4.0, mode="bilinear")
    noise = 0.06 * fine * torch.randn(images.shape, generator=source) + 0.08 * blotted * blots
    soft, contrast, stains = (part.to(images.device) for part in (soft, contrast, tint + noise))
    return torch.lerp(images, blurred, soft) * contrast + stains


def shift(seed: int, step: int) -> tuple[int, int]:
    """Pixels down and to the right, up to 3, by which the batch of this step is moved."""
    down, right = torch.randint(-3, 4, (2,), generator=generator(seed, "shift", step)).tolist()
    return down, right


def attribute_targets(pictures: Pictures, heads: dict[str, tuple[str, ...]]) -> dict[str, Int[Tensor, "count"]]:
    """Index of each attribute's word in `heads`, and of the style; UNSEEN where it cannot be seen."""
    columns: dict[str, list[int]] = {name: [] for name in heads}
    for seen in truths(pictures.looks, pictures.styles, pictures.yaw):
        for name, words in heads.items():
            columns[name].append(words.index(seen[name]) if name in seen else UNSEEN)
    return {name: torch.tensor(column) for name, column in columns.items()}


def truths(looks: list[Look], styles: list[str], yaw: Float[Tensor, "count"]) -> list[dict[str, str]]:
    """For each picture the attributes that can be seen in it, and its style."""
    everyone = zip(looks, styles, yaw.tolist(), strict=True)
    return [visible_attributes(look, style, turned) | {"style": style} for look, style, turned in everyone]


def masked_cross_entropy(logits: Float[Tensor, "batch words"], target: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Mean over the pictures in which the attribute can be seen; 0 when it can be seen in none."""
    seen = (target != UNSEEN).sum().clamp(min=1)
    return F.cross_entropy(logits, target, ignore_index=UNSEEN, reduction="sum") / seen


def face_is_clear(yaw: Float[Tensor, "batch"]) -> Bool[Tensor, "batch"]:
    """Where it is beyond doubt whether a face shows; yaw in degrees."""
    return (yaw.abs() <= FACE_TO) | (yaw.abs() >= NO_FACE_FROM)


def face_loss(logits: Float[Tensor, "batch"], yaw: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Cross-entropy of whether a face shows, over the pictures in which that is clear."""
    clear = face_is_clear(yaw)
    loss = F.binary_cross_entropy_with_logits(logits, (yaw.abs() <= FACE_TO).float(), reduction="none")
    return (loss * clear).sum() / clear.sum().clamp(min=1)


def reading_scores(
    yaw: Float[Tensor, "count"],
    words: list[dict[str, str]],
    face: Float[Tensor, "count"],
    true_yaw: Float[Tensor, "count"],
    true_words: list[dict[str, str]],
) -> dict[str, float]:
    """What was read off pictures, against the truth.

    Median and 90th percentile of the yaw's error in degrees; the shares that are right of four-way views, of faces
    (probability over one half, where clear), of all visible attributes together and of each.
    """
    yaw, face = yaw.cpu(), face.cpu()
    error = ((yaw - true_yaw + 180) % 360 - 180).abs()
    faces = ((face > 0.5) == (true_yaw.abs() <= FACE_TO))[face_is_clear(true_yaw)]
    right: dict[str, list[bool]] = {}
    for said, truth in zip(words, true_words, strict=True):
        for name, value in truth.items():
            right.setdefault(name, []).append(said[name] == value)
    views = [quarter_name(a) == quarter_name(b) for a, b in zip(yaw.tolist(), true_yaw.tolist(), strict=True)]
    return {
        "yaw_median": round(error.median().item(), 2),
        "yaw_90": round(error.quantile(0.9).item(), 2),
        "view": share(views),
        "face": share(faces.tolist()),
        "attributes": share([each for column in right.values() for each in column]),
        **{name: share(right[name]) for name in words[0] if name in right},
    }


def share(right: list[bool]) -> float:
    """Of these, how many are true; 0 of none."""
    return round(sum(right) / max(len(right), 1), 3)
