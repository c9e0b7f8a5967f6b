"""What can be measured in a picture without a network: whether it fills its silhouette, is sharp, and is new."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.synthesis.masks import figure_masks

_LUMA = (0.299, 0.587, 0.114)
_THUMB = 16


def framing(
    images: UInt8[Tensor, "batch 3 height width"], silhouettes: UInt8[Tensor, "batch 1 height width"]
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Share of the silhouette that the painted figure covers, and intersection over union of the two."""
    painted, asked = figure_masks(images, silhouettes)
    both, either = (painted & asked).sum((1, 2)), (painted | asked).sum((1, 2))
    return both / asked.sum((1, 2)).clamp(min=1), both / either.clamp(min=1)


def sharpness(
    images: UInt8[Tensor, "batch 3 height width"], silhouettes: UInt8[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch"]:
    """Variance of the Laplacian over that of the greys themselves, within the silhouette, at the size of the guidance.

    The ratio knows neither contrast nor brightness. A picture of noise has about 20; blurring lowers it by the fourth
    power of the blur's width.
    """
    grey = (images.float() * images.new_tensor(_LUMA, dtype=torch.float32).view(3, 1, 1)).sum(1, keepdim=True) / 255
    kernel = grey.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    bent = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel)
    weight = (silhouettes > 127).float()
    weight = weight / weight.sum((2, 3), keepdim=True).clamp(min=1)
    return _variance(bent, weight) / _variance(grey, weight).clamp(min=1e-4)


def _variance(values: Tensor, weight: Tensor) -> Float[Tensor, "batch"]:
    mean = (weight * values).sum((2, 3), keepdim=True)
    return (weight * (values - mean).square()).sum((1, 2, 3))


def thumbnails(images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch numbers"]:
    """16 x 16 colours as unit vectors without their mean: as they are whatever the size, brightness and contrast."""
    small = F.interpolate(images.float(), (_THUMB, _THUMB), mode="bilinear", antialias=True).flatten(1)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)


def novelty(thumbnail: Float[Tensor, "numbers"], others: Float[Tensor, "count numbers"]) -> float:
    """1 minus the highest correlation with any of `others`: 0 for a picture that is there already; at most 2."""
    return 1 - (others @ thumbnail).max().clamp(max=1).item() if len(others) else 1.0
