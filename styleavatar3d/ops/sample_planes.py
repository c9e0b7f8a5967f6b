"""Features of points, read from three axis-aligned planes (EG3D, section 4.1) or grids (PanoHead's tri-grid).

The three planes lie side by side along the `slices` axis of one tensor `[batch, height, width, slices, channels]`;
`depths` says how many slices each has. One slice is a true plane, sampled in two dimensions. More slices are a
grid, sampled in three. (A grid of one slice would not be a plane: zeros beyond it scale the result by 1 - |w| / 2.)

A pyramid has several such tensors, its levels, of any heights and widths (Portrait3D's pyramid tri-grid). Their
features are added. A sum, unlike a mean, lets a level come or go without changing what the others say; networks trained
with the mean have its factor multiplied into the decoder's first weights.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Axes = Literal["distinct", "eg3d"]
Levels = Float[Tensor, "images height width slices channels"] | Sequence[Float[Tensor, "_ _ _ _ _"]]
"""planes of one level or of several; those of batch 1 serve all images"""

PLANE_AXES: dict[Axes, tuple[tuple[int, int, int], ...]] = {
    "distinct": ((0, 1, 2), (0, 2, 1), (1, 2, 0)),
    "eg3d": ((0, 1, 2), (0, 2, 1), (2, 0, 1)),
}
"""World axes along (width, height, slices) of each plane. "distinct": every pair of axes has exactly one plane. "eg3d":
the third plane sees what the second sees and no plane sees (y, z), as in the published weights; for those alone."""


def sample_each_plane(
    planes: Float[Tensor, "batch height width slices channels"],
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depths: tuple[int, int, int],
    axes: Axes = "distinct",
) -> Float[Tensor, "batch 3 points channels"]:
    """Bilinear (trilinear in grids) features of world points, one row per plane.

    The cube of side `box` (world units) around the origin spans the planes, edges of pixels (not centres) at its
    faces; zeros outside.
    """
    unit_points = points * (2 / box)
    return torch.stack(
        [
            _sample_grid(grid, unit_points[..., list(along[: 2 if depth == 1 else 3])])
            for grid, along, depth in zip(planes.split(list(depths), dim=3), PLANE_AXES[axes], depths, strict=True)
        ],
        dim=1,
    )


def sample_planes(
    planes: Levels, points: Float[Tensor, "batch points 3"], *, box: float, depths: tuple[int, int, int],
    axes: Axes = "distinct",
) -> Float[Tensor, "batch points channels"]:  # fmt: skip
    """Mean of `sample_each_plane` over the three planes, summed over levels, in the precision of `points`."""

    def look(level: Tensor) -> Tensor:
        level = level.to(points.dtype).expand(len(points), *level.shape[1:])
        return sample_each_plane(level, points, box=box, depths=depths, axes=axes).mean(1)

    return functools.reduce(torch.add, map(look, as_levels(planes)))


def as_levels(planes: Levels) -> list[Tensor]:
    """The levels of a pyramid; a single tensor is one level."""
    return [planes] if isinstance(planes, Tensor) else list(planes)


def _sample_grid(grid: Tensor, places: Tensor) -> Tensor:
    """`grid` [N, H, W, D, C] at `places` [N, P, 2 or 3] in [-1, 1], ordered (width, height, depth) -> [N, P, C]."""
    batch, count, dimensions = places.shape
    channels_first = grid.permute(0, 4, 3, 1, 2)
    if dimensions == 2:
        channels_first = channels_first[:, :, 0]
    places = places.reshape(batch, *[1] * (dimensions - 1), count, dimensions)
    sampled = _interpolate(channels_first, places) if places.requires_grad else _Sample.apply(channels_first, places)
    return sampled.flatten(2).transpose(1, 2)


def _interpolate(grid: Tensor, places: Tensor) -> Tensor:
    return F.grid_sample(grid, places, mode="bilinear", padding_mode="zeros", align_corners=False)


class _Sample(torch.autograd.Function):
    """Interpolation at fixed places: linear in the grid, so it can be differentiated any number of times.

    (PyTorch's own gradient of grid_sample has no gradient.)
    """

    @staticmethod
    def forward(ctx, grid: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = grid.shape
        return _interpolate(grid, places)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        return _Spread.apply(gradient, *ctx.saved_tensors, ctx.shape), None


class _Spread(torch.autograd.Function):
    """The transpose of `_Sample`."""

    @staticmethod
    def forward(ctx, features: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(places)
        spread = torch.ops.aten.grid_sampler_2d_backward if len(shape) == 4 else torch.ops.aten.grid_sampler_3d_backward
        return spread(features, features.new_zeros(shape), places, 0, 0, False, [True, False])[0]

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        return _Sample.apply(gradient, *ctx.saved_tensors), None, None
