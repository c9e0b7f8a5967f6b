"""Rays through pixel centres, and where they cross the volume."""

import torch
from jaxtyping import Float
from torch import Tensor


def rays(
    labels: Float[Tensor, "batch 25"], resolution: int
) -> tuple[Float[Tensor, "batch rays 3"], Float[Tensor, "batch rays 3"]]:
    """Origins and unit directions, in the world, of the rays through pixel centres (i + 0.5) / resolution.

    Pixels are row-major: ray `row * resolution + column`.
    """
    world_from_camera, intrinsics = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    centre = (torch.arange(resolution, device=labels.device, dtype=labels.dtype) + 0.5) / resolution
    row, column = torch.meshgrid(centre, centre, indexing="ij")
    pixels = torch.stack([column, row, torch.ones_like(row)], -1).reshape(-1, 3)
    in_camera = pixels @ torch.linalg.inv(intrinsics).mT
    directions = torch.nn.functional.normalize(in_camera @ world_from_camera[:, :3, :3].mT, dim=-1)
    return world_from_camera[:, None, :3, 3].expand_as(directions).contiguous(), directions


def box_intersection(
    origins: Float[Tensor, "batch rays 3"], directions: Float[Tensor, "batch rays 3"], box: float
) -> tuple[Float[Tensor, "batch rays"], Float[Tensor, "batch rays"]]:
    """Distances at which rays enter and leave the cube of side `box` around the origin.

    A ray that misses gets near == far: an interval of no length, so it stays empty.
    """
    tiny = torch.finfo(directions.dtype).tiny ** 0.5
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    first, second = (-box / 2 - origins) / safe, (box / 2 - origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    return near, torch.maximum(far, near)
