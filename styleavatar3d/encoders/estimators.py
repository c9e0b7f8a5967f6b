"""The product's own eye for a picture of a figure: from where it is seen, what it shows, and where its landmarks lie.

Quality gates and rig fitting ask it. It shares neither architecture nor training figures with `metrics.judge`, which
measures what they made of it.
"""

from collections.abc import Sequence
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

_SIZE = 64
_AT_ONCE = 100


class Estimate(NamedTuple):
    """What is seen in a batch of pictures."""

    yaw: Float[Tensor, "batch"]
    """Degrees in [-180, 180)."""
    pitch: Float[Tensor, "batch"]
    """Degrees, positive from above."""
    words: list[dict[str, str]]
    """A word for every attribute, also for those that this view or style hides."""
    face: Float[Tensor, "batch"]
    """Probability that a face is shown, from the front or in profile."""
    landmarks: Float[Tensor, "batch landmarks 2"]
    """Pixels (right, down) of the picture that was given."""
    visible: Float[Tensor, "batch landmarks"]
    """Probability that the landmark is not hidden."""


class Reading(NamedTuple):
    """What the network says, as training wants it."""

    direction: Float[Tensor, "batch 3"]
    """Towards the camera, world axes; its length tells how sure it is."""
    face: Float[Tensor, "batch"]
    """Logit."""
    words: dict[str, Float[Tensor, "batch words"]]
    """Logits."""
    landmarks: Float[Tensor, "batch landmarks 2"]
    """Right and down, over the size of the picture."""
    visible: Float[Tensor, "batch landmarks"]
    """Logits."""


