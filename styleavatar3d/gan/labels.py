"""The discriminator's coarse-to-fine view label (StyleAvatar3D section 3.3).

A synthesised view often disagrees with its camera, most of all from the side and the back. So the label is a pair of
one-hot codes, fine and coarse, of which exactly one is kept: mostly the fine one near the front, mostly the coarse one
elsewhere. The paper's bin counts and probabilities are not public; the values here are ours.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.config import Strict


class LabelConfig(Strict):
    """Bins and probabilities of the view label; angles in degrees, bins half-open."""

    fine_yaw_bins: int = 36
    fine_pitch_bins: int = 5
    coarse_yaw_bins: int = 4
    coarse_pitch_bins: int = 1
    lowest_pitch: float = -30.0
    pitch_span: float = 60.0
    confident_yaw: float = 45.0
    keep_fine_confident: float = 0.9
    keep_fine_elsewhere: float = 0.2

    @property
    def fine_size(self) -> int:
        return self.fine_yaw_bins + self.fine_pitch_bins

    @property
    def size(self) -> int:
        return self.fine_size + self.coarse_yaw_bins + self.coarse_pitch_bins


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

    `draws` are uniform numbers in [0, 1), keyed by the image; reals and fakes go through this same function, or the
    discriminator could tell them apart by the kind of label alone.
    """
    yaw, pitch = yaw_pitch(labels)
    fine = view_one_hot(yaw, pitch, config.fine_yaw_bins, config.fine_pitch_bins, config)
    coarse = view_one_hot(yaw, pitch, config.coarse_yaw_bins, config.coarse_pitch_bins, config)
    confident = yaw.abs() <= config.confident_yaw
    keep = torch.where(confident, config.keep_fine_confident, config.keep_fine_elsewhere)
    fine_kept = (draws < keep)[:, None].to(fine)
    return torch.cat([fine * fine_kept, coarse * (1 - fine_kept)], 1)
