"""Cameras as the ancestors draw them, for imported networks and comparisons; `cameras.py` has honest angles.

Their "horizontal" is pi / 2 + yaw. Their "vertical" is not the polar angle but makes a uniform draw uniform on the
sphere: polar = arccos(1 - 2 vertical / pi), so that asking for 60 degrees of it gives 70.5.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_POLE = 1e-5


def sampler_positions(
    horizontal: Float[Tensor, "batch"], vertical: Float[Tensor, "batch"], radius: float | Float[Tensor, "batch"]
) -> Float[Tensor, "batch 3"]:
    """Where the samplers put a camera around the origin; angles in radians, pi / 2 is the front and level."""
    polar = torch.arccos(1 - 2 * vertical.double().clamp(_POLE, math.pi - _POLE) / math.pi)
    turn = horizontal.double()
    outward = torch.stack([-polar.sin() * turn.cos(), polar.cos(), polar.sin() * turn.sin()], 1)
    return (outward * torch.as_tensor(radius, dtype=torch.double).reshape(-1, 1)).float()


def look_at(positions: Float[Tensor, "batch 3"], targets: Float[Tensor, "#batch 3"]) -> Float[Tensor, "batch 4 4"]:
    """world_from_camera of cameras without roll that look from `positions` at `targets` (OpenCV axes)."""
    forward = normalize(targets.double() - positions.double(), dim=-1)
    up = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.double, device=positions.device).expand_as(forward)
    right = normalize(torch.linalg.cross(forward, up), dim=-1)
    matrices = torch.eye(4, dtype=torch.double, device=positions.device).repeat(len(positions), 1, 1)
    matrices[:, :3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], 2)
    matrices[:, :3, 3] = positions
    return matrices.float()


def camera_labels(
    world_from_camera: Float[Tensor, "batch 4 4"], intrinsics: Float[Tensor, "#batch 3 3"]
) -> Float[Tensor, "batch 25"]:
    """Labels from their parts."""
    batch = len(world_from_camera)
    return torch.cat([world_from_camera.flatten(1), intrinsics.expand(batch, -1, -1).flatten(1)], 1)


def focal_intrinsics(focal: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3 3"]:
    """Intrinsics of square, centred pictures from focal length over image size."""
    matrices = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 1]], dtype=focal.dtype).repeat(len(focal), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = focal
    return matrices


def helper_focal(degrees: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Focal length that the ancestors' helper makes of an angle: with rounded constants and a factor 1 / 1.414.

    A true one would be 0.5 / tan(angle / 2).
    """
    return (1 / (1.414 * torch.tan(degrees.double() * 3.14159 / 360))).float()
