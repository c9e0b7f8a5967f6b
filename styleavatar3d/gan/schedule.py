"""What changes while a GAN trains, as pure functions of the number of images seen."""

from typing import NamedTuple

from pydantic import Field, model_validator

from styleavatar3d.config import Strict
from styleavatar3d.gan.fades import Fades


class Schedule(Strict):
    """Growth of the resolution, strength of the gradient penalty, learning rates. Units: thousands of images (kimg).

    Training starts at `start_resolution`; every `grow_kimg` the resolution doubles until it is the model's, and the new
    level fades in over `fade_kimg`. For the first `warm_kimg` generator and encoder learn to reconstruct, without a
    discriminator; then the generator waits for `hold_kimg` (a trained one needs a discriminator that has caught up).
    Rates fall linearly to `final_rate` of themselves over the last `decay_share`.
    """

    kimg: float = Field(gt=0)
    start_resolution: int = 32
    grow_kimg: float = 35.0
    fade_kimg: float = Field(default=10.0, gt=0)
    start_samples: tuple[int, int] = (10, 10)
    samples: tuple[int, int] = (14, 14)
    warm_kimg: float = Field(default=0.0, ge=0)
    hold_kimg: float = Field(default=0.0, ge=0)
    start_penalty: float = 0.1
    penalty: float = 0.5
    decay_share: float = Field(default=0.15, gt=0, le=1)
    final_rate: float = Field(default=0.5, gt=0, le=1)
    fades: Fades = Fades()

    @model_validator(mode="after")
    def _consistent(self):
        if self.start_resolution < 8 or self.start_resolution & (self.start_resolution - 1):
            raise ValueError(f"start_resolution {self.start_resolution} is not a power of two from 8 on")
        return self

    @property
    def images(self) -> int:
        return round(self.kimg * 1000)


class Phase(NamedTuple):
    """The settings in force at one moment: `fade` is the newest level's share, `rate` multiplies learning rates, a
    `warm` step reconstructs, and a `held` generator does not learn; the rest are `Fades`."""

    resolution: int
    fade: float
    samples: tuple[int, int]
    penalty: float
    rate: float
    warm: bool
    held: bool
    blur: float = 0.0
    swap: float = 0.0
    density_noise: float = 0.0
    neural_resolution: int | None = None
    pose_prior: float = 0.0


def phase_at(schedule: Schedule, seen: int, resolution: int) -> Phase:
    """The phase after `seen` images, for a model that ends at `resolution` pixels."""
    kimg = seen / 1000
    doublings = (resolution // schedule.start_resolution).bit_length() - 1
    level = min(int(kimg // schedule.grow_kimg), doublings) if schedule.grow_kimg else doublings
    fade = min((kimg - level * schedule.grow_kimg) / schedule.fade_kimg, 1.0) if level and schedule.grow_kimg else 1.0
    grown = level == doublings
    remaining = (schedule.kimg - kimg) / (schedule.kimg * schedule.decay_share)
    rate = schedule.final_rate + (1 - schedule.final_rate) * min(max(remaining, 0.0), 1.0)
    samples = schedule.samples if grown else schedule.start_samples
    penalty = schedule.penalty if grown else schedule.start_penalty
    warm = kimg < schedule.warm_kimg
    held = not warm and kimg < schedule.warm_kimg + schedule.hold_kimg
    fades, neural = schedule.fades, schedule.fades.neural_resolution
    return Phase(
        schedule.start_resolution * 2**level, fade, samples, penalty, rate, warm, held, blur=fades.blur.at(seen),
        swap=fades.swap.at(seen), density_noise=fades.density_noise.at(seen),
        neural_resolution=neural.whole(seen) if neural else None, pose_prior=fades.pose_prior.at(seen),
    )  # fmt: skip
