"""Train the product's estimators (`encoders.estimators`) on renders that know where the landmarks of the head lie."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.encoders.estimators import WORDS, Estimator, Reading, direction_of
from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.pictures import Pictures, coin, draw_indices, render_marked
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

SEED = 15_485_863
"""added to the run's: neither the diffusion model nor the judge has seen these figures"""
HIDDEN_WEIGHT = 0.3
"""Of the place of a landmark that cannot be seen, beside one that can."""


class Marked(NamedTuple):
    """Renders with the landmarks of the figures in them."""

    pictures: Pictures
    landmarks: Float[Tensor, "count landmarks 2"]
    """Pixels, right and down."""
    visible: Bool[Tensor, "count landmarks"]
    names: tuple[str, ...]

    @property
    def mirrored(self) -> list[int]:
        """Which landmark each one is in a mirror."""
        swap = {"left": "right", "right": "left"}
        return [self.names.index("_".join(swap.get(part, part) for part in name.split("_"))) for name in self.names]

    def to(self, device: torch.device) -> "Marked":
        """The pictures on a device; what is true of them stays."""
        return self._replace(pictures=self.pictures.to(device))

    def part(self, start: int, stop: int) -> "Marked":
        which = slice(start, stop)
        return Marked(self.pictures.part(start, stop), self.landmarks[which], self.visible[which], self.names)


def train_estimators(config: MiniatureConfig, marked: Marked, held_out: Pictures, world: World) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds and scores: on `held_out`, and for the landmarks on the last
    `data.held_out` of its own renders; nothing has been trained on either."""
    recipe, seed = config.train.estimators, config.run.seed + SEED
    cut = len(marked.pictures) - min(config.data.held_out, len(marked.pictures) // 4)
    torch.manual_seed(seed)
    estimator: Any = Estimator(marked.names)
    estimator.to(memory_format=torch.channels_last)
    session = Session("estimators", estimator, recipe, config, world)
    targets = attribute_targets(marked.pictures, WORDS)

    for step in session.steps():
        indices = draw_indices(cut, recipe.batch, seed, "estimators", step)
        flipped = coin(recipe.batch, 0.5, seed, "estimators mirror", step)
        moved = shift(seed, step)
        truth = batch_of(marked, indices, flipped, moved)
        images = degrade(truth.images, seed, step)
        with session.autocast:
            reading = estimator(images)
        losses = view_losses(reading, truth) | {"place": place_loss(reading, truth)}
        known = {name: target[indices].to(world.device) for name, target in targets.items()}
        said = [masked_cross_entropy(reading.words[name].float(), known[name]) for name in WORDS]
        session.learn(torch.stack([*losses.values(), *said]).sum(), **losses, words=torch.stack(said).mean())

    own = marked.part(cut, len(marked.pictures))
    return {**session.spent(), **estimate_renders(session.average.eval(), held_out, own)}


class Truth(NamedTuple):
    """A batch of pictures, shifted and some of them mirrored, and what is true of them then."""

    images: Float[Tensor, "batch 3 64 64"]
    yaw: Float[Tensor, "batch"]
    pitch: Float[Tensor, "batch"]
    landmarks: Float[Tensor, "batch landmarks 2"]
    """Over the size of the picture."""
    visible: Bool[Tensor, "batch landmarks"]


def batch_of(
    marked: Marked, indices: Int[Tensor, "batch"], flipped: Bool[Tensor, "batch"], moved: tuple[int, int]
) -> Truth:
    """The pictures at `indices`, moved by (down, right) pixels, then mirrored where `flipped`."""
    images = marked.pictures.batch(indices).roll(moved, (2, 3))
    size, (down, right) = images.shape[-1], moved
    places = (marked.landmarks[indices] + torch.tensor([float(right), float(down)])) / size
    visible, flip = marked.visible[indices], flipped[:, None].to(images.device)
    twins = places[:, marked.mirrored] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    truth = (
        marked.pictures.yaw[indices] * (1 - 2 * flipped.float()),
        marked.pictures.pitch[indices],
        torch.where(flipped[:, None, None], twins, places),
        torch.where(flipped[:, None], visible[:, marked.mirrored], visible),
    )
    images = torch.where(flip[..., None, None], images.flip(3), images)
    return Truth(images, *(part.to(images.device) for part in truth))


def view_losses(reading: Reading, truth: Truth) -> dict[str, Float[Tensor, ""]]:
    """Of the direction, of the face and of which landmarks are visible."""
    wanted = direction_of(truth.yaw, truth.pitch)
    return {
        "direction": 3 * (reading.direction.float() - wanted).square().sum(1).mean(),
        "face": 0.5 * face_loss(reading.face.float(), truth.yaw),
        "visible": F.binary_cross_entropy_with_logits(reading.visible.float(), truth.visible.float()),
    }


def place_loss(reading: Reading, truth: Truth) -> Float[Tensor, ""]:
    """Mean distance, in sixteenths of the picture, between where landmarks are and are said to be; those that cannot be
    seen count less, those outside the picture not at all."""
    inside = ((truth.landmarks > 0) & (truth.landmarks < 1)).all(2)
    weight = torch.where(truth.visible, 1.0, HIDDEN_WEIGHT) * inside
    distance = 16 * (reading.landmarks.float() - truth.landmarks).square().sum(2).add(1e-8).sqrt()
    return (distance * weight).sum() / weight.sum().clamp(min=1)


def estimate_renders(estimator: Estimator, pictures: Pictures, marked: Marked) -> dict[str, float]:
    """`reading.reading_scores` and the median error of the pitch in degrees on `pictures`; on `marked` the median error
    of visible landmarks in pixels, and how often it is right which landmarks are visible."""
    said = estimator.estimate(pictures.batch(torch.arange(len(pictures))))
    truth = truths(pictures.looks, pictures.styles, pictures.yaw)
    found = estimator.estimate(marked.pictures.batch(torch.arange(len(marked.pictures))))
    distance = (found.landmarks.cpu() - marked.landmarks).norm(dim=2)[marked.visible]
    return {
        "landmarks_px": round(distance.median().item(), 2) if len(distance) else 0.0,
        "visible": round(((found.visible.cpu() > 0.5) == marked.visible).float().mean().item(), 3),
        "pitch_median": round((said.pitch.cpu() - pictures.pitch).abs().median().item(), 2),
        **reading_scores(said.yaw, said.words, said.face, pictures.yaw, truth),
    }


def render_for_estimators(config: MiniatureConfig) -> Marked:
    """Renders of a population of its own, with landmarks."""
    from styleavatar3d.figures.landmarks import LANDMARKS

    pictures, data = render_marked(config, config.data.estimator_renders, config.run.seed + SEED)
    return Marked(pictures, data["landmarks"], data["landmarks_visible"], LANDMARKS)
