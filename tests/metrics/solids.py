"""Solids whose depth is known in closed form, and heads painted on spheres: one with a face, one with two."""

import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.camera.rays import rays
from styleavatar3d.metrics.consistency import DepthView

RADIUS = 0.15
HAIR, SKIN = torch.tensor([-0.5, -0.7, -0.9]), torch.tensor([0.7, 0.3, 0.1])
DARK, RED = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([0.6, -0.6, -0.6])


def cameras(*yaws: float, pitch: float = 0.0) -> torch.Tensor:
    return orbit_labels(torch.tensor([float(yaw) for yaw in yaws]), torch.full((len(yaws),), float(pitch)))


def sphere(labels: torch.Tensor, size: int, radius: float = RADIUS, centre=(0.0, 0.0, 0.0)) -> DepthView:
    """Depth along unit rays of a sphere; inf outside."""
    origins, directions = rays(labels, size)
    away = origins - torch.tensor(centre)
    along = -(away * directions).sum(-1)
    left = radius**2 - (away.square().sum(-1) - along**2)
    mask = left > 0
    depth = torch.where(mask, along - left.clamp(min=0).sqrt(), torch.inf)
    return DepthView(depth.view(-1, size, size), mask.view(-1, size, size), labels)


def wall(labels: torch.Tensor, size: int, height: float = 0.0) -> DepthView:
    """Depth along unit rays of the plane z = `height`."""
    origins, directions = rays(labels, size)
    depth = (height - origins[..., 2]) / directions[..., 2]
    depth = depth.view(-1, size, size)
    return DepthView(depth, torch.ones_like(depth, dtype=torch.bool), labels)


def head(labels: torch.Tensor, size: int, janus: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and masks of a sphere with hair all around and a face in front; of a `janus`, on both sides."""
    seen = sphere(labels, size)
    origins, directions = rays(labels, size)
    points = origins + seen.depth.view(len(labels), -1, 1).nan_to_num(posinf=0) * directions
    x, y, z = (points / RADIUS).unbind(-1)
    z = z.abs() if janus else z

    def near(across: float, up: float, reach: float) -> torch.Tensor:
        return (z > 0) & ((x - across) ** 2 + (y - up) ** 2 < reach**2)

    color = HAIR.expand(*x.shape, 3)
    for where, paint in (
        (near(0, -0.1, 0.7), SKIN), (near(0.3, 0.1, 0.14), DARK), (near(-0.25, 0.1, 0.14), DARK),
        (near(0.05, -0.4, 0.16), RED),
    ):  # fmt: skip
        color = torch.where(where[..., None], paint, color)
    light = 0.75 + 0.25 * y.clamp(-1, 1)
    pictures = torch.where(seen.mask.view(len(labels), -1, 1), color * light[..., None], 0.0)
    return pictures.mT.unflatten(2, (size, size)), seen.mask
