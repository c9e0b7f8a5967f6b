"""Features of points, read from three axis-aligned planes (EG3D, section 4.1) or grids (PanoHead's tri-grid).

The three planes lie side by side along the `slices` axis of one tensor `[batch, height, width, slices, channels]`;
`depths` says how many slices each has. One slice is a true plane, sampled in two dimensions. More slices are a
grid, sampled in three. (A grid of one slice would not be a plane: zeros beyond it scale the result by 1 - |w| / 2.)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PLANE_AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""World axes along (width, height, slices) of each plane: every pair of axes has exactly one plane."""


def sample_each_plane(
    planes: Float[Tensor, "batch height width slices channels"],
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depths: tuple[int, int, int],
) -> Float[Tensor, "batch 3 points channels"]:
    """Bilinear (trilinear in grids) features of world points, one row per plane.

    The cube of side `box` (world units) around the origin spans the planes, edges of pixels (not centres) at its
    faces; zeros outside.
    """
    unit_points = points * (2 / box)
    return torch.stack(
        [
            _sample_grid(grid, unit_points[..., list(axes[: 2 if depth == 1 else 3])])
            for grid, axes, depth in zip(planes.split(list(depths), dim=3), PLANE_AXES, depths, strict=True)
        ],
        dim=1,
    )


def sample_planes(
    planes: Float[Tensor, "batch height width slices channels"],
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depths: tuple[int, int, int],
) -> Float[Tensor, "batch points channels"]:
    """Mean of `sample_each_plane` over the three planes."""
    return sample_each_plane(planes, points, box=box, depths=depths).mean(1)


def _sample_grid(grid: Tensor, places: Tensor) -> Tensor:
    """`grid` [N, H, W, D, C] at `places` [N, P, 2 or 3] in [-1, 1], ordered (width, height, depth) -> [N, P, C]."""
    batch, count, dimensions = places.shape
    channels_first = grid.permute(0, 4, 3, 1, 2)
    if dimensions == 2:
        channels_first = channels_first[:, :, 0]
    places = places.reshape(batch, *[1] * (dimensions - 1), count, dimensions)
    sampled = F.grid_sample(channels_first, places, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.flatten(2).transpose(1, 2)
