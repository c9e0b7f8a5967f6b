"""Volume rendering along rays: where to look, and how to add up what is seen (EG3D's marcher; NeRF, section 4).

Samples are joined by intervals: density and colour of an interval are the mean of its two ends, so S samples
have S - 1 weights. Depths are distances along unit rays in world units.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

WEIGHT_FLOOR = 0.01
PDF_FLOOR = 1e-5


class Rendering(NamedTuple):
    """What rays see. An empty ray has features 0, mask 0 and depth `far`."""

    features: Float[Tensor, "batch rays features"]
    mask: Float[Tensor, "batch rays"]
    depth: Float[Tensor, "batch rays"]


def stratified_depths(
    near: Float[Tensor, "*rays"], far: Float[Tensor, "*rays"], jitter: Float[Tensor, "*#rays samples"]
) -> Float[Tensor, "*rays samples"]:
    """One depth in each of `samples` equal parts of [near, far]; `jitter` in [0, 1) is the place inside its part."""
    samples = jitter.shape[-1]
    part = torch.arange(samples, dtype=jitter.dtype, device=jitter.device)
    length = (far - near).clamp(min=0)
    return near[..., None] + length[..., None] * ((part + jitter) / samples)


def interval_weights(
    depths: Float[Tensor, "*rays samples"], raw_density: Float[Tensor, "*rays samples"], density_gain: float = 1.0
) -> Float[Tensor, "*rays intervals"]:
    """Share of the light that each interval between neighbouring samples sends back to the camera."""
    density = density_gain * F.softplus(middles(raw_density) - 1)
    optical_depth = density * depths.diff(dim=-1)
    before = F.pad(optical_depth.cumsum(-1)[..., :-1], (1, 0))
    return torch.exp(-before) * -torch.expm1(-optical_depth)


def composite(
    depths: Float[Tensor, "*rays samples"],
    raw_density: Float[Tensor, "*rays samples"],
    features: Float[Tensor, "*rays samples features"],
    far: Float[Tensor, "*rays"],
    density_gain: float = 1.0,
) -> Rendering:
    """Features, mask and depth of rays whose samples are sorted by depth. What is not hit counts as lying at `far`."""
    weights = interval_weights(depths, raw_density, density_gain)
    mask = weights.sum(-1)
    interval_features = (features[..., 1:, :] + features[..., :-1, :]) / 2
    return Rendering(
        features=(weights[..., None] * interval_features).sum(-2),
        mask=mask,
        depth=(weights * middles(depths)).sum(-1) + (1 - mask) * far,
    )


def importance_depths(
    depths: Float[Tensor, "*rays samples"],
    weights: Float[Tensor, "*rays intervals"],
    jitter: Float[Tensor, "*#rays fine"],
) -> Float[Tensor, "*rays fine"]:
    """Depths drawn where the weights are, sorted: one in each of `fine` parts of equal probability.

    Weights are smoothed as in EG3D, but stay on the intervals that they were measured on (EG3D shifts them half an
    interval towards the camera and drops the first and last).
    """
    fine = jitter.shape[-1]
    part = torch.arange(fine, dtype=jitter.dtype, device=jitter.device)
    quantiles = ((part + jitter) / fine).expand(*depths.shape[:-1], fine)
    return inverse_cdf(depths, smooth_weights(weights), quantiles)


def smooth_weights(weights: Float[Tensor, "*rays intervals"]) -> Float[Tensor, "*rays intervals"]:
    """Blurred maximum of neighbours, plus a floor so that no interval is blind (mip-NeRF, section 3.1)."""
    padded = F.pad(weights, (1, 1))
    return middles(torch.maximum(padded[..., 1:], padded[..., :-1])) + WEIGHT_FLOOR


def inverse_cdf(
    edges: Float[Tensor, "*rays edges"],
    weights: Float[Tensor, "*rays intervals"],
    quantiles: Float[Tensor, "*rays fine"],
) -> Float[Tensor, "*rays fine"]:
    """Places on the edges' axis below which lie the given shares (in [0, 1]) of a piecewise constant density."""
    weights = weights + PDF_FLOOR
    cdf = F.pad((weights / weights.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    upper = torch.searchsorted(cdf, quantiles.contiguous(), right=True).clamp(max=weights.shape[-1])
    lower = (upper - 1).clamp(min=0)
    width = cdf.gather(-1, upper) - cdf.gather(-1, lower)
    share = (quantiles - cdf.gather(-1, lower)) / torch.where(width < PDF_FLOOR, torch.ones_like(width), width)
    start, end = edges.gather(-1, lower), edges.gather(-1, upper)
    return start + share * (end - start)


def middles(values: Float[Tensor, "*rays samples"]) -> Float[Tensor, "*rays intervals"]:
    """Means of neighbours along the last axis."""
    return (values[..., 1:] + values[..., :-1]) / 2
