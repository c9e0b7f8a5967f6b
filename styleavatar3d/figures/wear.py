"""Things worn: glasses and, for aliens, antennae. Template coordinates, decimetres."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.figures.shapes import Mesh, ball, disc, merge, mirrored, tube

RIM = 0.27
_WIRE = 0.036


def glasses(eye: Float[Tensor, "3"], ear: Float[Tensor, "3"], front: float) -> tuple[Mesh, Mesh]:
    """Round frames and their lenses for a left eye and ear; `front` is the z of the lens plane."""
    angle = torch.linspace(0, 2 * math.pi, 25)[:-1]
    radius = min(RIM, float(eye[0]) - 0.05)
    x, y = eye[0] + radius * angle.cos(), eye[1] - 0.02 + radius * angle.sin()
    rim = torch.stack([x, y, front - 0.1 * ((x - 0.1) / 0.5) ** 2], 1)
    closed = torch.cat([rim, rim[:2]])
    outer = float(eye[0]) + radius
    hinge = torch.tensor([outer, float(eye[1]) + 0.04, float(rim[:, 2].min())])
    over_ear = ear + torch.tensor([-0.06, 0.12, 0.1])
    bend = torch.stack([ear[0] - 0.02, hinge[1], (hinge[2] + over_ear[2]) / 2])
    side = merge(tube(closed, _WIRE), tube(torch.stack([hinge, bend, over_ear]), _WIRE))
    inner = float(eye[0]) - radius
    arch = torch.linspace(-1, 1, 5)
    bridge = torch.stack([inner * arch, float(eye[1]) + 0.05 - 0.04 * arch**2, front + 0.03 - 0.02 * arch**2], 1)
    lens = disc(rim)
    return merge(side, mirrored(side), tube(bridge, _WIRE)), merge(lens, mirrored(lens))


def antennae() -> Mesh:
    """A pair of stalks with knobs."""
    path = torch.tensor([[0.38, 8.1, 0.55], [0.5, 8.5, 0.62], [0.66, 8.8, 0.66]])
    side = merge(tube(path, 0.075), ball((0.68, 8.86, 0.67), 0.16, 8))
    return merge(side, mirrored(side))
