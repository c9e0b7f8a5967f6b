"""Cameras that training may correct: data whose labels are off are rendered from where they were really seen.

Two forms: a shift of the camera (PanoHead's self-adaptive camera), and a whole residual: yaw, pitch, roll and scale.
The generator's picture is rendered from the corrected camera; the discriminator is told the label of the data, so the
correction learns how such a label misleads. It starts at none, and `losses.batch_mean_penalty` keeps it from drifting.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from styleavatar3d.camera.rotations import rotations
from styleavatar3d.config import Strict
from styleavatar3d.gan.backbone import Linear, leaky, pixel_norm


class CorrectionConfig(Strict):
    """Which correction is learned, and its largest size; angles in degrees, distances in world units."""

    kind: Literal["none", "shift", "full"] = "none"
    width: int = Field(default=32, ge=1)
    most_shift: float = Field(default=0.1, gt=0)
    most_angle: float = Field(default=15.0, gt=0, lt=90)
    most_scale: float = Field(default=0.2, gt=0)
    """powers of two"""

    def limits(self) -> list[float]:
        """Of what `CameraCorrection` returns."""
        angle = math.radians(self.most_angle)
        return {"none": [], "shift": [self.most_shift] * 3, "full": [angle] * 3 + [self.most_scale]}[self.kind]


class CameraCorrection(nn.Module):
    """Latent and camera -> correction: three numbers for a shift, four for yaw, pitch, roll (radians) and scale
    (powers of two). An untrained one corrects nothing."""

    limits: Tensor

    def __init__(self, z_dim: int, config: CorrectionConfig):
        super().__init__()
        self.config = config
        self.hidden = Linear(z_dim + 25, config.width)
        self.out = Linear(config.width, len(config.limits()))
        nn.init.zeros_(self.out.weight)
        self.register_buffer("limits", torch.tensor(config.limits()), persistent=False)

    def forward(self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch 25"]) -> Float[Tensor, "batch number"]:
        x = torch.cat([pixel_norm(z), labels.to(z)], 1)
        return torch.tanh(self.out(leaky(self.hidden(x)))) * self.limits


def corrected(
    labels: Float[Tensor, "batch 25"], correction: Float[Tensor, "batch number"]
) -> Float[Tensor, "batch 25"]:
    """Labels with a correction of three numbers (`shifted`) or four (`turned`)."""
    return shifted(labels, correction) if correction.shape[1] == 3 else turned(labels, correction)


def shifted(labels: Float[Tensor, "batch 25"], offset: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 25"]:
    """Cameras moved by `offset` in the world."""
    pose, rest = labels[:, :12].unflatten(1, (3, 4)), labels[:, 12:]
    moved = torch.cat([pose[..., :3], pose[..., 3:] + offset[..., None]], 2)
    return torch.cat([moved.flatten(1), rest], 1)


def turned(labels: Float[Tensor, "batch 25"], residual: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 25"]:
    """Cameras led around the origin by yaw (to the figure's left) and pitch (upwards), rolled (their picture turns
    anticlockwise), and with a picture 2^scale as large about the principal point."""
    yaw, pitch, roll, scale = residual[..., None].unbind(1)
    none = torch.zeros_like(yaw)
    led = rotations(torch.cat([none, yaw, none], 1)) @ labels[:, :12].unflatten(1, (3, 4))
    raised = rotations(-pitch * led[:, :, 0]) @ led
    rolled = raised[..., :3] @ rotations(torch.cat([none, none, roll], 1))
    pose = torch.cat([rolled, raised[..., 3:]], 2).flatten(1)
    size, one = torch.exp2(scale), torch.ones_like(scale)
    intrinsics = labels[:, 16:] * torch.cat([size, size, one, size, size, one, one, one, one], 1)
    return torch.cat([pose, labels[:, 12:16], intrinsics], 1)


def mirror_correction(correction: Float[Tensor, "batch number"]) -> Float[Tensor, "batch number"]:
    """The correction that does to mirrored cameras what this one does to cameras."""
    signs = (-1.0, 1.0, 1.0) if correction.shape[1] == 3 else (-1.0, 1.0, -1.0, 1.0)
    return correction * correction.new_tensor(signs)
