"""Body pose that training learns by itself (3DPortraitGAN, section 3.3): small heads on generator and discriminator."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.camera.cameras import mirror_labels
from styleavatar3d.gan.classic_config import CAMERA_NUMBERS
from styleavatar3d.gan.stylegan2 import FullyConnectedLayer

MIRRORED = (1, 2, 4, 5)
"""body-pose numbers that change sign in a mirror: the turns about y and z of neck and head"""


class PoseBranch(nn.Module):
    """Something known of a picture, and its camera -> body pose."""

    def __init__(self, inputs: int, widths: tuple[int, ...], outputs: int):
        super().__init__()
        sizes = (inputs + CAMERA_NUMBERS, *widths)
        layers = [FullyConnectedLayer(i, o, activation="lrelu") for i, o in zip(sizes, widths, strict=False)]
        self.net = nn.Sequential(*layers, FullyConnectedLayer(sizes[-1], outputs))

    def forward(
        self, x: Float[Tensor, "batch input"], labels: Float[Tensor, "batch label"]
    ) -> Float[Tensor, "batch pose"]:
        return self.net(torch.cat([x, labels[:, :CAMERA_NUMBERS].to(x)], 1))


def on_figures_left(labels: Float[Tensor, "batch label"]) -> Tensor:
    """Which cameras stand at x > 0; their poses are learned from the mirrored view."""
    return labels[:, 3] > 0


def mirrored_where(labels: Float[Tensor, "batch label"], mirror: Tensor) -> Float[Tensor, "batch label"]:
    """Labels whose camera is mirrored in the rows marked."""
    cameras = torch.where(mirror[:, None], mirror_labels(labels[:, :CAMERA_NUMBERS]), labels[:, :CAMERA_NUMBERS])
    return torch.cat([cameras, labels[:, CAMERA_NUMBERS:]], 1)


def turned_back(pose: Float[Tensor, "batch pose"], mirror: Tensor) -> Float[Tensor, "batch pose"]:
    """Poses that were predicted from mirrored views in the rows marked, as those of the views themselves."""
    signs = torch.ones_like(pose)
    signs[:, [index for index in MIRRORED if index < pose.shape[1]]] = -1
    return torch.where(mirror[:, None], pose * signs, pose)
