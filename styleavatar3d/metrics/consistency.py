"""Is what a generator shows one solid figure, seen from where it was asked for? Measures of tensors, each with bounds.

Angles are degrees, depths are distances along unit rays in world units, masks say where the figure is. Whoever reads
pose, face or identity off a picture is the caller's choice and belongs beside the number.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.camera.rays import rays
from styleavatar3d.metrics.alignment import BACK

_WHOLE = 1 - 1e-4
"""Weight from which all pixels around a point belong to the figure."""


class Pose(NamedTuple):
    """From where a picture is seen; NaN where it cannot be told."""

    yaw: Float[Tensor, "batch"]
    pitch: Float[Tensor, "batch"]


@runtime_checkable
class PoseReader(Protocol):
    """Pictures in [-1, 1] -> their cameras' angles; `name` says which network read them."""

    name: str

    def __call__(self, images: Float[Tensor, "batch 3 size size"]) -> Pose: ...


class PoseErrors(NamedTuple):
    """Degrees between where a picture is seen from and where it was asked from; NaN where the reader cannot tell."""

    yaw: Float[Tensor, "batch"]
    """In [0, 180]."""
    pitch: Float[Tensor, "batch"]
    """In [0, 180]."""
    pose: Float[Tensor, "batch"]
    """Angle between both viewing directions, in [0, 180]."""


def pose_errors(found: Pose, labels: Float[Tensor, "batch 25"]) -> PoseErrors:
    """How far views are turned from the cameras that were asked for."""
    yaw, pitch = yaw_pitch(labels)
    apart = (_direction(found.yaw, found.pitch) - _direction(yaw, pitch)).norm(dim=1)
    pose = torch.rad2deg(2 * torch.asin((apart / 2).clamp(max=1)))
    return PoseErrors(turned(found.yaw, yaw), (found.pitch - pitch).abs(), pose.to(yaw))


