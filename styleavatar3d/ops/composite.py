"""Volume rendering along rays: where to look, and how to add up what is seen (EG3D's marcher; NeRF, section 4).

Samples are joined by intervals: density and colour of an interval are the mean of its two ends, so S samples
have S - 1 weights. Depths are distances along unit rays in world units.

`sampling` says where on a ray to look. "strata": one sample in each of S equal parts of [near, far], then one in each
of as many parts of equal probability. "eg3d", for networks trained that way: S - 1 equal steps from near, so that the
last sample lies up to a step beyond far; then at given quantiles of the weights moved half an interval to the camera.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Sampling = Literal["strata", "eg3d"]
Spacing = Literal["depth", "disparity"]

WEIGHT_FLOOR = 0.01
PDF_FLOOR = 1e-5


class Rendering(NamedTuple):
    """What rays see. An empty ray has features 0, mask 0 and the depth of the backdrop."""

    features: Float[Tensor, "batch rays features"]
    mask: Float[Tensor, "batch rays"]
    depth: Float[Tensor, "batch rays"]

    def over(self, background: Float[Tensor, "#batch #rays #features"] | float) -> Float[Tensor, "batch rays features"]:
        """Features composited over a background: 1 for white, or features of one (PanoHead, section 3.3)."""
        return self.features + (1 - self.mask)[..., None] * background


def stratified_depths(
    near: Float[Tensor, "*rays"],
    far: Float[Tensor, "*rays"],
    jitter: Float[Tensor, "*#rays samples"],
    sampling: Sampling = "strata",
    spacing: Spacing = "depth",
) -> Float[Tensor, "*rays samples"]:
    """One depth in each equal part of [near, far]; `jitter` in [0, 1) is the place inside its part.

    With disparity spacing it is 1 / depth whose parts are equal, which needs near > 0.
    """
    part = torch.arange(jitter.shape[-1], dtype=jitter.dtype, device=jitter.device)
    share = (part + jitter) / (jitter.shape[-1] - (sampling == "eg3d"))
    if spacing == "disparity":
        nearest, farthest = 1 / near, 1 / torch.maximum(far, near)
        return 1 / (nearest[..., None] + (farthest - nearest)[..., None] * share)
    length = (far - near).clamp(min=0)
    return near[..., None] + length[..., None] * share


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
    backdrop: Float[Tensor, "*rays"],
    density_gain: float = 1.0,
) -> Rendering:
    """Features, mask and depth of rays with samples sorted by depth; `backdrop` is the depth of what is not hit."""
    weights = interval_weights(depths, raw_density, density_gain)
    mask = weights.sum(-1)
    interval_features = (features[..., 1:, :] + features[..., :-1, :]) / 2
    return Rendering(
        features=(weights[..., None] * interval_features).sum(-2),
        mask=mask,
        depth=(weights * middles(depths)).sum(-1) + (1 - mask) * backdrop,
    )


def mean_depth(seen: Rendering, nearest: Float[Tensor, ""], farthest: Float[Tensor, ""]) -> Float[Tensor, "batch rays"]:
    """EG3D's depth picture, from a rendering whose backdrop is 0: the mean over what is hit alone.

    It is clamped to the first and last sample of the whole batch, which are also what an empty ray has.
    """
    return (seen.depth / seen.mask).nan_to_num(torch.inf).clamp(nearest, farthest)


def importance_depths(
    depths: Float[Tensor, "*rays samples"],
    weights: Float[Tensor, "*rays intervals"],
    fine: Float[Tensor, "*#rays fine"],
    sampling: Sampling = "strata",
) -> Float[Tensor, "*rays fine"]:
    """Depths drawn where the weights are.

    By strata, `fine` is the place in [0, 1) inside each part of equal probability, and the result is sorted. Weights
    are smoothed as in EG3D, but stay on the intervals that they were measured on. In EG3D's way `fine` holds quantiles
    in [0, 1], and weight i + 1 counts for the interval between the middles of intervals i and i + 1.
    """
    smooth, count = smooth_weights(weights), fine.shape[-1]
    if sampling == "eg3d":
        return inverse_cdf(middles(depths), smooth[..., 1:-1], fine.expand(*depths.shape[:-1], count))
    part = torch.arange(count, dtype=fine.dtype, device=fine.device)
    quantiles = ((part + fine) / count).expand(*depths.shape[:-1], count)
    return inverse_cdf(depths, smooth, quantiles)


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
