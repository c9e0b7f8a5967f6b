"""StyleGAN2 to the letter (Karras et al. 2020, sections 2 to 4): layers, mapping and synthesis.

These networks hold imported weights and full-size trainings; `backbone.py` is the lighter form. Parameters keep the
names that published weights have (`conv0.affine.weight`), so a state dict needs no translation.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.resampling import resampled_convolution
from styleavatar3d.ops.bias_act import bias_act
from styleavatar3d.ops.upfirdn2d import make_filter, upsample2d

Noise = Literal["const", "random", "none"]
RESAMPLING_TAPS = (1.0, 3.0, 3.0, 1.0)
ACTIVATION_GAIN = math.sqrt(2)


def normalize_second_moment(x: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch channel"]:
    """Scale each vector to mean square 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class FullyConnectedLayer(nn.Module):
    """Linear layer at an equalised learning rate, then an activation."""

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, activation: str = "linear", lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias_init / lr_multiplier)) if bias else None
        self.gain, self.lr_multiplier, self.activation = lr_multiplier / math.sqrt(inputs), lr_multiplier, activation

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        weight = self.weight.t().to(x.dtype)
        if self.bias is None:
            y = (x * self.gain) @ weight
        else:
            y = torch.addmm(self.bias.to(x.dtype), x, weight, beta=self.lr_multiplier, alpha=self.gain)
        return y if self.activation == "linear" else bias_act(y, act=self.activation)


