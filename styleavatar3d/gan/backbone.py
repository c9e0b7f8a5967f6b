"""StyleGAN2-style mapping and synthesis (Karras et al. 2020, sections 2, 3) in the form that is fast on small machines.

Modulation scales the input, demodulation the output (equation 3 of the paper, unfused), so one weight serves the whole
batch; the sum over the kernel of squared weights is a small [out, in] table. Up-sampling layers convolve first, at the
low resolution, which halves their cost. There is no per-pixel noise: a volume would learn it as texture.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.precision import bounded, levelled
from styleavatar3d.gan.recomputation import Thrifty

LEAKY_SLOPE = 0.2
LEAKY_GAIN = math.sqrt(2)


class Linear(nn.Module):
    """Fully connected layer at an equalised learning rate: weights are drawn from N(0, 1) and scaled at run time."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.gain, self.rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        return F.linear(x, self.weight * self.gain, self.bias * self.rate)


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance of a standard normal input."""
    return F.leaky_relu(x, LEAKY_SLOPE) * LEAKY_GAIN


def pixel_norm(x: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch channel"]:
    """Divide each vector by its root mean square."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z -> w, with a learning rate of one hundredth as in StyleGAN; layers before the last have `width` numbers, or as
    many as w if that is 0."""

    def __init__(self, z_dim: int, w_dim: int, layers: int, width: int = 0):
        super().__init__()
        sizes, self.rate = [z_dim, *[width or w_dim] * (layers - 1), w_dim], 0.01
        self.layers = nn.ModuleList(Linear(i, o, rate=self.rate) for i, o in zip(sizes, sizes[1:], strict=False))

    def forward(self, z: Float[Tensor, "batch z"]) -> Float[Tensor, "batch w"]:
        x = pixel_norm(z)
        for layer in self.layers:
            x = leaky(layer(x))
        return x


def demodulation(
    weight: Float[Tensor, "out in height width"], styles: Float[Tensor, "batch in"]
) -> Float[Tensor, "batch out"]:
    """1 / norm of each output filter after it has been scaled by the styles (equation 3)."""
    return (styles.square() @ weight.square().sum((2, 3)).t() + 1e-8).rsqrt()


def modulated_convolution(
    x: Float[Tensor, "batch in height width"],
    weight: Float[Tensor, "out in kernel kernel"],
    styles: Float[Tensor, "batch in"],
    *,
    dtype: torch.dtype,
) -> Float[Tensor, "batch out height width"]:
    """Convolution of the styled input, without demodulation, in `dtype`; padding keeps the size."""
    scaled = x.to(dtype) * styles[:, :, None, None].to(dtype)
    return F.conv2d(scaled, weight.to(dtype), padding=weight.shape[-1] // 2)


class StyledConvolution(nn.Module):
    """3x3 modulated and demodulated convolution, bias, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, w_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = Linear(w_dim, inputs, bias=1.0)
        self.gain = 1 / math.sqrt(inputs * 9)

    def forward(self, x: Tensor, code: Float[Tensor, "batch w"], dtype: torch.dtype) -> Tensor:
        weight, styles = self.weight * self.gain, levelled(self.style(code), dtype)
        scale = demodulation(weight, styles) * LEAKY_GAIN
        y = modulated_convolution(x, weight, styles, dtype=dtype)
        bias = (self.bias * LEAKY_GAIN)[None, :, None, None]
        return bounded(F.leaky_relu(torch.addcmul(bias.to(dtype), y, scale[:, :, None, None].to(dtype)), LEAKY_SLOPE))


