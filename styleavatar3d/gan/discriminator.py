"""Residual discriminator on picture, mask and depth, conditioned by projection (StyleGAN2; PanoHead's mask channel).

With super-resolution it also sees the raw picture, up-sampled, beside the final one (EG3D's dual discrimination). It
may guess the pose of the figure's neck and head, and then judges pictures as ones of that pose (3DPortraitGAN).
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.backbone import LEAKY_SLOPE, Linear, leaky, pixel_norm
from styleavatar3d.gan.deformation import POSE_SIZE, PoseHead
from styleavatar3d.gan.precision import PrecisionConfig, bounded
from styleavatar3d.gan.recomputation import Thrifty

PRESETS = {"full": (32768, 512), "narrow": (18432, 144)}
"""Channels times pixels a side, and most channels: StyleGAN2's tower, and the one that judges pyramids."""


def preset_widths(name: str, resolution: int) -> tuple[int, ...]:
    """Channels from `resolution` down to 4 pixels of a tower in `PRESETS`."""
    total, most = PRESETS[name]
    return tuple(min(total // (resolution >> level), most) for level in range(resolution.bit_length() - 2))


class DiscriminatorConfig(Strict):
    """`widths[i]`: channels at resolution / 2^i, down to 4 pixels, or the name of one of `PRESETS`; pictures enter at
    `entry_resolution` or above. A label of no numbers makes an unconditional discriminator."""

    resolution: int = 64
    entry_resolution: int = 32
    widths: tuple[int, ...] = (32, 64, 112, 128, 128)
    raw: bool = False
    mask: bool = True
    depth: bool = False
    """look at the depth of figures too; the data has to bring depth guidance"""
    pose: bool = False
    """guess neck and head pose, and be told the guess"""
    label_size: int = Field(default=46, ge=0)
    label_width: int = Field(default=128, ge=1)
    group: int = Field(default=4, ge=1)
    """images over which minibatch statistics are taken; 1 takes none"""
    precision: str = "auto"

    @property
    def channels(self) -> int:
        """Of the pictures that come in."""
        return 3 + self.mask + self.depth + 3 * self.raw

    @model_validator(mode="before")
    @classmethod
    def _named_widths(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("widths"), str):
            return data
        if data["widths"] not in PRESETS:
            raise ValueError(f"widths is a list of channels or one of {', '.join(PRESETS)}, not {data['widths']}")
        return data | {"widths": preset_widths(data["widths"], int(data.get("resolution", 64)))}

    @model_validator(mode="after")
    def _consistent(self):
        if self.resolution != 4 * 2 ** (len(self.widths) - 1):
            raise ValueError(f"{len(self.widths)} widths end at 4 px only from {4 * 2 ** (len(self.widths) - 1)} px")
        return self


class Convolution(nn.Module):
    """Convolution at an equalised learning rate; kernels of even size halve the picture."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, active: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.gain = (math.sqrt(2) if active else 1.0) / math.sqrt(inputs * kernel * kernel)
        self.active, self.stride, self.padding = active, 2 if kernel % 2 == 0 else 1, (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (self.weight * self.gain).to(x.dtype), self.bias.to(x.dtype)
        y = F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding)
        return bounded(F.leaky_relu(y, LEAKY_SLOPE) if self.active else y)


class ResidualBlock(nn.Module):
    """Halve the picture: two convolutions beside a pooled 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.look = Convolution(inputs, inputs, 3)
        self.halve = Convolution(inputs, outputs, 4)
        self.skip = Convolution(inputs, outputs, 1, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.halve(self.look(x)) + self.skip(F.avg_pool2d(x, 2))) * math.sqrt(0.5)


def minibatch_deviation(
    x: Float[Tensor, "batch channel height width"], group: int
) -> Float[Tensor, "batch 1 height width"]:
    """Mean standard deviation within each run of `group` neighbours; neighbours, so that ranks do not change it.

    Raises StyleAvatarError unless the batch consists of such runs.
    """
    batch, _, height, width = x.shape
    if batch == 0 or batch % group:
        raise StyleAvatarError(
            "the batch is too small for minibatch statistics",
            got=f"{batch} images in this process",
            expected=f"a multiple of model.discriminator.group, {group}",
            remedy="raise --train.batch, use fewer processes, or lower --model.discriminator.group (1 takes none)",
        )
    deviation = (x.reshape(batch // group, group, -1).var(1, unbiased=False) + 1e-8).sqrt().mean(1)
    return deviation.repeat_interleave(group)[:, None, None, None].expand(-1, 1, height, width)


class Discriminator(Thrifty):
    """How real a picture with its mask looks as a view with this label: one logit an image."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config, self.precision = config, PrecisionConfig()
        sizes = [config.resolution // 2**i for i in range(len(config.widths))]
        self.entries = nn.ModuleDict(
            {
                str(size): Convolution(config.channels, width, 1)
                for size, width in zip(sizes, config.widths, strict=True)
                if size >= config.entry_resolution
            }
        )
        pairs = zip(sizes[:-1], config.widths[:-1], config.widths[1:], strict=True)
        self.blocks = nn.ModuleDict({str(size): ResidualBlock(i, o) for size, i, o in pairs})
        last, told = config.widths[-1], config.label_size + config.pose * POSE_SIZE
        width = config.label_width if told else 1
        self.last = Convolution(last + 1, last, 3)
        self.flat = Linear(last * 16, last)
        self.verdict = Linear(last, width)
        self.label = nn.ModuleList([Linear(told, width), Linear(width, width)] if told else [])
        self.pose = PoseHead(last * 16 + config.label_size) if config.pose else None

    def forward(
        self,
        pictures: Float[Tensor, "batch channel height width"],
        labels: Float[Tensor, "batch code"],
        *,
        fade: float = 1.0,
        precise: bool = False,
    ) -> Float[Tensor, "batch"]:
        """Logits of `pictures` (see `pictures_for`).

        Smaller pictures enter lower in the tower; the newest entry's share is multiplied by `fade`, and the entry below
        it stays open. `precise` computes in the parameters' own format (second derivatives).
        """
        return self.judge(pictures, labels, fade=fade, precise=precise).logits

    def judge(
        self,
        pictures: Float[Tensor, "batch channel height width"],
        labels: Float[Tensor, "batch code"],
        *,
        fade: float = 1.0,
        precise: bool = False,
    ) -> "Judgement":
        """`forward`, with the pose that was guessed."""
        features = self.features(pictures, fade=fade, precise=precise)
        labels = labels.to(features.dtype)
        poses = None
        if self.pose is not None:
            poses = self.pose(torch.cat([features.flatten(1), labels], 1))
            labels = torch.cat([labels, poses.detach()], 1)
        x = self.last(torch.cat([features, minibatch_deviation(features, self.config.group)], 1))
        x = self.verdict(leaky(self.flat(x.flatten(1))))
        if not len(self.label):
            return Judgement(x[:, 0], poses)
        code = pixel_norm(self.label[1](leaky(self.label[0](labels))))
        return Judgement((x * code).sum(1) / math.sqrt(x.shape[1]), poses)

    def features(
        self, pictures: Float[Tensor, "batch channel height width"], *, fade: float = 1.0, precise: bool = False
    ) -> Float[Tensor, "batch feature 4 4"]:
        """What the tower makes of pictures, in the parameters' format."""
        parameter = self.last.weight
        dtype = parameter.dtype if precise else self.precision.dtype("discriminator", parameter, self.config.precision)
        pictures = pictures.to(dtype).contiguous(memory_format=torch.channels_last)
        size = pictures.shape[-1]
        x = self.entries[str(size)](pictures)
        while size > 4:
            x, size = self.part(self.blocks[str(size)], x), size // 2
            if str(size) in self.entries:
                pictures = F.avg_pool2d(pictures, 2)
                x, fade = x * fade + self.entries[str(size)](pictures), 1.0
        return x.to(parameter.dtype)


class Judgement(NamedTuple):
    """A logit an image, and the guessed neck and head pose (`deformation`) where the discriminator guesses poses."""

    logits: Float[Tensor, "batch"]
    poses: Float[Tensor, "batch 6"] | None


def pictures_for(
    image: Float[Tensor, "batch 3 height width"],
    mask: Float[Tensor, "batch masks rows columns"],
    depth: Float[Tensor, "batch maps tall wide"],
    raw: Float[Tensor, "batch 3 rows columns"] | None = None,
) -> Float[Tensor, "batch channel height width"]:
    """What the discriminator looks at, at image size: image, mask and depth scaled from [0, 1] to [-1, 1] and, if
    given, the raw picture. A mask or a depth of no map is left out."""
    parts = [image, *(maps * 2 - 1 for maps in (mask, depth) if maps.shape[1]), *([raw] if raw is not None else [])]
    size = image.shape[-1]
    fitted = [p if p.shape[-1] == size else F.interpolate(p, size=size, mode="bilinear") for p in parts]
    return torch.cat(fitted, 1)
