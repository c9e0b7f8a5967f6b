"""Convolution with built-in up- or down-sampling, as in StyleGAN2 (Karras et al. 2020, section 4 and appendix B)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops.upfirdn2d import (
    downsample2d,
    downsampling_padding,
    sides,
    upfirdn2d,
    upsample2d,
    upsampling_padding,
)


def resampled_convolution(
    x: Float[Tensor, "batch in height width"],
    weight: Float[Tensor, "out group_in rows columns"],
    kernel: Float[Tensor, "..."] | None = None,
    *,
    up: int = 1,
    down: int = 1,
    padding: int | list[int] = 0,
    groups: int = 1,
    correlate: bool = True,
    multiply: torch.dtype | None = None,
) -> Float[Tensor, "batch out tall wide"]:
    """Up-sample with the low-pass `kernel`, convolve with `weight`, down-sample with the low-pass `kernel`.

    `padding` counts in the up-sampled picture and comes on top of what the low-pass needs. `correlate` False reverses
    the weight (true convolution). `multiply` is the format of factors and result, if not that of x.
    """
    how = groups, correlate, multiply
    around = sides(padding)
    if up > 1:
        around = [a + b for a, b in zip(around, upsampling_padding(kernel, up), strict=True)]
    if down > 1:
        around = [a + b for a, b in zip(around, downsampling_padding(kernel, down), strict=True)]
    if up > 1:
        return _upsampled(x, weight, kernel, up, down, around, *how)
    if down > 1:
        if weight.shape[2:] == (1, 1):
            return _convolution(upfirdn2d(x, kernel, down=down, padding=around), weight, *how)
        return _convolution(upfirdn2d(x, kernel, padding=around), weight, *how, stride=down)
    if around[0] == around[1] and around[2] == around[3] and min(around) >= 0:
        return _convolution(x, weight, *how, padding=(around[2], around[0]))
    return _convolution(F.pad(x, around), weight, *how)


def _upsampled(
    x, weight, kernel, up: int, down: int, around: list[int], groups: int, correlate: bool, multiply
) -> Tensor:
    """Convolution, zero insertion and low-pass commute; the cheapest order convolves at the low resolution."""
    if weight.shape[2:] == (1, 1):
        y = upfirdn2d(_convolution(x, weight, groups, correlate, multiply), kernel, up=up, padding=around, gain=up**2)
    else:
        y = _transposed(x, weight, up, groups, correlate, multiply)
        rows, columns = weight.shape[2:]
        left, right, top, bottom = around
        inner = [left - (columns - 1), right - (columns - up), top - (rows - 1), bottom - (rows - up)]
        y = upfirdn2d(y, kernel, padding=inner, gain=up**2)
    return y if down == 1 else upfirdn2d(y, kernel, down=down)


def _transposed(
    x: Tensor, weight: Tensor, up: int, groups: int, correlate: bool, multiply: torch.dtype | None
) -> Tensor:
    """Zero insertion and full convolution: (size - 1) * up + kernel pixels a side."""
    weight = weight.flip([2, 3]) if correlate else weight
    out, group_in, rows, columns = weight.shape
    weight = weight.view(groups, out // groups, group_in, rows, columns).transpose(1, 2)
    weight = weight.reshape(-1, out // groups, rows, columns)
    return F.conv_transpose2d(*_factors(x, weight, multiply), stride=up, groups=groups).to(x.dtype)


def _convolution(
    x: Tensor, weight: Tensor, groups: int, correlate: bool, multiply: torch.dtype | None, *, stride: int = 1,
    padding: Sequence[int] = (0, 0),
) -> Tensor:  # fmt: skip
    weight = weight if correlate or weight.shape[2:] == (1, 1) else weight.flip([2, 3])
    factors = _factors(x, weight, multiply)
    return F.conv2d(*factors, stride=stride, padding=list(padding), groups=groups).to(x.dtype)


def _factors(x: Tensor, weight: Tensor, multiply: torch.dtype | None) -> tuple[Tensor, Tensor]:
    return (x, weight) if multiply is None else (x.to(multiply), weight.to(multiply))


def resize(
    x: Float[Tensor, "batch channel height width"],
    size: int,
    mode: str | float = "antialiased",
    kernel: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "batch channel size size"]:
    """Bilinear resize: "antialiased", "none" (plain), a share (that much antialiased, the rest plain), or "classic":
    plain at twice the size, between an up- and a down-sampling with the low-pass `kernel`.
    """
    if mode == "antialiased":
        return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    if mode == "none":
        return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    if mode == "classic":
        wide = resize(upsample2d(x, kernel), 2 * size + 2, "none")
        return downsample2d(wide, kernel, padding=-1, flip=True)
    if isinstance(mode, float):
        return resize(x, size, "none").lerp(resize(x, size), mode)
    raise StyleAvatarError("there is no such resize mode", got=mode, expected="antialiased, none, classic or a share")