class ToImage(nn.Module):
    """1x1 modulated convolution without demodulation: what a block adds to the output, in the parameters' precision."""

    def __init__(self, inputs: int, outputs: int, w_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = Linear(w_dim, inputs, bias=1.0)
        self.gain = 1 / math.sqrt(inputs)

    def forward(
        self, x: Tensor, code: Float[Tensor, "batch w"], dtype: torch.dtype, outputs: int | None = None
    ) -> Tensor:
        """All channels, or the first `outputs`."""
        y = modulated_convolution(x, self.weight[:outputs] * self.gain, self.style(code), dtype=dtype)
        return bounded(y).to(self.bias.dtype) + self.bias[None, :outputs, None, None]


def upsample(x: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel height2 width2"]:
    """Twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class Block(nn.Module):
    """One resolution: convolve at the previous size and up-sample, convolve again, add to the output."""

    def __init__(self, inputs: int | None, outputs: int, image_channels: int, w_dim: int):
        super().__init__()
        self.grow = StyledConvolution(inputs, outputs, w_dim) if inputs else None
        self.refine = StyledConvolution(outputs, outputs, w_dim)
        self.to_image = ToImage(outputs, image_channels, w_dim)

    def forward(
        self, x: Tensor, codes: Float[Tensor, "batch slot w"], dtype: torch.dtype, outputs: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features, and what they add to the output. A slot for each convolution in order, the last for the output."""
        if self.grow is not None:
            x = upsample(self.grow(x, codes[:, 0], dtype))
        x = self.refine(x, codes[:, -2], dtype)
        return x, self.to_image(x, codes[:, -1], dtype, outputs)


class Synthesis(Thrifty):
    """Codes -> feature picture, by blocks of 4, 8, 16 ... pixels whose outputs are summed (skip architecture).

    Code slots follow StyleGAN2: one per convolution in order, and each block's output layer reads the slot after its
    last convolution; 2 * blocks slots in all.
    """

    def __init__(self, widths: tuple[int, ...], image_channels: int, w_dim: int, limit: tuple[int, int] | None = None):
        """`limit` (pixels, channels): blocks finer than so many pixels write only the first so many channels."""
        super().__init__()
        coarsest, few = limit or (4 * 2 ** len(widths), 0)
        self.outputs = [image_channels if 4 * 2**i <= coarsest else few for i in range(len(widths))]
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        before = (None, *widths[:-1])
        self.blocks = nn.ModuleList(Block(i, o, image_channels, w_dim) for i, o in zip(before, widths, strict=True))
        self.slots = 2 * len(widths)

    def forward(
        self, codes: Float[Tensor, "batch slots w"], *, blocks: int, fade: float, dtype: torch.dtype
    ) -> Float[Tensor, "batch channel height width"]:
        """The sum of the first `blocks` blocks; the newest one's share is multiplied by `fade`."""
        return join(self.shares(codes, blocks=blocks, fade=fade, dtype=dtype), 4 * 2 ** (blocks - 1))[0]

    def shares(
        self, codes: Float[Tensor, "batch slots w"], *, blocks: int, fade: float, dtype: torch.dtype
    ) -> list[Tensor]:
        """What each of the first `blocks` blocks adds, at its own resolution; the newest one's is dimmed by `fade`."""
        x = self.constant.expand(len(codes), -1, -1, -1).to(dtype).contiguous(memory_format=torch.channels_last)
        shares = []
        for index in range(blocks):
            told = codes[:, max(2 * index - 1, 0) : 2 * index + 2]
            x, share = self.part(self.blocks[index], x, told, dtype, self.outputs[index])
            share = F.pad(share, (0, 0, 0, 0, 0, self.outputs[0] - self.outputs[index]))
            shares.append(share * fade if index == blocks - 1 and fade < 1 else share)
        return shares


def join(shares: list[Tensor], smallest: int) -> list[Tensor]:
    """Shares of at least `smallest` pixels a side; coarser ones are up-sampled and added to the first of these."""
    joined, below = [], None
    for share in shares:
        below = share if below is None else upsample(below) + share
        if share.shape[-1] >= min(smallest, shares[-1].shape[-1]):
            joined.append(below)
            below = None
    return joined
