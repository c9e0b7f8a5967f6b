"""Up-sample, filter and down-sample pictures: the resampling of the StyleGAN2 family.

    insert up - 1 zeros after every sample | pad or crop | filter | keep every down-th sample

The map is linear and its transpose is of the same kind, so the operator is its own derivative, to any order.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SEPARABLE_TAPS = 8
Pair = int | Sequence[int]


def make_filter(
    taps: Sequence[float] | Sequence[Sequence[float]] | Float[Tensor, "..."],
    *,
    normalize: bool = True,
    flip: bool = False,
    gain: float = 1.0,
    separable: bool | None = None,
) -> Float[Tensor, "..."]:
    """A kernel from its taps, of sum `gain` if normalised.

    One row of taps becomes its outer product with itself, unless it is `separable` (by default from 8 taps up): then
    it stays one row, is used along both axes, and each takes the square root of the gain.
    """
    kernel = torch.as_tensor(taps, dtype=torch.float32)
    separable = (kernel.ndim == 1 and kernel.numel() >= SEPARABLE_TAPS) if separable is None else separable
    if kernel.ndim == 1 and not separable:
        kernel = torch.outer(kernel, kernel)
    if normalize:
        kernel = kernel / kernel.sum()
    if flip:
        kernel = kernel.flip(list(range(kernel.ndim)))
    return kernel * gain ** (kernel.ndim / 2)


def upfirdn2d(
    x: Float[Tensor, "batch channel height width"],
    kernel: Float[Tensor, "..."] | None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Float[Tensor, "batch channel rows columns"]:
    """Resample with `kernel` [height, width], or one row for both axes, or None for a single tap of 1.

    Pairs are (horizontal, vertical); padding is one number, a pair or (left, right, top, bottom), negative to crop.
    Filtering is true convolution; `flip` makes it correlation. The kernel gets no gradient.
    """
    settings = _pair(up), _pair(down), sides(padding), flip, float(gain)
    return (torch.ops.styleavatar3d.upfirdn2d if torch.is_grad_enabled() else _resampled)(x, kernel, *settings)


def upfirdn2d_reference(
    x: Float[Tensor, "batch channel height width"],
    kernel: Float[Tensor, "..."] | None,
    *,
    up: Pair = 1,
    down: Pair = 1,
    padding: Pair = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Float[Tensor, "batch channel rows columns"]:
    """What `upfirdn2d` means, in plain PyTorch."""
    batch, channels, height, width = x.shape
    (up_x, up_y), (down_x, down_y) = _pair(up), _pair(down)
    x = F.pad(x[:, :, :, None, :, None], [0, up_x - 1, 0, 0, 0, up_y - 1])
    x = F.pad(x.reshape(batch, channels, height * up_y, width * up_x), sides(padding))
    for part in _passes(kernel, flip, gain, x):
        x = F.conv2d(x, part.expand(channels, 1, -1, -1), groups=channels)
    return x[:, :, ::down_y, ::down_x]


# --- sizes kept, multiplied, divided ---


def filter2d(x: Tensor, kernel: Tensor | None, *, padding: Pair = 0, flip: bool = False, gain: float = 1.0) -> Tensor:
    """Filter at the same size; `padding` comes on top."""
    width, height = _size(kernel)
    own = [width // 2, (width - 1) // 2, height // 2, (height - 1) // 2]
    return upfirdn2d(x, kernel, padding=_sum(own, padding), flip=flip, gain=gain)


def upsample2d(
    x: Tensor, kernel: Tensor | None, *, up: int = 2, padding: Pair = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    """Multiply the size by `up`, keeping the mean brightness; `padding` comes on top."""
    own = upsampling_padding(kernel, up)
    return upfirdn2d(x, kernel, up=up, padding=_sum(own, padding), flip=flip, gain=gain * up**2)


def downsample2d(
    x: Tensor, kernel: Tensor | None, *, down: int = 2, padding: Pair = 0, flip: bool = False, gain: float = 1.0
) -> Tensor:
    """Divide the size by `down`; `padding` comes on top."""
    own = downsampling_padding(kernel, down)
    return upfirdn2d(x, kernel, down=down, padding=_sum(own, padding), flip=flip, gain=gain)


def upsampling_padding(kernel: Tensor | None, up: int) -> list[int]:
    """(left, right, top, bottom) that make the result `up` times as large."""
    return [side for size in _size(kernel) for side in ((size + up - 1) // 2, (size - up) // 2)]


def downsampling_padding(kernel: Tensor | None, down: int) -> list[int]:
    """(left, right, top, bottom) that make the result 1 / `down` as large."""
    return [side for size in _size(kernel) for side in ((size - down + 1) // 2, (size - down) // 2)]


def sides(padding: Pair) -> list[int]:
    """Padding as (left, right, top, bottom)."""
    four = [padding] * 4 if isinstance(padding, int) else list(padding)
    return [four[0], four[0], four[1], four[1]] if len(four) == 2 else four


def _sum(own: list[int], extra: Pair) -> list[int]:
    return [a + b for a, b in zip(own, sides(extra), strict=True)]


def _pair(value: Pair) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _size(kernel: Tensor | None) -> tuple:
    """Width and height; symbols while a graph is traced."""
    return (1, 1) if kernel is None else (kernel.shape[-1], kernel.shape[0])


def _passes(kernel: Tensor | None, flip: bool, gain: float, like: Tensor) -> list[Tensor]:
    """Kernels to correlate with, one after the other, each [height, width]."""
    if kernel is None:
        return [like.new_full((1, 1), gain)]
    taps = kernel.to(like) * gain ** (kernel.ndim / 2)
    taps = taps if flip else taps.flip(list(range(taps.ndim)))
    return [taps] if taps.ndim == 2 else [taps[None, :], taps[:, None]]


# --- the operator ---


def _resampled(
    x: Tensor, kernel: Tensor | None, up: list[int], down: list[int], padding: list[int], flip: bool, gain: float
) -> Tensor:
    if kernel is not None and kernel.ndim == 1:
        y = upfirdn2d_reference(x, kernel, up=up, down=down, padding=padding, flip=flip, gain=gain)
    elif up == [1, 1]:
        weight = _passes(kernel, flip, gain, x)[0].expand(x.shape[1], 1, -1, -1)
        around, x = _symmetric(x, padding)
        y = F.conv2d(x, weight, stride=down[::-1], padding=around, groups=x.shape[1])
    else:
        y = _spread(x, _passes(kernel, not flip, gain, x)[0], up, padding)[:, :, :: down[1], :: down[0]]
    return y.contiguous(memory_format=_layout(x))


_upfirdn2d = torch.library.custom_op("styleavatar3d::upfirdn2d", _resampled, mutates_args=())


def _symmetric(x: Tensor, padding: list[int]) -> tuple[list[int], Tensor]:
    """Rows and columns around that a convolution itself can add, and x with the padding that it cannot."""
    left, right, top, bottom = padding
    around = [top, left] if left == right >= 0 and top == bottom >= 0 else [0, 0]
    return around, x if any(around) or not any(padding) else F.pad(x, padding)


def _spread(x: Tensor, taps: Tensor, up: list[int], padding: list[int]) -> Tensor:
    """Zero insertion and true convolution at once: every sample spreads its taps over the result."""
    crop = []
    for axis in (0, 1):
        first, last = padding[2 * axis : 2 * axis + 2]
        size = taps.shape[1 - axis]
        crop += [first - (size - 1), last - (size - up[axis])]
    inner = [max(0, min(-crop[2], -crop[3])), max(0, min(-crop[0], -crop[1]))]
    weight = taps.expand(x.shape[1], 1, -1, -1)
    y = F.conv_transpose2d(x, weight, stride=up[::-1], padding=inner, groups=x.shape[1])
    left = [crop[0] + inner[1], crop[1] + inner[1], crop[2] + inner[0], crop[3] + inner[0]]
    return F.pad(y, left) if any(left) else y


@_upfirdn2d.register_fake
def _(x, kernel, up, down, padding, flip, gain):
    size = _result_size(x.shape, kernel, up, down, padding)
    return x.new_empty(*x.shape[:2], *size).contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _result_size(shape, kernel: Tensor | None, up: list, down: list, padding: list) -> list:
    """Rows and columns; also symbols."""
    (width, height), (left, right, top, bottom) = _size(kernel), padding
    tall = shape[2] * up[1] + top + bottom - height
    wide = shape[3] * up[0] + left + right - width
    return [tall // down[1] + 1, wide // down[0] + 1]


def _save(ctx, inputs, output) -> None:
    x, kernel, ctx.up, ctx.down, ctx.padding, ctx.flip, ctx.gain = inputs
    ctx.shape, ctx.result = x.shape, output.shape
    ctx.save_for_backward(kernel)


def _backward(ctx, gradient: Tensor):
    (kernel,) = ctx.saved_tensors
    size = _size(kernel)
    padding = []
    for axis, (extent, result) in enumerate(zip(ctx.shape[:1:-1], ctx.result[:1:-1], strict=True)):
        first = size[axis] - 1 - ctx.padding[2 * axis]
        last = extent * ctx.up[axis] - result * ctx.down[axis] + ctx.padding[2 * axis] - ctx.up[axis] + 1
        padding += [first, last]
    to_x = torch.ops.styleavatar3d.upfirdn2d(gradient, kernel, ctx.down, ctx.up, padding, not ctx.flip, ctx.gain)
    return to_x, None, None, None, None, None, None


_upfirdn2d.register_autograd(_backward, setup_context=_save)
