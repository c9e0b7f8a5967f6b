"""The pyramid's backbone: a picture branch whose every resolution grows three planes that know of each other.

After Mimic3D, as Portrait3D (section 3.1) uses it. Tensors of planes have one row for each plane of each sample,
`batch * 3`, sample by sample.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.stylegan2 import (
    RESAMPLING_TAPS,
    FullyConnectedLayer,
    Noise,
    SynthesisLayer,
    SynthesisNetwork,
    ToRGBLayer,
)
from styleavatar3d.ops.upfirdn2d import make_filter

PLANES = 3


def exchange(x: Float[Tensor, "rows channel height width"]) -> Float[Tensor, "rows channels height width"]:
    """Each plane beside what the other two hold on the axis that they share with it, averaged over their other axis.

    The channels come in the order of the planes, so a plane's own stand first, second or third.
    """
    planes = x.unflatten(0, (-1, PLANES))
    along_columns, along_rows = planes.mean(3, keepdim=True).mT, planes.mean(4, keepdim=True).mT
    joined = []
    for own in range(PLANES):
        shared = {own: planes[:, own]}
        after, last = (own + 1) % PLANES, (own + 2) % PLANES
        shared[after] = along_columns[:, after].expand_as(planes[:, own])
        shared[last] = along_rows[:, last].expand_as(planes[:, own])
        joined.append(torch.cat([shared[plane] for plane in range(PLANES)], 1))
    return torch.stack(joined, 1).flatten(0, 1).contiguous(memory_format=torch.channels_last)


class CrossPlaneLayer(SynthesisLayer):
    """A synthesis layer on planes that exchange first; each plane has styles of its own, the weight is shared."""

    def __init__(self, inputs: int, outputs: int, *, w_dim: int, resolution: int, up: int = 1, clamp: float | None):
        super().__init__(PLANES * inputs, outputs, w_dim=w_dim, resolution=resolution, up=up, clamp=clamp)
        self.affine = FullyConnectedLayer(w_dim, PLANES * PLANES * inputs, bias_init=1.0)

    def styles(self, w: Float[Tensor, "batch w"]) -> Float[Tensor, "rows inputs"]:
        return self.affine(w).unflatten(1, (PLANES, -1)).flatten(0, 1)

    def forward(self, x: Tensor, w: Float[Tensor, "batch w"], noise: Noise = "const", gain: float = 1.0) -> Tensor:
        return super().forward(exchange(x), w, noise, gain)


class CrossPlaneToRGB(ToRGBLayer):
    """Planes that have exchanged -> what the block hands out. Its gain counts a plane's own channels only."""

    def __init__(self, inputs: int, outputs: int, *, w_dim: int, clamp: float | None):
        super().__init__(PLANES * inputs, outputs, w_dim=w_dim, clamp=clamp)
        self.affine = FullyConnectedLayer(w_dim, PLANES * PLANES * inputs, bias_init=1.0)
        self.gain = 1 / math.sqrt(inputs)

    def styles(self, w: Float[Tensor, "batch w"]) -> Float[Tensor, "rows inputs"]:
        return self.affine(w).unflatten(1, (PLANES, -1)).flatten(0, 1) * self.gain

    def forward(self, x: Tensor, w: Float[Tensor, "batch w"]) -> Tensor:
        return super().forward(exchange(x), w)


class CrossPlaneBlock(nn.Module):
    """The picture of one resolution, cut into planes, plus the planes so far -> planes of twice the resolution."""

    def __init__(self, channels: int, *, w_dim: int, resolution: int, clamp: float | None = None):
        super().__init__()
        self.block = _Block(channels, w_dim=w_dim, resolution=2 * resolution, clamp=clamp)

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        planes: Float[Tensor, "rows channel height width"] | None,
        w: Float[Tensor, "batch w"],
        noise: Noise = "const",
    ) -> Float[Tensor, "rows channel tall wide"]:
        """One w drives all layers."""
        x = image.unflatten(1, (PLANES, -1)).flatten(0, 1)
        x = x if planes is None else x + planes
        return self.block(x, w, noise)


class _Block(nn.Module):
    """The layers of a cross-plane block, one level down as their names in published weights are."""

    resample_filter: Tensor

    def __init__(self, channels: int, *, w_dim: int, resolution: int, clamp: float | None):
        super().__init__()
        sizes = {"w_dim": w_dim, "clamp": clamp}
        self.register_buffer("resample_filter", make_filter(RESAMPLING_TAPS))
        self.conv0 = CrossPlaneLayer(channels, channels, resolution=resolution, up=2, **sizes)
        self.conv1 = CrossPlaneLayer(channels, channels, resolution=resolution, **sizes)
        self.torgb = CrossPlaneToRGB(channels, channels, **sizes)

    def forward(self, x: Tensor, w: Float[Tensor, "batch w"], noise: Noise) -> Tensor:
        return self.torgb(self.conv1(self.conv0(x, w, noise), w, noise), w)


class HierarchicalSynthesis(SynthesisNetwork):
    """Codes -> planes of 8, 16, ... twice the resolution of the picture branch, all of the same channels."""

    def __init__(self, *, w_dim: int, resolution: int, plane_channels: int, clamp: float | None = None):
        width = PLANES * plane_channels
        super().__init__(
            w_dim=w_dim, resolution=resolution, image_channels=width, channel_base=width * resolution,
            channel_max=width, clamp=clamp, batched_constant=True,
        )  # fmt: skip
        for size in self.resolutions:
            block = CrossPlaneBlock(plane_channels, w_dim=w_dim, resolution=size, clamp=clamp)
            self.add_module(f"b3d{size}", block)

    def levels(
        self, codes: Float[Tensor, "batch slots w"], noise: Noise = "const"
    ) -> list[Float[Tensor, "rows channel height width"]]:
        """Planes of each level, coarse to fine."""
        x = image = planes = None
        levels = []
        for size, block, part in self.walk(codes):
            x, image = block(x, image, part, noise)
            planes = getattr(self, f"b3d{size}")(image, planes, part[:, -1], noise)
            levels.append(planes)
        return levels
