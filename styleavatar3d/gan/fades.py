"""Settings that fade while a GAN trains, and the blur that one of them drives: pure functions of the images seen."""

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from styleavatar3d.config import Strict


class Fade(Strict):
    """A number that is `start` up to `wait_kimg` and goes to `end`, linearly, over the next `kimg`."""

    start: float
    end: float
    kimg: float = Field(gt=0)
    wait_kimg: float = Field(default=0.0, ge=0)

    def at(self, seen: int) -> float:
        """The value after `seen` images."""
        share = (seen / 1000 - self.wait_kimg) / self.kimg
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    def whole(self, seen: int) -> int:
        """`at`, rounded: for sizes in pixels."""
        return round(self.at(seen))

    @classmethod
    def constant(cls, value: float) -> "Fade":
        return cls(start=value, end=value, kimg=1)


class Fades(Strict):
    """What fades in the recipes of EG3D, PanoHead and 3DPortraitGAN-Pyramid; the defaults switch all of it off.

    `blur`: sigma of the blur of everything the discriminator sees, pixels (theirs 10 -> 0 over 200 kimg).
    `swap`: probability that the generator is told another camera than it is seen from (theirs 1 -> 0.7 over 1000).
    `density_noise`: standard deviation of noise on raw densities (theirs 1 -> 0 over 200).
    `neural_resolution`: pixels a side that are rendered before super-resolution; None leaves the model's (theirs
    64 -> 128 over 1000).
    `pose_prior`: weight of `pose_loss` to the data's poses (theirs 5 up to 200, then to 0 over 200).
    """

    blur: Fade = Fade.constant(0)
    swap: Fade = Fade.constant(0)
    density_noise: Fade = Fade.constant(0)
    neural_resolution: Fade | None = None
    pose_prior: Fade = Fade.constant(0)

    @model_validator(mode="after")
    def _consistent(self):
        ends = {name: (fade.start, fade.end) for name in type(self).model_fields if (fade := getattr(self, name))}
        for name, values in ends.items():
            if min(values) < 0:
                raise ValueError(f"{name} must not be negative")
        if max(ends["swap"]) > 1:
            raise ValueError("swap is a probability: at most 1")
        return self


PUBLISHED = Fades(
    blur=Fade(start=10, end=0, kimg=200),
    swap=Fade(start=1, end=0.7, kimg=1000),
    density_noise=Fade(start=1, end=0, kimg=200),
    neural_resolution=Fade(start=64, end=128, kimg=1000),
    pose_prior=Fade(start=5, end=0, kimg=200, wait_kimg=200),
)
"""The values of the pyramid's three stages, at 512 px."""


def blur(
    pictures: Float[Tensor, "batch channel height width"], sigma: float
) -> Float[Tensor, "batch channel height width"]:
    """Gaussian blur of `sigma` pixels; flat pictures stay flat up to their edges. Differentiable to any order."""
    if sigma <= 0:
        return pictures
    rows, columns = (_smoothing(size, sigma, pictures) for size in pictures.shape[-2:])
    return rows @ pictures @ columns.mT


def _smoothing(size: int, sigma: float, like: Tensor) -> Float[Tensor, "size size"]:
    """Gaussian weights between pixels of a line; rows sum to 1, which is what weights edges anew."""
    at = torch.arange(size, device=like.device, dtype=torch.double)
    weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * sigma**2))
    return (weights / weights.sum(1, keepdim=True)).to(like)
