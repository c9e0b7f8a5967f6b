"""How a model wants its pictures: what `preprocessor_config.json` of stock models says, for tensors in [-1, 1]."""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.errors import StyleAvatarError

FILE = "preprocessor_config.json"
_MODES: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""by Pillow's numbers, which these files use"""


class Preparation(NamedTuple):
    """Square pictures in [-1, 1] are resampled to `resized` pixels, their middle of `size` is kept and normed."""

    size: int
    resized: int
    mode: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @staticmethod
    def read(folder: Path) -> "Preparation":
        """That of a folder. Raises StyleAvatarError if it is not said there, or is one that is not known here."""
        try:
            about = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return _parse(about)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StyleAvatarError(
                f"{folder} does not say how its pictures are prepared: {error!r}",
                got=FILE, expected="size, resample, image_mean and image_std, of square pictures",
                remedy=f"copy {FILE} from where the weights come from",
            ) from error  # fmt: skip

    def __call__(self, images: Float[Tensor, "batch 3 n n"]) -> Float[Tensor, "batch 3 size size"]:
        if images.shape[-1] != self.resized:
            images = F.interpolate(images, (self.resized, self.resized), mode=self.mode, antialias=True)
            if self.mode == "bicubic":
                images = images.clamp(-1, 1)  # cubics overshoot
        margin = (self.resized - self.size) // 2
        cut = slice(margin, margin + self.size)
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return (images[..., cut, cut] - mean) / std


def _parse(about: dict[str, Any]) -> Preparation:
    resized = _side(about["size"])
    size = _side(about["crop_size"]) if about.get("do_center_crop") else resized
    mean, std = ([float(number) for number in about[name]] for name in ("image_mean", "image_std"))
    if not all(about.get(step, True) for step in ("do_resize", "do_rescale", "do_normalize")):
        raise ValueError("a step is left out")
    if abs(about.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6 or size > resized or len(mean) != 3 or len(std) != 3:
        raise ValueError("unusual numbers")
    # (colour of [0, 1] - mean) / std, for a colour of [-1, 1]
    mean, std = tuple(2 * number - 1 for number in mean), tuple(2 * number for number in std)
    return Preparation(size, resized, _MODES[about["resample"]], mean, std)


def _side(size: int | dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    sides = {size["shortest_edge"]} if "shortest_edge" in size else {size["height"], size["width"]}
    [side] = sides
    return side