class Conv2dLayer(nn.Module):
    """Convolution at an equalised learning rate, with built-in resampling, then an activation and a clamp."""

    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, bias: bool = True, activation: str = "linear", up: int = 1,
        down: int = 1, clamp: float | None = None,
    ):  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("resample_filter", make_filter(RESAMPLING_TAPS))
        self.up, self.down, self.activation, self.clamp = up, down, activation, clamp
        self.gain, self.padding = 1 / math.sqrt(inputs * kernel**2), kernel // 2
        self.activation_gain = 1.0 if activation == "linear" else ACTIVATION_GAIN
        self.multiply: torch.dtype | None = None

    def forward(
        self, x: Float[Tensor, "batch inputs height width"], gain: float = 1.0
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """`gain` multiplies the result and its clamp."""
        bare = self.bias is None and self.activation == "linear" and self.clamp is None
        y = resampled_convolution(
            x, (self.weight * (self.gain * gain if bare else self.gain)).to(x.dtype), self.resample_filter, up=self.up,
            down=self.down, padding=self.padding, correlate=self.up == 1, multiply=self.multiply,
        )  # fmt: skip
        if bare:
            return y
        clamp = None if self.clamp is None else self.clamp * gain
        return bias_act(y, self.bias, act=self.activation, gain=self.activation_gain * gain, clamp=clamp)


def multiply_in(network: nn.Module, dtype: torch.dtype | None) -> None:
    """Let all convolutions of a network multiply in this format; None is that of their input.

    Each result is rounded to it once; sums within, and everything between two convolutions, stay in float32.
    """
    for layer in network.modules():
        if isinstance(layer, (Conv2dLayer, SynthesisLayer)):
            layer.multiply = dtype


class Kept:
    """What depends on one weight alone: remembered while the weight is frozen, and made anew when it has changed.

    Weights in training are not watched: fused optimizers change them without a trace.
    """

    def __init__(self, make: Callable[[Tensor], Tensor]):
        self.make, self.kept = make, None

    def __call__(self, weight: Tensor) -> Tensor:
        if weight.requires_grad or weight.is_inference():
            self.kept = None
            return self.make(weight)
        kept = self.kept
        if kept is None or kept[0] is not weight or kept[1] != weight._version or not kept[2].is_set_to(weight):
            # the alias holds the memory, whose address would otherwise say nothing
            self.kept = kept = weight, weight._version, weight.detach(), self.make(weight)
        return kept[3]

    def __reduce__(self):
        """Copies remember nothing: their weights are counted anew."""
        return Kept, (self.make,)


def power(weight: Float[Tensor, "out in kernel kernel"]) -> Float[Tensor, "out in"]:
    """Sum of squares of each kernel."""
    return weight.square().sum((2, 3))


def channels_last(weight: Float[Tensor, "out in kernel kernel"]) -> Float[Tensor, "out in kernel kernel"]:
    """The weight as convolutions of pictures with channels last read it."""
    return weight.contiguous(memory_format=torch.channels_last)


def transposed_channels_last(weight: Float[Tensor, "out in kernel kernel"]) -> Float[Tensor, "out in kernel kernel"]:
    """The same for transposed convolutions, which have inputs and outputs exchanged."""
    return channels_last(weight.transpose(0, 1)).transpose(0, 1)


def modulated_convolution(
    x: Float[Tensor, "batch in height width"],
    weight: Float[Tensor, "out in kernel kernel"],
    styles: Float[Tensor, "batch in"],
    *,
    noise: Float[Tensor, "..."] | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    kernel: Float[Tensor, "..."] | None = None,
    demodulate: bool = True,
    correlate: bool = True,
    table: Float[Tensor, "out in"] | None = None,
    multiply: torch.dtype | None = None,
    **finish: Any,
) -> Float[Tensor, "batch out rows columns"]:
    """Convolution with weights scaled per sample by styles, each filter then normalised (equations 1 and 3).

    The input is scaled instead of the weight, and the result instead of the filter, so one weight serves the batch.
    `finish` is what `bias_act` does with the result; `table` is the weight's `power`, if it is known; `multiply` is the
    format that the convolution multiplies in, if not x's own.
    """
    y = resampled_convolution(
        bias_act(x, scale=styles), weight.to(x.dtype), kernel, up=up, down=down, padding=padding, correlate=correlate,
        multiply=multiply,
    )  # fmt: skip
    scale = demodulation(power(weight) if table is None else table, styles) if demodulate else None
    return bias_act(y, scale=scale, noise=noise, **finish)


def demodulation(power: Float[Tensor, "out in"], styles: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
    """1 / norm of each filter once the styles have scaled it."""
    return (F.linear(styles.square(), power) + 1e-8).rsqrt()


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU, clamp."""

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self, inputs: int, outputs: int, *, w_dim: int, resolution: int, up: int = 1, clamp: float | None = None
    ):
        super().__init__()
        self.affine = FullyConnectedLayer(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.register_buffer("resample_filter", make_filter(RESAMPLING_TAPS))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.resolution, self.up, self.clamp = resolution, up, clamp
        self.multiply: torch.dtype | None = None
        self.table, self.laid_out = Kept(power), Kept(channels_last if up == 1 else transposed_channels_last)

    def forward(
        self, x: Float[Tensor, "rows inputs height width"], w: Float[Tensor, "batch w"], noise: Noise = "const",
        gain: float = 1.0,
    ) -> Float[Tensor, "rows outputs tall wide"]:  # fmt: skip
        return modulated_convolution(
            x, self.laid_out(self.weight), self.styles(w), noise=self.noise(noise, len(x)), up=self.up, padding=1,
            kernel=self.resample_filter, correlate=self.up == 1, table=self.table(self.weight), multiply=self.multiply,
            bias=self.bias, act="lrelu", gain=ACTIVATION_GAIN * gain,
            clamp=None if self.clamp is None else self.clamp * gain,
        )  # fmt: skip

    def styles(self, w: Float[Tensor, "batch w"]) -> Float[Tensor, "rows inputs"]:
        return self.affine(w)

    def noise(self, mode: Noise, batch: int) -> Tensor | None:
        """The picture that is added to every channel; `random` draws one for each sample."""
        if mode == "none":
            return None
        if mode == "const":
            return self.noise_const * self.noise_strength
        if mode == "random":
            size = self.resolution
            return torch.randn(batch, 1, size, size, device=self.bias.device) * self.noise_strength
        raise StyleAvatarError("there is no such noise mode", got=mode, expected="const, random or none")


class ToRGBLayer(nn.Module):
    """Modulated 1x1 convolution without normalisation, bias, clamp: each sample has a matrix for all of its pixels."""

    def __init__(self, inputs: int, outputs: int, *, w_dim: int, clamp: float | None = None):
        super().__init__()
        self.affine = FullyConnectedLayer(w_dim, inputs, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain, self.clamp = 1 / math.sqrt(inputs), clamp

    def forward(
        self, x: Float[Tensor, "rows inputs height width"], w: Float[Tensor, "batch w"]
    ) -> Float[Tensor, "rows outputs height width"]:
        matrices = (self.weight[:, :, 0, 0] * self.styles(w)[:, None]).to(x.dtype)
        pixels = x.permute(0, 2, 3, 1)
        y = torch.baddbmm(self.bias.to(x.dtype), pixels.flatten(1, 2), matrices.mT)
        y = y.view(*pixels.shape[:3], -1).permute(0, 3, 1, 2)
        return y if self.clamp is None else bias_act(y, clamp=self.clamp)

    def styles(self, w: Float[Tensor, "batch w"]) -> Float[Tensor, "rows inputs"]:
        return self.affine(w) * self.gain


class SynthesisBlock(nn.Module):
    """One resolution: two styled convolutions (one at the constant), and a share of the picture (skip architecture)."""

    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, *, w_dim: int, resolution: int, image_channels: int,
        clamp: float | None = None, up: int = 2, constant: tuple[int, ...] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.register_buffer("resample_filter", make_filter(RESAMPLING_TAPS))
        self.up = up
        if inputs == 0:
            self.const = nn.Parameter(torch.randn(constant or (outputs, resolution, resolution)))
        else:
            self.conv0 = SynthesisLayer(inputs, outputs, w_dim=w_dim, resolution=resolution, up=up, clamp=clamp)
        self.conv1 = SynthesisLayer(outputs, outputs, w_dim=w_dim, resolution=resolution, clamp=clamp)
        self.torgb = ToRGBLayer(outputs, image_channels, w_dim=w_dim, clamp=clamp)
        self.convolutions = 1 if inputs == 0 else 2

    def forward(
        self,
        x: Float[Tensor, "batch inputs height width"] | None,
        image: Float[Tensor, "batch image rows columns"] | None,
        codes: Float[Tensor, "batch slots w"],
        noise: Noise = "const",
    ) -> tuple[Float[Tensor, "batch outputs tall wide"], Float[Tensor, "batch image tall wide"]]:
        """Features and the accumulated picture; `codes` has one slot for each convolution and one for the picture."""
        ws = iter(codes.unbind(1))
        start = self.start(len(codes)) if x is None else self.conv0(x, next(ws), noise)
        features = self.conv1(start, next(ws), noise)
        share = self.torgb(features, next(ws))
        if image is None:
            return features, share
        if self.up == 2:
            image = upsample2d(image, self.resample_filter)
        return features, image + share

    def start(self, batch: int) -> Float[Tensor, "batch outputs 4 4"]:
        """The constant; channels last, which convolutions on a CPU like and all layers keep."""
        return self.const.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)


def block_resolutions(resolution: int) -> list[int]:
    """4, 8, ... `resolution`."""
    return [2**power for power in range(2, resolution.bit_length())]


def block_width(resolution: int, channel_base: int, channel_max: int) -> int:
    """Channels at a resolution: `channel_base` divided by it, at most `channel_max`."""
    return min(channel_base // resolution, channel_max)


class SynthesisNetwork(nn.Module):
    """Codes -> feature picture. A block's picture slot is the next block's first slot."""

    def __init__(
        self, *, w_dim: int, resolution: int, image_channels: int, channel_base: int, channel_max: int,
        clamp: float | None = None, batched_constant: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.resolutions = block_resolutions(resolution)
        inputs = 0
        for size in self.resolutions:
            outputs = block_width(size, channel_base, channel_max)
            block = SynthesisBlock(
                inputs, outputs, w_dim=w_dim, resolution=size, image_channels=image_channels, clamp=clamp,
                constant=(1, outputs, size, size) if batched_constant else None,
            )  # fmt: skip
            self.add_module(f"b{size}", block)
            inputs = outputs
        self.slots = 2 * len(self.resolutions)

    def forward(
        self, codes: Float[Tensor, "batch slots w"], noise: Noise = "const"
    ) -> Float[Tensor, "batch image height width"]:
        x = image = None
        for _, block, part in self.walk(codes):
            x, image = block(x, image, part, noise)
        assert image is not None
        return image

    def walk(self, codes: Float[Tensor, "batch slots w"]) -> Iterator[tuple[int, SynthesisBlock, Tensor]]:
        """Resolution, block and the codes of each block in turn."""
        first = 0
        for size in self.resolutions:
            block: SynthesisBlock = getattr(self, f"b{size}")
            yield size, block, codes[:, first : first + block.convolutions + 1]
            first += block.convolutions


class MappingNetwork(nn.Module):
    """Latent and label -> w. Either may be absent (size 0); discriminators map the label alone."""

    w_avg: Tensor

    def __init__(
        self, z_dim: int, label_size: int, w_dim: int, *, layers: int, lr_multiplier: float = 0.01,
        last_activation: str = "lrelu", tracks_mean: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.embed = FullyConnectedLayer(label_size, w_dim) if label_size else None
        self.z_dim, self.layers = z_dim, layers
        inputs = z_dim + (w_dim if label_size else 0)
        for index in range(layers):
            activation = last_activation if index == layers - 1 else "lrelu"
            layer = FullyConnectedLayer(inputs, w_dim, activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f"fc{index}", layer)
            inputs = w_dim
        if tracks_mean:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z: Float[Tensor, "batch z"] | None, labels: Float[Tensor, "batch label"] | None
    ) -> Float[Tensor, "batch w"]:
        parts = []
        if z is not None and self.z_dim:
            parts.append(normalize_second_moment(z))
        if labels is not None and self.embed is not None:
            parts.append(normalize_second_moment(self.embed(labels)))
        x = torch.cat(parts, 1)
        for index in range(self.layers):
            x = getattr(self, f"fc{index}")(x)
        return x

    @torch.no_grad()
    def track_mean(self, w: Float[Tensor, "batch w"], decay: float = 0.998) -> None:
        """Move `w_avg` towards the mean of a batch."""
        self.w_avg.copy_(w.mean(0).lerp(self.w_avg, decay))

    def truncate(self, codes: Float[Tensor, "batch slots w"], truncation: float, cutoff: int | None = None) -> Tensor:
        """Draw the first `cutoff` slots (all by default) towards the mean w: the truncation trick."""
        if truncation == 1:
            return codes
        drawn = self.w_avg.lerp(codes, truncation)
        return drawn if cutoff is None else torch.cat([drawn[:, :cutoff], codes[:, cutoff:]], 1)
