"""What the discriminator is told about the camera, above all the coarse-to-fine view label (StyleAvatar3D section 3.3).

A synthesised view often disagrees with its camera, most of all from the side and the back. So the label is a pair of
one-hot codes, fine and coarse, of which exactly one is kept: mostly the fine one near the front, mostly the coarse one
elsewhere. The paper's bin counts and probabilities are not public; the values here are ours.

Beside it stand what others do: no label, the camera's 25 numbers, and those with noise (EG3D).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor

from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.config import Strict

Kind = Literal["none", "camera", "noisy camera", "coarse-to-fine"]
CAMERA_SIZE = 25
LABEL_DRAWS = CAMERA_SIZE
"""Uniform numbers that the label of one image may need."""


class LabelConfig(Strict):
    """What the discriminator is told, and the bins and probabilities of the view label (the paper's N_group, p_h, p_l
    and confident views); angles in degrees, bins half-open."""

    kind: Kind = "coarse-to-fine"
    noise: float = Field(default=1.0, ge=0)
    """of "noisy camera", in standard deviations of the data's labels"""
    fine_yaw_bins: int = Field(default=36, ge=1)
    fine_pitch_bins: int = Field(default=5, ge=1)
    coarse_yaw_bins: int = Field(default=4, ge=1)
    coarse_pitch_bins: int = Field(default=1, ge=1)
    lowest_pitch: float = -30.0
    pitch_span: float = Field(default=60.0, gt=0)
    confident_yaw: float = Field(default=45.0, ge=0, le=180)
    keep_fine_confident: float = Field(default=0.9, ge=0, le=1)
    keep_fine_elsewhere: float = Field(default=0.2, ge=0, le=1)
    wrong_camera: float = Field(default=0.0, ge=0)
    """weight of reals shown with another's camera as fakes; 0 leaves them out"""
    wrong_yaw: float = Field(default=90.0, gt=0, lt=180)
    """least difference in yaw between a camera and one that is wrong in its place"""

    @model_validator(mode="after")
    def _consistent(self):
        if self.wrong_camera and self.kind == "none":
            raise ValueError("wrong_camera needs a label that tells cameras apart: kind is none")
        if self.wrong_camera and self.kind == "coarse-to-fine" and self.wrong_yaw * self.coarse_yaw_bins < 360:
            raise ValueError(f"wrong_yaw {self.wrong_yaw:g} is narrower than a coarse bin: a wrong label could be true")
        return self

    @property
    def fine_size(self) -> int:
        return self.fine_yaw_bins + self.fine_pitch_bins

    @property
    def size(self) -> int:
        """Numbers in a label."""
        if self.kind == "coarse-to-fine":
            return self.fine_size + self.coarse_yaw_bins + self.coarse_pitch_bins
        return 0 if self.kind == "none" else CAMERA_SIZE


def label_codes(
    labels: Float[Tensor, "batch 25"],
    draws: Float[Tensor, "batch 25"],
    config: LabelConfig,
    spread: Float[Tensor, "25"],
) -> Float[Tensor, "batch code"]:
    """What the discriminator is told of each camera: [batch, config.size].

    `draws` are uniform numbers in [0, 1), keyed by the image; `spread` is the standard deviation of each number over
    the data's labels. Reals and fakes go through this same function, or the discriminator could tell them apart by the
    kind of label alone.
    """
    if config.kind == "coarse-to-fine":
        return view_labels(labels, draws[:, 0], config)
    if config.kind == "noisy camera":
        return labels + torch.special.ndtri(draws.clamp(1e-6, 1 - 1e-6)) * spread * config.noise
    return labels if config.kind == "camera" else labels[:, :0]


def wrong_cameras(
    labels: Float[Tensor, "batch 25"], group: int, config: LabelConfig
) -> tuple[Float[Tensor, "batch 25"], Bool[Tensor, "batch"]]:
    """Each image's neighbour's camera, and whether it is wrong for the image: `wrong_yaw` or more away.

    Neighbours are taken within runs of `group` images, so that the number of processes changes nothing; a permutation
    leaves the distribution of cameras as it is, so labels alone tell the discriminator nothing.
    """
    others = labels.unflatten(0, (-1, group)).roll(1, 1).flatten(0, 1)
    away = (yaw_pitch(labels)[0] - yaw_pitch(others)[0]).abs()
    return others, torch.minimum(away, 360 - away) >= config.wrong_yaw


def view_one_hot(
    yaw: Float[Tensor, "batch"], pitch: Float[Tensor, "batch"], yaw_bins: int, pitch_bins: int, config: LabelConfig
) -> Float[Tensor, "batch code"]:
    """One-hot of the yaw bin (the first is centred on the front) joined with one-hot of the pitch bin."""
    width = 360 / yaw_bins
    column = ((yaw + width / 2) % 360 / width).long() % yaw_bins
    row = ((pitch - config.lowest_pitch) / config.pitch_span * pitch_bins).floor().long().clamp(0, pitch_bins - 1)
    hot = torch.nn.functional.one_hot
    return torch.cat([hot(column, yaw_bins), hot(row, pitch_bins)], 1).float()


def view_labels(
    labels: Float[Tensor, "batch 25"], draws: Float[Tensor, "batch"], config: LabelConfig
) -> Float[Tensor, "batch code"]:
    """Fine || coarse code of each camera with one half zeroed.

    `draws` are uniform numbers in [0, 1), keyed by the image.
    """
    yaw, pitch = yaw_pitch(labels)
    fine = view_one_hot(yaw, pitch, config.fine_yaw_bins, config.fine_pitch_bins, config)
    coarse = view_one_hot(yaw, pitch, config.coarse_yaw_bins, config.coarse_pitch_bins, config)
    confident = yaw.abs() <= config.confident_yaw
    keep = torch.where(confident, config.keep_fine_confident, config.keep_fine_elsewhere)
    fine_kept = (draws < keep)[:, None].to(fine)
    return torch.cat([fine * fine_kept, coarse * (1 - fine_kept)], 1)
