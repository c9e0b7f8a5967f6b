"""Volume rendering as the ancestors do it, number for number, in plain PyTorch (EG3D section 4.2, PanoHead 3.1).

A volume is one or more levels of three planes `[batch, 3, channel * depth, height, width]`, channel index
`channel * depth + slice`. All between rays and their maps is `render_rays`; a fused operator can stand in for it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic_config import ClassicRendering

Level = Float[Tensor, "_ 3 _ _ _"]
"""[batch or 1, 3, channel * depth, height, width]"""
Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""points -> (colour features, raw density)"""

PLANE_AXES = {"zx": ((0, 1), (0, 2), (2, 0)), "yz": ((0, 1), (0, 2), (1, 2))}
"""world axes along (width, height) of true planes; "zx" is EG3D's, whose third plane repeats the second"""
GRID_AXES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""world axes along (width, height, depth)"""
EMPTY = -1000.0
_WEIGHT_FLOOR, _PDF_FLOOR = 0.01, 1e-5


class RayMaps(NamedTuple):
    """What rays see. `weight` is the share of light that the volume takes; an empty ray is as deep as anything seen."""

    features: Float[Tensor, "batch rays feature"]
    weight: Float[Tensor, "batch rays"]
    depth: Float[Tensor, "batch rays"]


# --- the field ---


def plane_features(
    level: Level, points: Float[Tensor, "batch points 3"], *, box: float, depth: int | None, third_plane: str = "yz"
) -> Float[Tensor, "batch 3 points channel"]:
    """Bi- or trilinear features; the cube of side `box` spans the planes edge to edge, zeros outside."""
    batch, count, _ = points.shape
    axes = PLANE_AXES[third_plane] if depth is None else GRID_AXES
    places = (points * (2 / box))[..., torch.tensor(axes, device=points.device)].transpose(1, 2)
    level = level.expand(batch, -1, -1, -1, -1).flatten(0, 1)
    if depth is not None:
        level = level.unflatten(1, (-1, depth))
    places = places.reshape(batch * 3, *[1] * (level.ndim - 3), count, places.shape[-1])
    sampled = F.grid_sample(level, places, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.flatten(2).unflatten(0, (batch, 3)).transpose(2, 3)


def volume_features(
    levels: Sequence[Level],
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depth: int | None,
    third_plane: str = "yz",
) -> Float[Tensor, "batch 3 points channel"]:
    """Mean over levels of the features of each plane."""
    settings = {"box": box, "depth": depth, "third_plane": third_plane}
    total = plane_features(levels[0], points, **settings)
    for level in levels[1:]:
        total = total + plane_features(level, points, **settings)
    return total / len(levels) if len(levels) > 1 else total


def crop_mask(points: Float[Tensor, "batch points 3"], *, box: float, margin: float) -> Tensor:
    """True beyond box / 2 - margin in x or z; y is free."""
    return (points[..., 0::2].abs() > box / 2 - margin).any(-1, keepdim=True)


def cull_mask(raw_density: Float[Tensor, "batch points 1"], threshold: float) -> Tensor:
    """True where a unit of length takes less than `threshold` of the light."""
    return 1 - torch.exp(-F.softplus(raw_density - 1)) < threshold


# --- along rays ---


def stratified_depths(
    near: Float[Tensor, "*#rays"] | float,
    far: Float[Tensor, "*#rays"] | float,
    jitter: Float[Tensor, "*#rays samples"],
    *,
    disparity: bool = False,
) -> Float[Tensor, "..."]:
    """Depth i lies i + jitter steps behind `near`, of samples - 1 steps to `far`: the last may lie beyond `far`."""
    count = jitter.shape[-1]
    part = torch.linspace(0, 1, count, device=jitter.device, dtype=jitter.dtype) + jitter / (count - 1)
    near, far = (value[..., None] if isinstance(value, Tensor) else value for value in (near, far))
    if disparity:
        return 1 / (1 / near * (1 - part) + 1 / far * part)
    return near + (far - near) * part


def importance_depths(
    depths: Float[Tensor, "batch rays samples"],
    weights: Float[Tensor, "batch rays intervals"],
    quantiles: Float[Tensor, "#batch #rays fine"],
) -> Float[Tensor, "batch rays fine"]:
    """Depths where the weights are. The last bin is never reached: EG3D gives S - 1 bins to S - 3 weights."""
    with torch.no_grad():
        bins = (depths[..., 1:] + depths[..., :-1]) / 2
        return inverse_cdf(bins, smooth_weights(weights)[..., 1:-1], quantiles)


def smooth_weights(weights: Float[Tensor, "*rays intervals"]) -> Float[Tensor, "*rays intervals"]:
    """Running maximum of neighbours, running mean of those, and a floor."""
    padded = F.pad(weights, (1, 1), value=float("-inf"))
    peaks = torch.maximum(padded[..., 1:], padded[..., :-1])
    return (peaks[..., 1:] + peaks[..., :-1]) / 2 + _WEIGHT_FLOOR


def inverse_cdf(
    bins: Float[Tensor, "*rays edges"],
    weights: Float[Tensor, "*rays intervals"],
    quantiles: Float[Tensor, "*#rays fine"],
) -> Float[Tensor, "*rays fine"]:
    """Places at which the cumulated weights reach `quantiles`; weight i belongs to [bins i, bins i + 1]."""
    share = weights + _PDF_FLOOR
    share = share / share.sum(-1, keepdim=True)
    cumulated = F.pad(share.cumsum(-1), (1, 0))
    quantiles = quantiles.expand(*weights.shape[:-1], -1).contiguous()
    found = torch.searchsorted(cumulated, quantiles, right=True)
    below, above = (found - 1).clamp(min=0), found.clamp(max=weights.shape[-1])
    start, end = cumulated.gather(-1, below), cumulated.gather(-1, above)
    first, last = bins.gather(-1, below), bins.gather(-1, above)
    span = end - start
    span = torch.where(span < _PDF_FLOOR, torch.ones_like(span), span)
    return first + (quantiles - start) / span * (last - first)


def interval_weights(
    depths: Float[Tensor, "batch rays samples"], raw_density: Float[Tensor, "batch rays samples"]
) -> Float[Tensor, "batch rays intervals"]:
    """Share of light that each interval between neighbours takes; its density is that of the mean of its raw ends."""
    density = F.softplus((raw_density[..., 1:] + raw_density[..., :-1]) / 2 - 1)
    alpha = 1 - torch.exp(-density * depths.diff(dim=-1))
    passed = torch.cumprod(1 - alpha + 1e-10, -1)
    return alpha * F.pad(passed[..., :-1], (1, 0), value=1.0)


def march(
    depths: Float[Tensor, "batch rays samples"],
    colors: Float[Tensor, "batch rays samples feature"],
    raw_density: Float[Tensor, "batch rays samples"],
    *,
    white_background: bool = False,
    signed: bool = False,
    clamp_depth: bool = True,
) -> tuple[RayMaps, Float[Tensor, "batch rays intervals"]]:
    """Composite samples sorted by depth; also gives the weights. `signed` maps features from [0, 1] to [-1, 1].

    Depths are clamped to those of the whole batch, so results depend on batch mates where rays are empty.
    """
    weights = interval_weights(depths, raw_density)
    weight = weights.sum(-1)
    features = (weights[..., None] * ((colors[..., 1:, :] + colors[..., :-1, :]) / 2)).sum(-2)
    seen = weight > 0
    depth = (weights * ((depths[..., 1:] + depths[..., :-1]) / 2)).sum(-1) / torch.where(seen, weight, 1.0)
    depth = torch.where(seen, depth, float("inf"))
    if clamp_depth:
        depth = depth.clamp(depths.min(), depths.max())
    if white_background:
        features = features + 1 - weight[..., None]
    return RayMaps(features * 2 - 1 if signed else features, weight, depth), weights


def box_limits(
    origins: Float[Tensor, "batch rays 3"], directions: Float[Tensor, "batch rays 3"], box: float
) -> tuple[Float[Tensor, "batch rays"], Float[Tensor, "batch rays"]]:
    """Distances at which rays enter and leave the centred cube; -1 and -2 for those that miss it."""
    first, second = (-box / 2 - origins) / directions, (box / 2 - origins) / directions
    near, far = torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)
    missed = near > far
    return near.masked_fill(missed, -1.0), far.masked_fill(missed, -2.0)


def ray_limits(
    origins: Float[Tensor, "batch rays 3"], directions: Float[Tensor, "batch rays 3"], rendering: ClassicRendering
) -> tuple[Tensor | float, Tensor | float]:
    """Near and far. With "auto", rays that miss the box get the smallest NEAR and the largest NEAR of the others."""
    if rendering.near != "auto" and rendering.far != "auto":
        return rendering.near, rendering.far
    near, far = box_limits(origins, directions, rendering.box)
    hit = far > near
    if hit.any():
        smallest, largest = near[hit].min(), near[hit].max()
        near, far = torch.where(hit, near, smallest), torch.where(hit, far, largest)
    return near, far


def render_rays(
    field: Field,
    origins: Float[Tensor, "batch rays 3"],
    directions: Float[Tensor, "batch rays 3"],
    near: Tensor | float,
    far: Tensor | float,
    jitter: Float[Tensor, "#batch #rays coarse"],
    quantiles: Float[Tensor, "#batch #rays fine"],
    *,
    disparity: bool = False,
    white_background: bool = False,
    signed: bool = False,
) -> tuple[RayMaps, Tensor]:
    """Maps of rays, whose depth is not clamped yet, and the smallest and largest sampled depth."""

    def look(depths: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
        colors, raw = field(points.flatten(1, 2))
        return colors.unflatten(1, depths.shape[1:]), raw.view(depths.shape)

    depths = stratified_depths(near, far, jitter, disparity=disparity).expand(*origins.shape[:2], -1)
    colors, raw = look(depths)
    if quantiles.shape[-1]:
        fine = importance_depths(depths, interval_weights(depths, raw).detach(), quantiles)
        fine_colors, fine_raw = look(fine)
        depths, order = torch.cat([depths, fine], -1).sort(-1)
        raw = torch.cat([raw, fine_raw], -1).gather(-1, order)
        colors = torch.cat([colors, fine_colors], -2)
        colors = colors.gather(-2, order[..., None].expand(*order.shape, colors.shape[-1]))
    maps, _ = march(depths, colors, raw, white_background=white_background, signed=signed, clamp_depth=False)
    return maps, torch.stack(depths.detach().aminmax())


def render_in_chunks(render: Callable[[slice], tuple[RayMaps, Tensor]], rays: int, chunk: int | None) -> RayMaps:
    """`render` for slices of at most `chunk` rays, joined; depths are clamped to the samples of all of them."""
    size = chunk or rays
    if size < 1:
        raise StyleAvatarError("a chunk of rays is empty", got=chunk, expected="a positive number of rays")
    parts = [render(slice(first, first + size)) for first in range(0, rays, size)]
    limits = torch.stack([limits for _, limits in parts])
    features, weight, depth = (torch.cat(maps, 1) for maps in zip(*(maps for maps, _ in parts), strict=True))
    return RayMaps(features, weight, depth.clamp(limits[:, 0].min(), limits[:, 1].max()))
