"""Pictures compared, and judged, by what a trained network sees in them.

A young generator on two cores gets little from a discriminator that has to learn to see first. The product's own
estimator of views and attributes (`encoders/estimators.py`) sees already: differences of its features tell the
generator of a lost eye or hat where pixels hardly differ (perceptual loss, Johnson et al. 2016), and small heads on
its features are discriminators that know from the first image on what is in a picture (Sauer et al. 2021, "Projected
GANs converge faster", section 3; ours are told the view).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from styleavatar3d.assets import shipped
from styleavatar3d.config import Strict
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.gan.backbone import Linear, leaky, pixel_norm
from styleavatar3d.gan.discriminator import Convolution, ResidualBlock
from styleavatar3d.gan.precision import PrecisionConfig

Levels = list[Float[Tensor, "batch _channel _height _width"]]


class PerceptionConfig(Strict):
    """`folder` holds the estimator. Weights: of differences of features beside those of pixels when the generator
    reconstructs, and of the heads' verdicts beside the discriminator's; 0 leaves one out."""

    folder: str = "data/miniature/estimators"
    reconstruction: float = Field(default=0.25, ge=0)
    adversarial: float = Field(default=0.5, ge=0)
    width: int = Field(default=48, ge=1)
    """channels of a head"""
    penalty: float = Field(default=0.5, ge=0)
    """strength of the gradient penalty on features, beside the schedule's on pictures"""


class Perception(nn.Module):
    """A frozen estimator; its four levels (of 32, 16, 8 and 4 cells a side) as features of mean 0 and variance 1."""

    def __init__(self, estimator: Estimator):
        super().__init__()
        self.estimator = estimator.eval().requires_grad_(False)
        self.widths = estimator.widths

    @classmethod
    def from_pretrained(cls, folder: str, device: torch.device) -> "Perception":
        """Raises StyleAvatarError when the folder does not hold an estimator."""
        return cls(Estimator.from_pretrained(shipped(folder), device))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Levels:
        """Features of pictures in [-1, 1] of any size."""
        levels = self.estimator.levels(self.estimator.fitted(images))
        return [F.group_norm(level.contiguous(), 1) for level in levels]


def perceptual_distance(ours: Levels, theirs: Levels) -> Float[Tensor, ""]:
    """Mean absolute difference of features; every level counts alike."""
    return torch.stack([(a - b).abs().mean() for a, b in zip(ours, theirs, strict=True)]).mean()


class Heads(nn.Module):
    """A small discriminator on each level: how real its cells look for a view with this label."""

    def __init__(self, widths: tuple[int, ...], width: int, label_size: int):
        super().__init__()
        self.precision = PrecisionConfig()
        heads = [Head(inputs, 32 >> level, width) for level, inputs in enumerate(widths)]
        self.heads = nn.ModuleList(heads)
        self.label = nn.ModuleList([Linear(label_size, width), Linear(width, width)] if label_size else [])

    def forward(
        self, levels: Levels, labels: Float[Tensor, "batch code"], *, precise: bool = False
    ) -> Float[Tensor, "batch verdicts"]:
        """Logits, 16 a level; `precise` computes in the parameters' own format (second derivatives)."""
        parameter: Tensor = self.heads[0].verdict.weight  # type: ignore[union-attr]
        dtype = parameter.dtype if precise else self.precision.dtype("heads", parameter)
        verdicts = [
            head(level.to(dtype).contiguous(memory_format=torch.channels_last)).to(parameter.dtype)
            for head, level in zip(self.heads, levels, strict=True)
        ]
        if not len(self.label):
            return torch.cat([verdict.mean(1) for verdict in verdicts], 1)
        code = pixel_norm(self.label[1](leaky(self.label[0](labels.to(parameter.dtype)))))[..., None]
        return torch.cat([(verdict * code).sum(1) for verdict in verdicts], 1) / math.sqrt(code.shape[1])

    def spread(self, levels: Levels, labels: Float[Tensor, "batch code"]) -> Float[Tensor, "batch"]:
        """The sum of verdicts over the root of their number: the square of its gradient is about the mean square of
        that of one verdict, each of which looks at some cells only."""
        verdicts = self(levels, labels, precise=True)
        return verdicts.sum(1) / math.sqrt(verdicts.shape[1])


class Head(nn.Module):
    """Features of `size` cells a side -> 4 x 4 verdicts, each of `width` numbers that the label weighs. The finest
    ones are halved at once: a quarter of the cells, and the discriminator looks at pixels anyway."""

    def __init__(self, inputs: int, size: int, width: int):
        super().__init__()
        self.entry = Convolution(inputs, width, 4 if size > 16 else 1)
        blocks = int(math.log2(min(size, 16) // 4))
        self.blocks = nn.Sequential(*[ResidualBlock(width, width) for _ in range(blocks)])
        self.look = Convolution(width, width, 3)
        self.verdict = Convolution(width, width, 1, active=False)

    def forward(self, level: Float[Tensor, "batch channel rows columns"]) -> Float[Tensor, "batch width 16"]:
        return self.verdict(self.look(self.blocks(self.entry(level)))).flatten(2)
