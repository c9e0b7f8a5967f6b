"""The judge: a small convolutional network that reads view and attributes off a 64 px picture.

It is trained on renders only, on a population of figures and with an architecture that nothing in the product shares,
so that what it says about synthesised pictures and avatars is a second opinion.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from styleavatar3d.figures.looks import ATTRIBUTES, STYLES
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import CONFIG_FILE, load_weights, read_json, save_weights

VIEWS = ("front", "left", "back", "right")
HEADS: dict[str, tuple[str, ...]] = {**ATTRIBUTES, "style": STYLES}


class Judgement(NamedTuple):
    """What the judge sees: yaw in degrees and a word for every attribute (also for those that cannot be seen)."""

    yaw: Float[Tensor, "batch"]
    words: list[dict[str, str]]


class Judge(nn.Module):
    """Residual network, 64 -> 4 px, ending in one linear layer: (sin, cos) of the yaw and a score for each word."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.width = width
        self.stem = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.blocks = nn.Sequential(
            Residual(width, 2 * width), Residual(2 * width, 3 * width), Residual(3 * width, 5 * width)
        )
        self.head = nn.Linear(2 * 5 * width, 2 + sum(len(words) for words in HEADS.values()))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch 2"], dict[str, Float[Tensor, "batch words"]]]:
        """Pictures in [-1, 1] -> (sin, cos) of the yaw, not normalised, and the logits of every attribute."""
        x = self.blocks(self.stem(images))
        out = self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
        logits = out[:, 2:].split([len(words) for words in HEADS.values()], 1)
        return out[:, :2], dict(zip(HEADS, logits, strict=True))

    @torch.no_grad()
    def judge(self, images: Float[Tensor, "batch 3 height width"]) -> Judgement:
        """What is seen in pictures of any size, in [-1, 1]."""
        if images.shape[-1] != 64:
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
        direction, logits = self(images)
        yaw = torch.rad2deg(torch.atan2(direction[:, 0], direction[:, 1]))
        best = {name: scores.argmax(1).tolist() for name, scores in logits.items()}
        words = [{name: HEADS[name][best[name][i]] for name in HEADS} for i in range(len(images))]
        return Judgement(yaw, words)

    def save_pretrained(self, folder: str | Path) -> None:
        """fp16 safetensors and config.json."""
        config = {"width": self.width, "heads": {name: list(words) for name, words in HEADS.items()}}
        save_weights(Storage.open(str(folder)), self, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Judge":
        """Raises StyleAvatarError when the folder does not hold a judge of today's attributes."""
        storage = Storage.open(str(folder))
        judge = cls(read_json(storage, CONFIG_FILE)["width"])
        load_weights(judge, storage)
        return judge.eval()


class Residual(nn.Module):
    """Two 3x3 convolutions, the first with stride 2, beside a 1x1 shortcut on the averaged input."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, inside), nn.GroupNorm(4, outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside half_h half_w"]:
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return y + self.shortcut(F.avg_pool2d(x, 2))


def view_of(yaw: float) -> str:
    """Which of four quarter turns a yaw in degrees belongs to; "left" shows the figure's left side (yaw +90)."""
    return VIEWS[int(((yaw + 45) % 360) // 90)]