class Estimator(nn.Module):
    """A small hourglass: down to 4 x 4 cells, where view and words are read, and up to 16 x 16 for the landmarks.

    Each landmark is the mean place of a map of its own ("integral regression", arXiv:1711.08229), finer than a cell.
    """

    def __init__(self, landmarks: Sequence[str], widths: tuple[int, int, int, int] = (20, 40, 80, 128)):
        super().__init__()
        self.names, self.widths = tuple(landmarks), tuple(widths)
        a, b, c, d = widths
        self.first = nn.Sequential(nn.Conv2d(3, a, 5, stride=2, padding=2), _Layer(a, a))
        self.down = nn.ModuleList(
            nn.Sequential(_Layer(inside, outside, 2), _Layer(outside, outside))
            for inside, outside in ((a, b), (b, c), (c, d))
        )
        self.up = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1)])
        self.join = nn.ModuleList([_Layer(c, c), _Layer(b, b)])
        self.place = nn.Conv2d(b, len(self.names), 1)
        self.say = nn.Linear(16 * d, 4 + len(self.names) + sum(len(words) for words in WORDS.values()))

    def forward(self, images: Float[Tensor, "batch 3 64 64"]) -> Reading:
        """Pictures in [-1, 1] -> directions, logits and places."""
        levels = self.levels(images)
        x = levels[-1]
        said = self.say(F.silu(x).flatten(1))
        for up, join, skipped in zip(self.up, self.join, levels[-2:0:-1], strict=True):
            x = join(skipped + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        sizes = [3, 1, len(self.names), *(len(words) for words in WORDS.values())]
        direction, face, visible, *words = said.split(sizes, 1)
        return Reading(
            direction, face[:, 0], dict(zip(WORDS, words, strict=True)), mean_place(self.place(F.silu(x))), visible
        )

    def levels(self, images: Float[Tensor, "batch 3 64 64"]) -> list[Float[Tensor, "batch _channel _rows _columns"]]:
        """What it sees in pictures in [-1, 1], at 32, 16, 8 and 4 cells a side."""
        levels = [self.first(images.contiguous(memory_format=torch.channels_last))]
        for layer in self.down:
            levels.append(layer(levels[-1]))
        return levels

    def features(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch features"]:
        """What view and words are read from, of square pictures of any size, in [-1, 1]."""
        return F.silu(self.levels(self.fitted(images))[-1]).flatten(1)

    @staticmethod
    def fitted(images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 64 64"]:
        """Square pictures at the size that the network reads."""
        if images.shape[-1] == _SIZE:
            return images
        return F.interpolate(images, (_SIZE, _SIZE), mode="bilinear", antialias=True)

    @torch.no_grad()
    def estimate(self, images: Float[Tensor, "batch 3 size size"]) -> Estimate:
        """What is seen in square pictures of any size, in [-1, 1]."""
        size = images.shape[-1]
        parts = [self(some) for some in self.fitted(images).split(_AT_ONCE)]
        direction, face, landmarks, visible = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("direction", "face", "landmarks", "visible")
        )
        best = {name: torch.cat([part.words[name] for part in parts]).argmax(1).tolist() for name in WORDS}
        words = [{name: WORDS[name][best[name][i]] for name in WORDS} for i in range(len(images))]
        yaw, pitch = angles(direction)
        return Estimate(yaw, pitch, words, face.sigmoid(), landmarks * size, visible.sigmoid())

    def save_pretrained(self, folder: str | Path) -> None:
        """fp16 safetensors and config.json."""
        words = {name: list(values) for name, values in WORDS.items()}
        config = {"landmarks": self.names, "widths": self.widths, "words": words}
        save_weights(Storage.open(str(folder)), self, config)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Estimator":
        """Raises StyleAvatarError when the folder does not hold an estimator of today's attributes."""
        storage = Storage.open(str(folder))
        config = read_json(storage, CONFIG_FILE)
        known = {name: tuple(values) for name, values in config.get("words", {}).items()}
        if known != WORDS:
            changed = sorted(name for name in known.keys() | WORDS if known.get(name) != WORDS.get(name))
            raise StyleAvatarError(
                "this estimator knows other attributes", got=", ".join(changed), expected="the words of figures.looks",
                remedy="train it again: `styleavatar3d train miniature --train.stages estimators`",
            )  # fmt: skip
        estimator = cls(config["landmarks"], tuple(config["widths"]))
        load_weights(estimator, storage)
        return estimator.to(device).eval().requires_grad_(False)


class _Layer(nn.Module):
    """Norm, SiLU, 3x3 convolution; where the size stays, beside the identity."""

    def __init__(self, inside: int, outside: int, stride: int = 1):
        super().__init__()
        self.norm = nn.GroupNorm(1, inside)
        self.conv = nn.Conv2d(inside, outside, 3, stride, padding=1)
        self.same = inside == outside and stride == 1

    def forward(self, x: Float[Tensor, "batch inside height width"]) -> Float[Tensor, "batch outside rows columns"]:
        y = self.conv(F.silu(self.norm(x)))
        return x + y if self.same else y


def mean_place(maps: Float[Tensor, "batch landmarks rows columns"]) -> Float[Tensor, "batch landmarks 2"]:
    """Mean (right, down) under the softmax of each map, over the size of the picture."""
    rows, columns = maps.shape[2:]
    weight = maps.float().flatten(2).softmax(2).unflatten(2, (rows, columns))
    across = (torch.arange(columns, device=maps.device) + 0.5) / columns
    along = (torch.arange(rows, device=maps.device) + 0.5) / rows
    return torch.stack([weight.sum(2) @ across, weight.sum(3) @ along], -1)


def direction_of(yaw: Float[Tensor, "batch"], pitch: Float[Tensor, "batch"]) -> Float[Tensor, "batch 3"]:
    """The unit vector from the pivot to the camera; degrees."""
    turn, rise = torch.deg2rad(yaw), torch.deg2rad(pitch)
    return torch.stack([turn.sin() * rise.cos(), rise.sin(), turn.cos() * rise.cos()], 1)


def angles(direction: Float[Tensor, "batch 3"]) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Yaw and pitch in degrees of vectors of any length."""
    x, y, z = direction.float().unbind(1)
    yaw = torch.rad2deg(torch.atan2(x, z))
    return torch.where(yaw >= 180, -180.0, yaw), torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))
