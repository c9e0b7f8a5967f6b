"""The judge: a convolutional network that reads view, face and attributes off a 64 px picture.

It is trained on renders only, on a population of figures and with an architecture that nothing in the product shares,
so that what it says about synthesised pictures and avatars is a second opinion. No product code may ask it.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import CONFIG_FILE, load_weights, read_json, save_weights

DIRECTIONS = 36
BIN = 360 / DIRECTIONS
"""Degrees of yaw; bins are centred on 0, 10, ..."""
ANSWERS = {"yaw": DIRECTIONS, "face": 1} | {name: len(words) for name, words in WORDS.items()}
"""Everything the network is asked, and how many numbers answer it."""
_AT_ONCE = 100


class Judgement(NamedTuple):
    """What the judge sees; a word for every attribute, also for those that this view or style hides."""

    yaw: Float[Tensor, "batch"]
    """Degrees in [-180, 180)."""
    words: list[dict[str, str]]
    face: Float[Tensor, "batch"]
    """Probability that a face is shown: eyes, nose or mouth, from the front or in profile."""


class Judge(nn.Module):
    """Residual network, 64 -> 4 px; one linear layer on the mean and the maximum of its features answers everything.

    The maximum finds what is small, as an earring or a lens, the mean what is large. Attention maps of its own for each
    question, over 8 x 8 cells, learned the words no faster and the yaw much slower, at half the speed.
    """

    def __init__(self, widths: tuple[int, int, int, int] = (24, 48, 80, 128)):
        super().__init__()
        self.widths = a, b, c, d = widths
        self.stem = nn.Conv2d(3, a, 5, stride=2, padding=2)
        self.blocks = nn.Sequential(Residual(a, b, 2), Residual(b, c, 2), Residual(c, c, 1), Residual(c, d, 2))
        self.answer = nn.Linear(2 * d, sum(ANSWERS.values()))

    def forward(self, images: Float[Tensor, "batch 3 64 64"]) -> dict[str, Float[Tensor, "batch numbers"]]:
        """Pictures in [-1, 1] -> logits of every name of `ANSWERS`."""
        numbers = self.answer(self.pooled(images))
        return dict(zip(ANSWERS, numbers.split(list(ANSWERS.values()), 1), strict=True))

    def pooled(self, images: Float[Tensor, "batch 3 64 64"]) -> Float[Tensor, "batch features"]:
        """What every answer is read from."""
        x = self.blocks(self.stem(images.contiguous(memory_format=torch.channels_last)))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """`pooled` of pictures of any size, in [-1, 1]: how alike two figures are."""
        return torch.cat([self.pooled(some) for some in _small(images).split(_AT_ONCE)])

    @torch.no_grad()
    def judge(self, images: Float[Tensor, "batch 3 height width"]) -> Judgement:
        """What is seen in pictures of any size, in [-1, 1]."""
        parts = [self(some) for some in _small(images).split(_AT_ONCE)]
        logits = {name: torch.cat([part[name] for part in parts]) for name in ANSWERS}
        best = {name: logits[name].argmax(1).tolist() for name in WORDS}
        words = [{name: WORDS[name][best[name][i]] for name in WORDS} for i in range(len(images))]
        return Judgement(yaw_of(logits["yaw"]), words, logits["face"][:, 0].sigmoid())

    def save_pretrained(self, folder: str | Path) -> None:
        """fp16 safetensors and config.json."""
        heads = {name: list(words) for name, words in WORDS.items()}
        save_weights(Storage.open(str(folder)), self, {"widths": self.widths, "heads": heads})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Judge":
        """Raises StyleAvatarError when the folder does not hold a judge of today's attributes."""
        storage = Storage.open(str(folder))
        config = read_json(storage, CONFIG_FILE)
        known = {name: tuple(words) for name, words in config.get("heads", {}).items()}
        if known != WORDS:
            raise StyleAvatarError(
                "this judge knows other attributes",
                got=", ".join(sorted(name for name in known.keys() | WORDS if known.get(name) != WORDS.get(name))),
                expected="the words of figures.looks",
                remedy="train it again: `styleavatar3d train miniature --train.stages judge`",
            )
        judge = cls(tuple(config["widths"]))
        load_weights(judge, storage)
        return judge.eval()


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut; stride 2 averages the shortcut over 2x2 cells."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.stride = stride
        self.norm1, self.norm2 = nn.GroupNorm(4, inside), nn.GroupNorm(4, outside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside rows columns"]:
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return y + self.shortcut(F.avg_pool2d(x, 2) if self.stride == 2 else x)


def _small(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 64 64"]:
    if images.shape[-1] == 64:
        return images
    return F.interpolate(images, (64, 64), mode="bilinear", antialias=True)


def yaw_bins(yaw: Float[Tensor, "batch"]) -> Float[Tensor, "batch directions"]:
    """Degrees as shares of the bins, which fall off with the angle like a Gaussian of one bin's width."""
    centres = torch.arange(DIRECTIONS, device=yaw.device) * BIN
    away = (yaw[:, None] - centres + 180) % 360 - 180
    return (-0.5 * (away / BIN).square()).softmax(1)


def yaw_of(logits: Float[Tensor, "batch directions"]) -> Float[Tensor, "batch"]:
    """Degrees: the mean over the likeliest bin and its two neighbours on each side.

    A picture that could be either of two views gets one of them, and not the mean, which would be neither.
    """
    best = logits.argmax(1)
    around = torch.arange(-2, 3, device=logits.device)
    weight = logits.softmax(1).gather(1, (best[:, None] + around) % DIRECTIONS)
    offset = (weight * around).sum(1) / weight.sum(1)
    return ((best + offset) * BIN + 180) % 360 - 180
