"""Neck and head turn in two joints; a generator whose points are led back through them learns figures at rest.

A joint turns every sphere around it within itself: a point in direction d at distance r goes to the direction
rotate(d, share(d, r) * angles), where the share falls smoothly from 1 on the moved side to 0 on the other. Led back, a
point needs its own share only: one number between 0 and 1, of a strictly increasing equation. The share falls over
`FALL` = 80 degrees, 1.5 / 1.396 per radian at most, so up to 45 degrees a turn undoes at most 0.85 of itself: the map
has an inverse everywhere, and is the identity at rest, to the bit.

This takes the place of the nearest-triangle warp of a licensed body model (Portrait3D, method of 3DPortraitGAN).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.camera.cameras import mirror_labels
from styleavatar3d.camera.rotations import rotate
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.backbone import Linear, leaky, pixel_norm

POSE_SIZE = 6
"""A pose: axis times angle (radians) of the neck, then of the head."""
MOST_ANGLE = math.radians(45)
FALL = math.radians(80)
_NEWTON_STEPS = 10


class Joint(NamedTuple):
    """`place` in world units; `along` is the direction of what it moves. Whatever lies within `whole` radians of that
    direction turns as a whole, nearer than radius `near`; farther than `far` it is within `whole_far`."""

    place: tuple[float, float, float]
    along: tuple[float, float, float]
    whole: float
    whole_far: float
    near: float
    far: float


def _forward(degrees: float) -> tuple[float, float, float]:
    return (0.0, math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


NECK = Joint((0.0, -0.2081, -0.0474), _forward(20), math.radians(40), math.radians(40), 0.2, 0.3)
"""Of the parametric head: it moves chin and skull as one, and leaves shoulders and chest alone."""
HEAD = Joint((0.0, -0.0409, -0.0331), _forward(14), math.radians(100), math.radians(50), 0.2, 0.34)
"""It moves the skull with the jaw, which reaches below it; beyond that are shoulders."""


def unpose(points: Float[Tensor, "batch point 3"], poses: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch point 3"]:
    """Points of the posed figure -> where they are on the figure at rest: what the field is read at.

    Gradients reach points and poses (first order).
    """
    neck, head = poses[:, None].chunk(2, 2)
    return _unturned(_unturned(points, neck, NECK), head, HEAD)


def posed(points: Float[Tensor, "batch point 3"], poses: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch point 3"]:
    """Points of the figure at rest -> where they are on the posed figure: the inverse of `unpose`."""
    neck, head = poses[:, None].chunk(2, 2)
    return _turned(_turned(points, head, HEAD), neck, NECK)


def check_poses(poses: Float[Tensor, "batch 6"]) -> None:
    """Raise unless each joint turns by 45 degrees or less; beyond, points have no single place at rest."""
    angles = poses.unflatten(1, (2, 3)).norm(dim=2)
    if not bool((angles <= MOST_ANGLE * (1 + 1e-5)).all()):
        worst = math.degrees(float(angles.nan_to_num(math.inf, math.inf).max()))
        raise StyleAvatarError("the neck or the head turns too far", got=f"{worst:.1f} degrees",
                               expected="45 degrees or less in each of the two joints")  # fmt: skip


def mirror_poses(poses: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 6"]:
    """Poses of the mirrored figure: turns about x stay, those about y and z change sign."""
    return poses * poses.new_tensor((1.0, -1.0, -1.0) * 2)


def _turned(points: Tensor, angles: Tensor, joint: Joint) -> Tensor:
    away = points - points.new_tensor(joint.place)
    return points + (rotate(away, _share(away, joint)[..., None] * angles) - away)


def _unturned(points: Tensor, angles: Tensor, joint: Joint) -> Tensor:
    away = points - points.new_tensor(joint.place)
    with torch.no_grad():
        share, slope = _solve(away, angles, joint)
    # one more Newton step, in the graph: its derivative is that of the exact solution (implicit function theorem)
    share = share - (share - _share(rotate(away, -share[..., None] * angles), joint)) / slope
    return points + (rotate(away, -share[..., None] * angles) - away)


def _share(away: Float[Tensor, "batch point 3"], joint: Joint) -> Float[Tensor, "batch point"]:
    """How much of the joint's turn a point takes part in, at `away` from it."""
    radius = away.square().sum(-1).clamp(min=1e-12).sqrt()
    return _fall(away @ away.new_tensor(joint.along) / radius, _whole(radius, joint))


