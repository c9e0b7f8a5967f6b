"""Rotations given as axis times angle (radians), smooth at no rotation: gradients are right there too."""

import torch
from jaxtyping import Float
from torch import Tensor

_SMALL = 1e-4
"""Squared angle below which series are exact to double precision."""


def rotate(points: Float[Tensor, "*points 3"], by: Float[Tensor, "*#points 3"]) -> Float[Tensor, "*points 3"]:
    """Points turned about the origin (Rodrigues' formula)."""
    square = by.square().sum(-1, keepdim=True)
    small = square < _SMALL
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    first = torch.where(small, 1 - square / 6 * (1 - square / 20), angle.sin() / angle)
    second = torch.where(small, 0.5 - square / 24 * (1 - square / 30), (1 - angle.cos()) / angle.square())
    once = torch.linalg.cross(by.expand_as(points), points, dim=-1)
    return points + first * once + second * torch.linalg.cross(by.expand_as(points), once, dim=-1)


def rotations(by: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The same as matrices."""
    columns = torch.eye(3, device=by.device, dtype=by.dtype).expand(*by.shape[:-1], 3, 3)
    return rotate(columns, by[..., None, :]).mT
