"""The renders that the miniature models learn from, as tensors, with captions drawn anew each time."""

import random
import sys
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.figures.looks import Look
from styleavatar3d.miniature.captions import caption
from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.runtime.distributed import default_device
from styleavatar3d.runtime.random import generator, key
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import clock


@dataclass(frozen=True)
class Pictures:
    """Renders with what made them: picture, guidance, camera, look, style and background."""

    image: UInt8[Tensor, "count 3 height width"]
    depth: UInt8[Tensor, "count 1 height width"]
    keypoints: UInt8[Tensor, "count 3 height width"]
    labels: Float[Tensor, "count 25"]
    looks: list[Look]
    styles: list[str]
    backgrounds: list[str]

    @cached_property
    def yaw(self) -> Float[Tensor, "count"]:
        """Degrees."""
        return yaw_pitch(self.labels)[0]

    @cached_property
    def pitch(self) -> Float[Tensor, "count"]:
        """Degrees."""
        return yaw_pitch(self.labels)[1]

    def __len__(self) -> int:
        return len(self.image)

    def part(self, start: int, stop: int) -> "Pictures":
        """The pictures start .. stop - 1."""
        which = slice(start, stop)
        return Pictures(*(getattr(self, field.name)[which] for field in fields(self)))

    def halved(self) -> "Pictures":
        """The same at half the resolution."""
        small = {name: halve(getattr(self, name)) for name in ("image", "depth", "keypoints")}
        return replace(self, **small)

    def guides(self, indices: Int[Tensor, "batch"]) -> dict[str, Float[Tensor, "batch 3 height width"]]:
        """Guidance pictures of each kind in [0, 1], as ControlNets take them."""
        depth = self.depth[indices].expand(-1, 3, -1, -1)
        return {"depth": depth.float() / 255, "keypoints": self.keypoints[indices].float() / 255}

    def captions(
        self, indices: Int[Tensor, "batch"], seed: int, step: int, mirrored: Bool[Tensor, "batch"] | None = None
    ) -> list[str]:
        """Captions of these pictures, or of their mirror images; drawn from (seed, step, place in the batch)."""
        turn = [1.0] * len(indices) if mirrored is None else (1 - 2 * mirrored.float()).tolist()
        return [
            caption(
                self.looks[index],
                self.styles[index],
                sign * float(self.yaw[index]),
                float(self.pitch[index]),
                random.Random(key(seed, f"caption {step}", place)),
                self.backgrounds[index],
            )
            for place, (index, sign) in enumerate(zip(indices.tolist(), turn, strict=True))
        ]

    def to(self, device: torch.device) -> "Pictures":
        """The pictures on a device; cameras stay, as captions read them one by one."""
        moved = {name: getattr(self, name).to(device) for name in ("image", "depth", "keypoints")}
        return replace(self, **moved)

    def batch(self, indices: Int[Tensor, "batch"]) -> Float[Tensor, "batch 3 height width"]:
        """Pictures in [-1, 1]."""
        return self.image[indices].float() / 127.5 - 1


def render(config: MiniatureConfig) -> tuple[Pictures, Pictures]:
    """The renders to train on and the held-out ones, of figures that training never sees."""
    everything = _render(config, config.data.renders, config.run.seed)
    cut = len(everything) - config.data.held_out
    return everything.part(0, cut), everything.part(cut, len(everything))


def render_for_judge(config: MiniatureConfig) -> Pictures:
    """Renders of another population: no figure of it is in `render`."""
    return _render(config, config.data.judge_renders, config.run.seed + 7919)


def _render(config: MiniatureConfig, count: int, seed: int) -> Pictures:
    return _pictures(_rendered(config, count, seed))


def render_marked(config: MiniatureConfig, count: int, seed: int) -> tuple[Pictures, dict[str, Tensor]]:
    """Renders of a population of its own, with `landmarks` and `landmarks_visible` of `renders.render_dataset`."""
    data = _rendered(config, count, seed, landmarks=True)
    return _pictures(data), {name: data[name] for name in ("landmarks", "landmarks_visible")}


def _rendered(config: MiniatureConfig, count: int, seed: int, landmarks: bool = False) -> dict[str, Any]:
    from styleavatar3d.miniature.renders import render_dataset

    return render_dataset(
        count,
        seed,
        workers=config.data.workers,
        views_per_figure=config.data.views,
        backgrounds=config.data.backgrounds,
        landmarks=landmarks,
        progress=_show,
        cache=Storage.open(config.run.out).local_path("renders"),
        device=default_device().type,
    )


def _pictures(data: dict[str, Any]) -> Pictures:
    names = ("image", "depth_rgb", "keypoints_rgb", "labels", "looks", "styles", "backgrounds")
    return Pictures(*(data[name] for name in names))


def _show(done: int, count: int, seconds_left: float) -> None:
    print(f"renders  {done}/{count}  {clock(seconds_left)} left", file=sys.stderr, flush=True)


def halve(images: UInt8[Tensor, "count channels height width"]) -> Tensor:
    """Means over 2x2 pixels."""
    chunks = images.split(1000)
    return torch.cat([F.avg_pool2d(chunk.float(), 2).round().to(torch.uint8) for chunk in chunks])


def draw_indices(count: int, batch: int, seed: int, stage: str, step: int) -> Int[Tensor, "batch"]:
    """The batch number `step`: uniform with repetition, a function of (seed, stage, step) alone."""
    return torch.randint(count, (batch,), generator=generator(seed, f"{stage} batch", step))


def coin(batch: int, probability: float, seed: int, purpose: str, step: int) -> Bool[Tensor, "batch"]:
    """True with this probability, a function of (seed, purpose, step) alone."""
    return torch.rand(batch, generator=generator(seed, purpose, step)) < probability
