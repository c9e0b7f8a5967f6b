"""The pictures a generator learns from, and the keyed draws of reals and fakes.

Every draw depends on (run seed, purpose, index of the image in the run) alone, so the number of processes and a resume
change nothing. Cameras of fakes are drawn from those of the data, so both have one distribution.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from pydantic import Field, model_validator
from torch import Tensor

from styleavatar3d.camera.cameras import mirror_labels, yaw_pitch
from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.chance import Chance
from styleavatar3d.gan.depth import stretch
from styleavatar3d.gan.generator import Jitter
from styleavatar3d.gan.labels import LABEL_DRAWS
from styleavatar3d.runtime.random import generator as keyed
from styleavatar3d.runtime.random import normal, uniform
from styleavatar3d.shards.loader import ShardDataset, indices_at

FRONT_YAW = 50.0
"""degrees either side of the front that count as near-front"""
BACK_YAW = 90.0
"""from how many on a view is one from behind"""


class DataConfig(Strict):
    """`front_share`: near-front views are repeated until they are this share (a face is seen in a third of all yaws,
    and carries most of the detail). `mirror` flips half of the draws, camera and picture together. `back_repeat`: how
    often a view from behind, 90 degrees or more off the front, comes in an epoch (PanoHead's 4)."""

    shards: str
    front_share: float = 0.5
    mirror: bool = True
    back_repeat: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _consistent(self):
        if self.back_repeat > 1 and self.front_share:
            raise ValueError("front_share and back_repeat pull apart: set front_share to 0 or back_repeat to 1")
        return self


class Views(NamedTuple):
    """All pictures, masks and cameras of a data set, in memory."""

    images: UInt8[Tensor, "count 3 height width"]
    masks: UInt8[Tensor, "count 1 height width"]
    labels: Float[Tensor, "count 25"]
    depths: UInt8[Tensor, "count 1 height width"] | None = None
    """depth guidance, near 255, for a discriminator that looks at it"""
    partners: Int64[Tensor, "count 2"] | None = None
    """The views of the same figure are those from `[i, 0]` up to, but without, `[i, 1]`; of none if absent."""


class Reals(NamedTuple):
    """A batch of data in [-1, 1] on mid grey, masks in [0, 1], depths as `depth.stretch` makes them (or no map),
    cameras, the draws of what the discriminator is told of them, the standard deviation of the data's labels (a row an
    image), and whatever else a recipe draws."""

    images: Float[Tensor, "batch 3 height width"]
    masks: Float[Tensor, "batch 1 height width"]
    depths: Float[Tensor, "batch maps height width"]
    labels: Float[Tensor, "batch 25"]
    label_draws: Float[Tensor, "batch 25"]
    label_spread: Float[Tensor, "batch 25"]
    chance: Chance


class Pairs(NamedTuple):
    """Two views of each figure, and everything random about reconstructing the second from the first."""

    shown: Reals
    wanted: Reals
    noise: Float[Tensor, "batch z"]
    jitter: Jitter


class FakeDraws(NamedTuple):
    """Everything random about a batch of fakes; `others` are cameras that a conditioned generator may be told."""

    latents: Float[Tensor, "batch z"]
    labels: Float[Tensor, "batch 25"]
    label_draws: Float[Tensor, "batch 25"]
    label_spread: Float[Tensor, "batch 25"]
    jitter: Jitter
    others: Float[Tensor, "batch 25"]
    chance: Chance


def load_views(url: str, resolution: int, depth: bool = False) -> Views:
    """Read a shard set into memory. Raises unless its pictures are `resolution` pixels a side, and if `depth` is asked
    for where no depth guidance is kept."""
    dataset = ShardDataset(url)
    size = tuple(dataset[0]["image"].shape[-2:])
    if size != (resolution, resolution):
        raise StyleAvatarError(
            f"the pictures in {url} have another size than the generator makes",
            got=size,
            expected=str((resolution, resolution)),
            remedy="change model.generator, or synthesise pictures of this size",
        )
    images = torch.empty(len(dataset), 3, *size, dtype=torch.uint8)
    masks = torch.empty(len(dataset), 1, *size, dtype=torch.uint8)
    labels = torch.empty(len(dataset), 25)
    depths = torch.empty_like(masks) if depth else None
    figures = []
    for index in range(len(dataset)):
        record = dataset[index]
        figures.append(record["json"]["figure"]["id"])
        images[index], masks[index], labels[index] = record["image"], record["mask"], record["label"]
        if depths is not None:
            depths[index] = _depth(dataset, index)
    return Views(images, masks, labels, depths, runs_of(figures))


def runs_of(names: list[str]) -> Int64[Tensor, "count 2"]:
    """Where the run of equal neighbours that each name belongs to begins and ends (views of a figure lie together)."""
    changes = [i for i, name in enumerate(names) if i == 0 or name != names[i - 1]] + [len(names)]
    runs = [[first, end] for first, end in zip(changes, changes[1:], strict=False) for _ in range(first, end)]
    return torch.tensor(runs, dtype=torch.int64)


def _depth(dataset: ShardDataset, index: int) -> UInt8[Tensor, "height width"]:
    guidance = dataset.guidance(index)
    if "depth" not in guidance:
        raise StyleAvatarError(
            "this training looks at depth, and the data set has none",
            got=f"{dataset.storage.url} with {', '.join(guidance) or 'no guidance'}",
            expected="depth guidance in every sample",
            remedy="--config gan/own, or discriminator.depth false and encoder.depth 0; synthesis: data.keep_guidance",
        )
    return guidance["depth"][0]


def balanced_pool(labels: Float[Tensor, "count 25"], front_share: float, back_repeat: int = 1) -> Int64[Tensor, "pool"]:
    """Indices of all views, near-front ones repeated until they are `front_share` of the pool, or those from behind
    `back_repeat` times."""
    everything, yaw = torch.arange(len(labels)), yaw_pitch(labels)[0].abs()
    front, back = everything[yaw < FRONT_YAW], everything[yaw >= BACK_YAW]
    if back_repeat > 1:
        return torch.cat([everything, back.repeat(back_repeat - 1)])
    missing = round((front_share * len(labels) - len(front)) / (1 - front_share))
    if len(front) == 0 or missing <= 0:
        return everything
    return torch.cat([everything, front[torch.arange(missing) % len(front)]])


class Sampler:
    """Draws batches of reals and of what fakes need, for images `first, first + 1, ...` of the run."""

    def __init__(self, views: Views, config: DataConfig, seed: int, device: torch.device):
        self.views, self.mirror, self.seed, self.device = views, config.mirror, seed, device
        self.pool = balanced_pool(views.labels, config.front_share, config.back_repeat)
        self.label_spread = views.labels.std(0, unbiased=False)

    def reals(self, first: int, count: int, resolution: int) -> Reals:
        """Each view of the pool comes once an epoch."""
        chosen = self.pool[torch.as_tensor(indices_at(self.seed, first, count, len(self.pool)))]
        draws = torch.stack([uniform(self.seed, "real", first + i, 2) for i in range(count)])
        return self._look(chosen, draws, resolution, Chance(self.seed, "real", first, count))

    def pairs(self, first: int, count: int, z_dim: int, resolution: int, samples: tuple[int, int]) -> Pairs:
        """Views as `reals` draws them, each after another view, or the same one, of its figure."""
        wanted = self.pool[torch.as_tensor(indices_at(self.seed, first, count, len(self.pool)))]
        draws = torch.stack([uniform(self.seed, "pair", first + i, 3 + sum(samples)) for i in range(count)])
        own = torch.stack([wanted, wanted + 1], 1)
        begin, end = (own if self.views.partners is None else self.views.partners[wanted]).unbind(1)
        shown = begin + (draws[:, 2] * (end - begin)).long()
        noise = normal(self.seed, "pair noise", first, (count, z_dim)).to(self.device)
        jitter = Jitter(*(part.contiguous().to(self.device) for part in draws[:, None, 3:].split(samples, -1)))
        chance = Chance(self.seed, "pair", first, count)
        seen, asked = (self._look(some, draws, resolution, chance) for some in (shown, wanted))
        return Pairs(seen, asked, noise, jitter)

    def _look(self, chosen: Tensor, draws: Tensor, resolution: int, chance: Chance) -> Reals:
        images = self.views.images[chosen].float() / 127.5 - 1
        masks = self.views.masks[chosen].float() / 255
        images = images * masks
        labels, flip = self._flip(self.views.labels[chosen], draws[:, 0])
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        masks = torch.where(flip[:, None, None, None], masks.flip(-1), masks)
        shrink = images.shape[-1] // resolution
        small = F.avg_pool2d(masks, shrink)
        depths = small[:, :0]
        if self.views.depths is not None:
            depths = self.views.depths[chosen].float() / 255
            depths = torch.where(flip[:, None, None, None], depths.flip(-1), depths)
            depths = stretch(F.avg_pool2d(depths * masks, shrink) / small.clamp(min=1e-3), small)
        images = F.avg_pool2d(images, shrink)
        told, spread, to = _label_draws(draws[:, 1], chance), self.label_spread.expand(len(chosen), -1), self.device
        return Reals(images.to(to), small.to(to), depths.to(to), labels.to(to), told.to(to), spread.to(to), chance)

    def fakes(self, first: int, count: int, z_dim: int, samples: tuple[int, int], purpose: str = "fake") -> FakeDraws:
        """Latents, cameras drawn from the data, and one jitter an image."""
        chance = Chance(self.seed, purpose, first, count)
        indices = range(first, first + count)
        draws = torch.stack([uniform(self.seed, purpose, index, 3 + sum(samples)) for index in indices])
        latents = torch.stack(
            [torch.randn(z_dim, generator=keyed(self.seed, f"{purpose} latent", index)) for index in indices]
        )
        chosen = self.pool[(draws[:, 0] * len(self.pool)).long()]
        labels, _ = self._flip(self.views.labels[chosen], draws[:, 1])
        other = chance.uniform("told", 2)
        others, _ = self._flip(self.views.labels[self.pool[(other[:, 0] * len(self.pool)).long()]], other[:, 1])
        coarse, fine = draws[:, None, 3:].split(samples, -1)
        to = self.device
        jitter = Jitter(coarse.contiguous().to(to), fine.contiguous().to(to))
        told, spread = _label_draws(draws[:, 2], chance).to(to), self.label_spread.expand(count, -1).to(to)
        return FakeDraws(latents.to(to), labels.to(to), told, spread, jitter, others.to(to), chance)

    def _flip(self, labels: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        flip = (draws < 0.5) & self.mirror
        return torch.where(flip[:, None], mirror_labels(labels), labels), flip


def _label_draws(first: Float[Tensor, "batch"], chance: Chance) -> Float[Tensor, "batch 25"]:
    """The draw that chooses the kind of label, and those of its noise."""
    return torch.cat([first[:, None], chance.uniform("label", LABEL_DRAWS - 1)], 1)
