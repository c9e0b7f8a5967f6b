"""Samples of a shard without any diffusion model: renders of the miniature world, as if they had been synthesised."""

from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import Look, visible_attributes
from styleavatar3d.miniature.renders import RenderedView, render_view
from styleavatar3d.shards.schema import Figure, Record
from styleavatar3d.shards.writer import Sample
from styleavatar3d.synthesis.gates import picture_seed
from styleavatar3d.synthesis.prompts import compose
from styleavatar3d.synthesis.studio import grouped

LOOK = Look(hair="bob", hair_color="red", shirt_color="green")


def render(yaw: float, look: Look = LOOK, style: str = "cartoon") -> RenderedView:
    return render_view(build_figure(look), style, Camera.orbit(yaw, 5.0))


def sample_of(
    image: UInt8[Tensor, "3 height width"],
    mask: UInt8[Tensor, "1 height width"],
    index: int = 0,
    yaw: float = 0.0,
    attempt: int = 0,
    look: Look = LOOK,
    style: str = "cartoon",
) -> Sample:
    """A sample that was asked to show `look` from `yaw`."""
    record = Record(
        index=index, attempt=attempt, seed=picture_seed(0, index, attempt),
        camera=Camera.orbit(yaw, 5.0).label().tolist(), yaw=yaw, pitch=5.0,
        prompt=compose(look, style, yaw, 5.0).text, negative="", kind=look.kind, style=style,
        view="front", attributes=visible_attributes(look, style, yaw), guidance=[], models=[],
        figure=Figure(id="0", source="heads", licence="CC0-1.0"), gates={}, verdict="accepted", config_hash="0" * 12,
    )  # fmt: skip
    return Sample(record, image, mask, {})


def rendered_sample(yaw: float, asked: float | None = None, index: int = 0, look: Look = LOOK) -> Sample:
    """A render from `yaw` that was asked to be seen from `asked`."""
    view = render(yaw, look)
    return sample_of(view.image.permute(2, 0, 1), view.mask[None], index, yaw if asked is None else asked, look=look)


def scene(index: int, text: str = "cartoon style avatar of a woman") -> Any:
    """All that gates know of a scene."""
    return SimpleNamespace(index=index, prompt=SimpleNamespace(text=text))


def noise(seed: int, size: int = 32) -> UInt8[Tensor, "3 size size"]:
    """As sharp and as new as a picture can be."""
    return torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def at_most(most: int):
    """Batches of up to `most` scenes, for `draw_until_passed`."""
    return lambda scenes: grouped(scenes, lambda one: None, most)