def _fall(cosine: Tensor, whole: Tensor) -> Tensor:
    """Share at an angle to the joint's direction: 1 within `whole`, 0 from FALL farther on."""
    angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    return _smooth(1 - (angle - whole) / FALL)


def _whole(radius: Tensor, joint: Joint) -> Tensor:
    beyond = _smooth((radius - joint.near) / (joint.far - joint.near))
    return joint.whole + (joint.whole_far - joint.whole) * beyond


def _smooth(share: Tensor) -> Tensor:
    share = share.clamp(0, 1)
    return share * share * (3 - 2 * share)


def _solve(away: Tensor, angles: Tensor, joint: Joint) -> tuple[Tensor, Tensor]:
    """The share of each posed point, and the slope there of its equation share - _share(turned back by share) = 0.

    Turned back by s, the cosine to the joint's direction is A + B cos(s a) + C sin(s a), a = |angles|. Newton's method
    inside a bracket: a step that leaves it is replaced by its middle.
    """
    along, turn = away.new_tensor(joint.along), angles.norm(dim=-1)
    axis = angles / turn.clamp(min=1e-12)[..., None]
    radius = away.square().sum(-1).clamp(min=1e-12).sqrt()
    direction, whole = away / radius[..., None], _whole(radius, joint)
    fixed = (axis @ along) * (axis * direction).sum(-1)
    swung = direction @ along - fixed
    across = -(torch.linalg.cross(axis.expand_as(direction), direction, dim=-1) @ along)

    def equation(share: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (share * turn).cos(), (share * turn).sin()
        cosine = (fixed + swung * cos + across * sin).clamp(-1 + 1e-6, 1 - 1e-6)
        part = (1 - (cosine.acos() - whole) / FALL).clamp(0, 1)
        climb = 6 * part * (1 - part) / (FALL * (1 - cosine * cosine).sqrt())
        return share - _smooth(part), 1 - climb * turn * (across * cos - swung * sin)

    low, high = torch.zeros_like(radius), torch.ones_like(radius)
    share = _fall(direction @ along, whole)
    for _ in range(_NEWTON_STEPS):
        error, slope = equation(share)
        low, high = torch.where(error < 0, share, low), torch.where(error > 0, share, high)
        step = share - error / slope
        share = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return share, equation(share)[1]


# --- poses that are learned, not labelled ---


class PoseHead(nn.Module):
    """A small network whose last layer starts at zero: everybody is at rest until training finds otherwise."""

    def __init__(self, inputs: int, hidden: tuple[int, ...] = (128, 32)):
        super().__init__()
        sizes = (inputs, *hidden)
        self.hidden = nn.ModuleList(Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False))
        self.out = Linear(sizes[-1], POSE_SIZE)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch 6"]:
        """Poses of less than 45 degrees in each joint."""
        for layer in self.hidden:
            x = leaky(layer(x))
        raw = self.out(x).unflatten(1, (2, 3))
        square = raw.square().sum(2, keepdim=True)
        return (raw / (1 + square / MOST_ANGLE**2).sqrt()).flatten(1)


def choose_poses(
    head: PoseHead, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch 25"]
) -> Float[Tensor, "batch 6"]:
    """The pose of each fake. Cameras on the figure's left (x > 0) are looked up in the mirror, so that both sides share
    what is learned: mirrored cameras have mirrored poses, exactly. Inputs of the head: z and 25."""
    left = labels[:, 3:4] > 0
    poses = head(torch.cat([pixel_norm(z), torch.where(left, mirror_labels(labels), labels).to(z)], 1))
    return torch.where(left, mirror_poses(poses), poses)