def turned(found: Float[Tensor, "batch"], asked: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """Degrees between two yaws the short way round, in [0, 180]."""
    return ((found - asked + 180) % 360 - 180).abs()


def depth_error(
    depth: Float[Tensor, "batch size size"],
    truth: Float[Tensor, "batch size size"],
    mask: Bool[Tensor, "batch size size"],
    shown: Bool[Tensor, "batch size size"],
) -> Float[Tensor, "batch"]:
    """Median distance between a depth map and the true one, where both show the figure; world units, 0 is best.

    Nothing is moved or scaled to fit: both live in one world. Infinite where the two do not overlap at all.
    """
    apart = torch.where(mask & shown, (depth - truth).abs(), torch.nan).flatten(1)
    return apart.nanmedian(1).values.nan_to_num(torch.inf)


def overlap(mask: Bool[Tensor, "batch size size"], shown: Bool[Tensor, "batch size size"]) -> Float[Tensor, "batch"]:
    """Intersection over union of two silhouettes, in [0, 1]; 1 is best, and what two empty ones have."""
    both, either = (mask & shown).flatten(1).sum(1), (mask | shown).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


class DepthView(NamedTuple):
    """What one camera sees of each figure of a batch."""

    depth: Float[Tensor, "batch size size"]
    """Along unit rays, world units; anything where `mask` is false."""
    mask: Bool[Tensor, "batch size size"]
    labels: Float[Tensor, "batch 25"]


def cross_view_depth_error(here: DepthView, there: DepthView) -> Float[Tensor, "batch"]:
    """Median gap, world units, between the surface `there` and the points seen `here`, along the rays of `there`.

    Each pixel here becomes a point of the world, which the camera there sees in some place at some distance; its depth
    map says what it should be. 0 is best; points hidden there count as wrong, so views should be near each other (the
    median bears less than half of them). NaN where no point meets the other silhouette.
    """
    place, distance = _seen_from(_points(here), there.labels)
    grid = 2 * place - 1
    solid = there.mask[:, None].to(distance)
    known = torch.where(there.mask, there.depth, 0.0)[:, None]
    found, weight = (
        F.grid_sample(maps.to(distance), grid, align_corners=False, padding_mode="zeros")[:, 0].flatten(1)
        for maps in (known, solid)
    )
    met = here.mask.flatten(1) & (weight > _WHOLE)
    return torch.where(met, (found - distance.flatten(1)).abs(), torch.nan).nanmedian(1).values


class Identity(NamedTuple):
    """Mean cosines between features of two different views, in [-1, 1], and how well they tell avatars apart."""

    same: float
    """Both views of one avatar; 1 is best."""
    others: float
    """The same two views, of two avatars: what everybody has in common."""
    told_apart: float
    """How often two views of one avatar are nearer than one of them is to the same view of another: in [0, 1]; 1 is
    best, 0.5 chance."""


def identity_consistency(features: Float[Tensor, "avatars views width"]) -> Identity:
    """Do views of one avatar look alike, beside what any two look alike? At least two avatars and two views."""
    unit = F.normalize(features.double(), dim=-1)
    cosine = torch.einsum("avw,bxw->vxab", unit, unit)
    count, views = len(features), features.shape[1]
    cosine = cosine[~torch.eye(views, dtype=torch.bool, device=features.device)]  # [pairs of views, a, b]
    same = cosine.diagonal(dim1=1, dim2=2)
    stranger = ~torch.eye(count, dtype=torch.bool, device=features.device)
    nearer = (same[:, :, None] > cosine).double() + 0.5 * (same[:, :, None] == cosine)
    return Identity(same.mean().item(), cosine[:, stranger].mean().item(), nearer[:, stranger].mean().item())


def back_face_score(face: Float[Tensor, "batch"], yaw: Float[Tensor, "batch"]) -> float:
    """Mean probability of a face in views from behind (|yaw| >= 135); in [0, 1], 0 is best. NaN without such views."""
    return face[yaw.abs() >= BACK].double().mean().item()


def mirroring(
    front: Float[Tensor, "batch channels size size"],
    back: Float[Tensor, "batch channels size size"],
    front_mask: Bool[Tensor, "batch size size"],
    back_mask: Bool[Tensor, "batch size size"],
) -> Float[Tensor, "batch"]:
    """How much the view from behind repeats the front, mirrored: correlation of their details, in [-1, 1].

    `back` is seen from the yaw of `front` + 180 at pitch 0, so that z -> -z maps one view onto the mirror of the other:
    1 is a face on the back, 0 nothing in common, as views without any detail. Detail is what differs from its
    surroundings, else the light on any two round things would correlate.
    """
    common = (front_mask.flip(-1) & back_mask)[:, None].to(front)
    details = [_detail(maps, common).flatten(1).double() for maps in (front.flip(-1), back)]
    product, *powers = ((x * y).sum(1) for x, y in ((details[0], details[1]), *((x, x) for x in details)))
    return torch.where(powers[0] * powers[1] > 0, product / (powers[0] * powers[1]).sqrt(), 0.0).to(front)


def _detail(maps: Tensor, mask: Tensor) -> Tensor:
    """What differs from the mean over its surroundings on the figure, an eighth of the picture wide; 0 outside."""
    side = maps.shape[-1] // 8 * 2 + 1
    total, weight = (F.avg_pool2d(x, side, 1, side // 2) for x in (maps * mask, mask))
    return (maps - total / weight.clamp(min=1e-6)) * mask


def _direction(yaw: Tensor, pitch: Tensor) -> Float[Tensor, "batch 3"]:
    a, b = torch.deg2rad(yaw.double()), torch.deg2rad(pitch.double())
    return torch.stack([a.sin() * b.cos(), b.sin(), a.cos() * b.cos()], 1)


def _points(view: DepthView) -> Float[Tensor, "batch size size 3"]:
    """The world point that each pixel sees; the camera itself where there is nothing."""
    origins, directions = rays(view.labels, view.depth.shape[-1])
    depth = torch.where(view.mask, view.depth, 0.0)
    return origins.unflatten(1, depth.shape[1:]) + depth[..., None] * directions.unflatten(1, depth.shape[1:])


def _seen_from(
    points: Float[Tensor, "batch size size 3"], labels: Float[Tensor, "batch 25"]
) -> tuple[Float[Tensor, "batch size size 2"], Float[Tensor, "batch size size"]]:
    """Right and down over the picture's size in [0, 1], and distance from the camera; far outside if behind it."""
    world_from_camera, intrinsics = labels[:, :16].view(-1, 4, 4), labels[:, 16:].view(-1, 3, 3)
    away = points - world_from_camera[:, None, None, :3, 3]
    in_camera = torch.einsum("bhwi,bij->bhwj", away, world_from_camera[:, :3, :3])
    projected = torch.einsum("bhwj,bij->bhwi", in_camera, intrinsics)
    front = in_camera[..., 2:] > 0
    place = torch.where(front, projected[..., :2] / projected[..., 2:], torch.full_like(projected[..., :2], -9.0))
    return place, away.norm(dim=-1)
