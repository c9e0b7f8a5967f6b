"""Depth maps for a discriminator that sees shapes and not only colours.

Every synthesised picture was posed by a depth map, so the shape behind it is known. Without it a young generator carves
eyes and lips as ridges around the whole head, which from each single side look right.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.camera.rays import box_intersection, rays

SOLID = 0.5
"""A pixel belongs to the figure from this mask on."""
LEAST_RANGE = 0.02
"""Of inverse distances, per world unit: flatter pictures are not stretched further (a head's range is about 0.08)."""

Maps = Float[Tensor, "batch 1 height width"]


def stretch(inverse: Maps, mask: Maps) -> Maps:
    """Inverse distances, or any linear function of them, stretched over the figure: nearest 1, farthest and all else 0.

    The two ends count as constants, and what has been stretched stays as it is.
    """
    solid, values = mask > SOLID, inverse.detach()
    low = torch.where(solid, values, torch.inf).amin((2, 3), keepdim=True)
    high = torch.where(solid, values, -torch.inf).amax((2, 3), keepdim=True)
    return torch.where(solid, (inverse - low) / (high - low).clamp(min=LEAST_RANGE), 0.0)


def of_rendering(depth: Maps, mask: Maps, labels: Float[Tensor, "batch 25"], box: float) -> Maps:
    """Depth of `Generator.render` -> what depth guidance of the same shape shows: inverse distance along the camera's
    axis (`figures.guidance.depth_guidance`), stretched over the figure."""
    origins, directions = rays(labels.to(depth), depth.shape[-1])
    far = box_intersection(origins, directions, box)[1].view_as(depth)
    surface = far + (depth - far) / mask.clamp(min=SOLID)  # what a ray passes through counts as lying at `far`
    axis = labels[:, None, [2, 6, 10]].to(directions)
    along = (directions * axis).sum(-1).view_as(depth)
    return stretch(1 / (surface * along), mask)
