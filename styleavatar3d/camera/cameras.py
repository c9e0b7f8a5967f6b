"""Cameras: OpenCV axes (x right, y down, z forward), true angles, and the 25-number label.

The world is right-handed with y up and the face towards +z, so the figure's left is +x. A camera on the orbit at
(yaw, pitch) stands at pivot + radius * (sin yaw cos pitch, sin pitch, cos yaw cos pitch) and looks at the pivot:
yaw +90 is on the figure's left, positive pitch is above. Intrinsics are normalised by the image size.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError

ORBIT_RADIUS = 2.7
FOCAL = 4.2647
"""focal length over image size: a field of view of 13.4 degrees"""

QUARTERS = ("front", "left", "back", "right")
SECTORS = ("front", "front left", "left", "back left", "back", "back right", "right", "front right")
"""names of the eight views, every 45 degrees of yaw from 0; left is the figure's own"""

_MIRRORED = (1, 2, 3, 4, 8)
"""flat indices of entries (0,1) (0,2) (0,3) (1,0) (2,0) of the 4x4, which change sign when x does"""


@dataclass(frozen=True)
class Camera:
    """One pinhole camera: `world_from_camera` [4, 4] and normalised `intrinsics` [3, 3]."""

    world_from_camera: Tensor
    intrinsics: Tensor

    @classmethod
    def orbit(
        cls,
        yaw: float,
        pitch: float = 0.0,
        radius: float = ORBIT_RADIUS,
        focal: float = FOCAL,
        pivot: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Camera":
        """The camera at (yaw, pitch) degrees around the pivot, looking at it, without roll."""
        if not (math.isfinite(yaw) and -90 < pitch < 90 and radius > 0 and focal > 0):
            raise StyleAvatarError(
                "no such orbit camera",
                got=f"yaw {yaw}, pitch {pitch}, radius {radius}, focal {focal}",
                expected="finite yaw, pitch in (-90, 90) degrees, radius > 0, focal > 0",
            )
        yaws, pitches = torch.tensor([float(yaw)]), torch.tensor([float(pitch)])
        return cls.from_label(orbit_labels(yaws, pitches, radius, focal, pivot)[0])

    @classmethod
    def from_label(cls, label: Float[Tensor, "25"]) -> "Camera":
        """The camera a 25-number label describes. Raises if its rotation is none."""
        check_labels(label[None])
        return cls(label[:16].reshape(4, 4).clone(), label[16:].reshape(3, 3).clone())

    def label(self) -> Float[Tensor, "25"]:
        """Row-major world_from_camera, then row-major intrinsics."""
        return torch.cat([self.world_from_camera.reshape(16), self.intrinsics.reshape(9)]).float()

    @property
    def position(self) -> Float[Tensor, "3"]:
        return self.world_from_camera[:3, 3]

    @property
    def yaw(self) -> float:
        """Degrees in [-180, 180), from the viewing direction."""
        return yaw_pitch(self.label()[None])[0].item()

    @property
    def pitch(self) -> float:
        """Degrees; positive when the camera looks down."""
        return yaw_pitch(self.label()[None])[1].item()

    def mirrored(self) -> "Camera":
        """The camera that sees the mirrored world as this one sees the world."""
        return Camera.from_label(mirror_labels(self.label()[None])[0])


def orbit_labels(
    yaw: Float[Tensor, "batch"],
    pitch: Float[Tensor, "batch"],
    radius: float = ORBIT_RADIUS,
    focal: float = FOCAL,
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Float[Tensor, "batch 25"]:
    """Labels of orbit cameras at yaw and pitch in degrees."""
    a, b = torch.deg2rad(yaw.double()), torch.deg2rad(pitch.double())
    outward = torch.stack([a.sin() * b.cos(), b.sin(), a.cos() * b.cos()], 1)
    right = torch.stack([a.cos(), torch.zeros_like(a), -a.sin()], 1)
    down = torch.linalg.cross(-outward, right)
    matrices = torch.eye(4, dtype=torch.double).repeat(len(a), 1, 1)
    matrices[:, :3, 0], matrices[:, :3, 1], matrices[:, :3, 2] = right, down, -outward
    matrices[:, :3, 3] = outward * radius + torch.tensor(pivot, dtype=torch.double)
    intrinsics = torch.tensor([focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1], dtype=torch.double).expand(len(a), 9)
    return torch.cat([matrices.reshape(-1, 16), intrinsics], 1).float()


def yaw_pitch(labels: Float[Tensor, "batch 25"]) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
    """Yaw in [-180, 180) and pitch, in degrees, of the direction from which each camera looks."""
    outward = -labels[:, [2, 6, 10]].double()
    yaw = torch.rad2deg(torch.atan2(outward[:, 0], outward[:, 2]))
    pitch = torch.rad2deg(torch.asin(outward[:, 1].clamp(-1, 1)))
    return torch.where(yaw >= 180, yaw - 360, yaw).float(), pitch.float()


def view_name(yaw: float) -> str:
    """Which of the eight `SECTORS` holds `yaw` (degrees, any turn). A sector holds its lower edge only."""
    return SECTORS[int((yaw + 22.5) % 360.0 // 45.0) % 8]


def quarter_name(yaw: float) -> str:
    """Which of the four `QUARTERS` holds `yaw` (degrees, any turn); "left" shows the figure's left side (yaw +90)."""
    return QUARTERS[int((yaw + 45.0) % 360.0 // 90.0) % 4]


def mirror_labels(labels: Float[Tensor, "batch 25"]) -> Float[Tensor, "batch 25"]:
    """Labels for horizontally flipped images: yaw becomes -yaw."""
    mirrored = labels.clone()
    mirrored[:, list(_MIRRORED)] *= -1
    mirrored[:, 18] = 1 - mirrored[:, 18]
    return mirrored


def check_labels(labels: Float[Tensor, "batch 25"]) -> None:
    """Raise unless every label holds a rigid OpenCV camera with normalised intrinsics."""
    rotation, focal = labels[:, :16].reshape(-1, 4, 4)[:, :3, :3], labels[:, [16, 20]]
    proper = (rotation @ rotation.mT - torch.eye(3)).abs().amax((1, 2)) < 1e-3
    proper &= torch.linalg.det(rotation) > 0
    normalised = ((focal > 0.1) & (focal < 50)).all(1) & labels.isfinite().all(1)
    bad = torch.nonzero(~(proper & normalised)).flatten()
    if len(bad):
        raise StyleAvatarError(
            f"camera label {bad[0].item()} is not a camera",
            got=[round(value, 3) for value in labels[bad[0]].tolist()],
            expected="25 numbers: row-major 4x4 world_from_camera with a rotation, then 3x3 intrinsics over image size",
        )
