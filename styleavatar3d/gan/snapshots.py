"""What a generator makes at a moment of its training, as a picture and a film."""

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.schedule import Phase
from styleavatar3d.runtime.media import grid, mp4, png, to_uint8
from styleavatar3d.runtime.random import normal

SHEET_YAWS = tuple(range(-180, 180, 45))


def snapshot_views(
    generator: Generator, phase: Phase, count: int, yaws: Float[Tensor, "view"], truncation: float
) -> Float[Tensor, "view count 3 height width"]:
    """`count` fixed samples seen from each yaw, slightly from above."""
    config = generator.config
    codes = generator.mapping(normal(0, "snapshot", 0, (count, config.z_dim)).to(generator.w_mean), truncation)
    scale = config.image_resolution // phase.resolution
    planes = generator.planes(codes, resolution=config.plane_resolution // scale, fade=phase.fade)
    pictures = []
    for label in orbit_labels(yaws, torch.full_like(yaws, 5.0)).to(generator.w_mean):
        labels = label.expand(count, -1)
        pictures.append(generator.render(planes, labels, config.resolution // scale, codes=codes).image)
    return torch.stack(pictures)


def sample_sheet(generator: Generator, phase: Phase, count: int = 8, truncation: float = 0.7) -> bytes:
    """PNG: a row for each sample, a column for each of eight yaws."""
    views = snapshot_views(generator, phase, count, torch.tensor(SHEET_YAWS, dtype=torch.float32), truncation)
    return png(grid(to_uint8(views.transpose(0, 1).flatten(0, 1)), len(SHEET_YAWS), scale=2))


def turntable(generator: Generator, phase: Phase, count: int = 4, frames: int = 36, truncation: float = 0.7) -> bytes:
    """MP4: samples side by side through one full turn."""
    yaws = torch.arange(frames) * (360 / frames) - 180
    views = snapshot_views(generator, phase, count, yaws, truncation)
    return mp4((grid(to_uint8(view), count, scale=2) for view in views), fps=18)
