"""The ancestors' discriminators: StyleGAN2's residual tower on image, resized raw image and mask (EG3D section 4.3).

PanoHead adds the mask, either as a seventh channel or with a tower of its own; Portrait3D's is narrow and predicts the
body pose beside.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic_config import ClassicDiscriminatorConfig
from styleavatar3d.gan.pose_branch import PoseBranch, mirrored_where, on_figures_left, turned_back
from styleavatar3d.gan.resampling import resize
from styleavatar3d.gan.stylegan2 import (
    RESAMPLING_TAPS,
    Conv2dLayer,
    FullyConnectedLayer,
    MappingNetwork,
    block_resolutions,
    block_width,
)
from styleavatar3d.ops.upfirdn2d import make_filter

_HALF = math.sqrt(0.5)


class ResidualBlock(nn.Module):
    """Halve the picture: two convolutions beside a 1x1 one. The first block also reads the picture."""

    resample_filter: Tensor

    def __init__(self, inputs: int, width: int, outputs: int, *, clamp: float | None):
        super().__init__()
        self.register_buffer("resample_filter", make_filter(RESAMPLING_TAPS))
        self.fromrgb = Conv2dLayer(inputs, width, kernel=1, activation="lrelu", clamp=clamp) if inputs else None
        self.conv0 = Conv2dLayer(width, width, kernel=3, activation="lrelu", clamp=clamp)
        self.conv1 = Conv2dLayer(width, outputs, kernel=3, activation="lrelu", down=2, clamp=clamp)
        self.skip = Conv2dLayer(width, outputs, kernel=1, bias=False, down=2)

    def forward(self, x: Float[Tensor, "batch input height width"]) -> Float[Tensor, "batch output rows columns"]:
        x = x if self.fromrgb is None else self.fromrgb(x)
        return self.skip(x, gain=_HALF).add_(self.conv1(self.conv0(x), gain=_HALF))


def minibatch_deviation(
    x: Float[Tensor, "batch channel height width"], *, group: int, channels: int
) -> Float[Tensor, "batch both height width"]:
    """Append the mean standard deviation over groups of samples. Sample i is in group i modulo batch / group."""
    batch, width, height, breadth = x.shape
    size = min(group, batch)
    if batch % size:
        raise StyleAvatarError(
            "the batch cannot be cut into groups for the minibatch deviation",
            got=f"batch {batch}, group {size}",
            expected="a multiple of the group, or fewer samples than one group",
            remedy="change the batch size, or lower `group`",
        )
    grouped = x.reshape(size, -1, channels, width // channels, height, breadth)
    deviation = ((grouped - grouped.mean(0)).square().mean(0) + 1e-8).sqrt().mean((2, 3, 4))
    deviation = deviation[:, :, None, None].repeat(size, 1, height, breadth)
    return torch.cat([x, deviation], 1)


class Epilogue(nn.Module):
    """Features at 4 x 4 -> logit, projected on the mapped label."""

    def __init__(self, width: int, config: ClassicDiscriminatorConfig, outputs: int):
        super().__init__()
        self.config = config
        self.conv = Conv2dLayer(
            width + config.deviation_channels, width, kernel=3, activation="lrelu", clamp=config.clamp
        )
        self.fc = FullyConnectedLayer(16 * width, width, activation="lrelu")
        self.out = FullyConnectedLayer(width, outputs)

    def forward(self, x: Float[Tensor, "batch channel 4 4"], code: Float[Tensor, "batch code"] | None) -> Tensor:
        if self.config.deviation_channels:
            x = minibatch_deviation(x, group=self.config.group, channels=self.config.deviation_channels)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        return x[:, 0] if code is None else (x * code).sum(1) / math.sqrt(x.shape[1])


class ClassicDiscriminator(nn.Module):
    """How real an image with its raw image (and mask) looks as a view with this label."""

    resample_filter: Tensor

    def __init__(self, config: ClassicDiscriminatorConfig):
        super().__init__()
        self.config = config
        self.register_buffer("resample_filter", make_filter(RESAMPLING_TAPS))
        self.sizes = self._add_tower("b", config.resolution, 7 if config.mask and not config.mask_tower else 6)
        tower = config.mask_tower_resolution or config.resolution
        self.mask_sizes = self._add_tower("sb", tower, 1) if config.mask_tower else []
        width = block_width(4, config.channel_base, config.channel_max)
        self.b4 = Epilogue(width, config, outputs=width if config.label_size else 1)
        self.mapping = (
            MappingNetwork(0, config.label_size, width, layers=config.mapping_layers, tracks_mean=False)
            if config.label_size
            else None
        )
        self.pose_branch = (
            PoseBranch(16 * width, (2048, 512, 128, 32), config.pose_numbers) if config.pose_numbers else None
        )

    def _add_tower(self, prefix: str, resolution: int, channels: int) -> list[int]:
        sizes = block_resolutions(resolution)[:0:-1]
        for size in sizes:
            width, outputs = (
                block_width(s, self.config.channel_base, self.config.channel_max) for s in (size, size // 2)
            )
            inputs = channels if size == resolution else 0
            self.add_module(f"{prefix}{size}", ResidualBlock(inputs, width, outputs, clamp=self.config.clamp))
        return sizes

    def forward(
        self,
        image: Float[Tensor, "batch 3 height width"],
        raw: Float[Tensor, "batch 3 rows columns"],
        labels: Float[Tensor, "batch label"] | None = None,
        mask: Float[Tensor, "batch 1 rows columns"] | None = None,
    ) -> Float[Tensor, "batch"]:
        """Logits. Pictures lie in [-1, 1], masks in [0, 1]."""
        return self.b4(self.features(image, raw, mask), self.code(labels))

    def features(
        self,
        image: Float[Tensor, "batch 3 height width"],
        raw: Float[Tensor, "batch 3 rows columns"],
        mask: Float[Tensor, "batch 1 rows columns"] | None = None,
    ) -> Float[Tensor, "batch channel 4 4"]:
        """What the towers make of the pictures."""
        config = self.config
        if config.mask and mask is None:
            raise StyleAvatarError("this discriminator looks at masks", remedy="pass the mask beside the raw image")
        parts = [image, self._resized(raw, config.resolution)]
        if mask is not None and config.mask and not config.mask_tower:
            parts.append(self._resized(mask, config.resolution) * 2 - 1)
        x = torch.cat(parts, 1).contiguous(memory_format=torch.channels_last)
        for size in self.sizes:
            x = getattr(self, f"b{size}")(x)
        if mask is not None and config.mask_tower:
            y = self._resized(mask, self.mask_sizes[0]) * 2 - 1
            for size in self.mask_sizes:
                y = getattr(self, f"sb{size}")(y)
            x = x + y
        return x

    def code(self, labels: Float[Tensor, "batch label"] | None) -> Tensor | None:
        """The mapped label; `label_noise` blurs labels that are not to be trusted."""
        if self.mapping is None:
            return None
        if labels is None or labels.shape[1] != self.config.label_size:
            raise StyleAvatarError(
                "this discriminator was made for another label",
                got=None if labels is None else labels.shape[1],
                expected=f"{self.config.label_size} numbers",
            )
        if self.config.label_noise:
            labels = labels + torch.randn_like(labels) * labels.std(0) * self.config.label_noise
        return self.mapping(None, labels)

    def body_pose(
        self,
        image: Float[Tensor, "batch 3 height width"],
        raw: Float[Tensor, "batch 3 rows columns"],
        labels: Float[Tensor, "batch label"],
        mask: Float[Tensor, "batch 1 rows columns"] | None = None,
    ) -> Float[Tensor, "batch pose"]:
        """The body pose in a picture. Views from the figure's left are looked at in the mirror."""
        if self.pose_branch is None:
            raise StyleAvatarError("this discriminator sees no body pose", expected="pose_numbers > 0 in its config")
        mirror = on_figures_left(labels)
        rows = mirror[:, None, None, None]
        image, raw = (torch.where(rows, x.flip(3), x) for x in (image, raw))
        mask = mask if mask is None else torch.where(rows, mask.flip(3), mask)
        features = self.features(image, raw, mask).flatten(1)
        return turned_back(self.pose_branch(features, mirrored_where(labels, mirror)), mirror)

    def _resized(self, x: Tensor, size: int) -> Tensor:
        return x if x.shape[-1] == size else resize(x, size, self.config.resize, self.resample_filter)
