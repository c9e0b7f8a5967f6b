"""Where things are on a head, as functions of template coordinates.

Template coordinates are those of the average head before anybody's shape is applied: decimetres, y up, face to +z,
x = 0 the plane of symmetry. What is painted or grown as a function of them follows every identity, needs no texture,
and is the same on both sides because only |x| is read.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

HEAD_CENTRE = torch.tensor([0.0, 7.45, 0.2])
NECK_AXIS = 0.15
"""z of the middle of the neck."""
_JAW = 6.07
"""Height under which there is no more head."""
EYE_CENTRE = (0.318, 7.284)
"""|x| and y of the middle of the opening between the lids."""
SCALP = 6.3
"""Height above which skin counts as head."""

_HAIRLINE_AZIMUTH = torch.tensor([0.0, 25, 40, 50, 57, 63, 70, 85, 100, 125, 150, 180]).deg2rad()
_HAIRLINE_POLAR = torch.tensor([60.0, 58, 63, 74, 95, 97, 88, 93, 112, 128, 138, 141]).deg2rad()


def ramp(value: Tensor, start: float | Tensor, end: float | Tensor) -> Tensor:
    """0 up to `start`, 1 from `end`, linear between."""
    return ((value - start) / (end - start)).clamp(0, 1)


def hairline(azimuth: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
    """Polar angle (radians from straight up) down to which hair grows; azimuth 0 is the forehead."""
    angle = azimuth.abs().clamp(max=math.pi - 1e-4)
    above = torch.bucketize(angle, _HAIRLINE_AZIMUTH.to(angle), right=True)
    left, right = _HAIRLINE_AZIMUTH.to(angle)[above - 1], _HAIRLINE_AZIMUTH.to(angle)[above]
    low, high = _HAIRLINE_POLAR.to(angle)[above - 1], _HAIRLINE_POLAR.to(angle)[above]
    return low + (high - low) * (angle - left) / (right - left)


def scalp_mask(points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """1 above the hairline."""
    x, y, z = (points - HEAD_CENTRE.to(points)).unbind(1)
    polar = torch.acos((y / (x * x + y * y + z * z).sqrt().clamp(min=1e-6)).clamp(-1, 1))
    return ramp(hairline(torch.atan2(x, z)) - polar, -0.02, 0.04) * (points[:, 1] > SCALP)


def below_neckline(points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """How far down and out a point lies beyond the neckline of a shirt, decimetres; negative on bare skin."""
    x, y, z = points.unbind(-1)
    out = z - NECK_AXIS
    reach = (x * x + out * out).sqrt()
    throat = (out / reach.clamp(min=1e-6)).clamp(min=0) ** 2
    return torch.where(y < _JAW, reach + 5.37 - y - 0.5 * throat, -1.0)


def shirt_mask(points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    """1 below the neckline."""
    return ramp(below_neckline(points), -0.015, 0.015)


def beard_mask(points: Float[Tensor, "points 3"], kind: str) -> Float[Tensor, "points"]:
    """1 where a "moustache" or a "full beard" grows."""
    x, y, z = points[:, 0].abs(), points[:, 1], points[:, 2]
    mouth = torch.exp(-((x / 0.28) ** 4) - ((y - 6.61) / 0.09) ** 4) * (z > 1.2)
    lip = ramp(0.38 - x, 0.0, 0.05) * ramp(y, 6.65 - 0.18 * x, 6.69 - 0.18 * x) * ramp(6.87 - 0.25 * x - y, 0.0, 0.03)
    lip = lip * (z > 1.2) * (z < 1.64)
    if kind == "moustache":
        return lip * (1 - mouth)
    jaw = ramp(6.62 + 0.75 * (x - 0.25).clamp(min=0) - y, -0.05, 0.03) * ramp(y, 5.95, 6.05) * ramp(z, 0.5, 0.6)
    chin = ramp(y, 6.0, 6.1) * ramp(6.62 - y, 0.0, 0.05) * (z > 0.9)
    return torch.maximum(lip, torch.maximum(jaw * (y < 7.15), chin)) * (1 - mouth) * (z > 0.45)


def symmetric_bumps(points: Float[Tensor, "... 3"], frequency: float) -> Float[Tensor, "..."]:
    """A lumpy field in [-1, 1], equal on both sides of the head."""
    x, y, z = points.unbind(-1)
    return (x * frequency).cos() * (y * frequency * 1.1 + 1).sin() * (z * frequency * 0.9 + 2).sin()
