"""Pictures that tell a diffusion model where the figure is: depth, key points, and both in one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.heads import Figure
from styleavatar3d.figures.keypoints import draw, locate
from styleavatar3d.figures.rasterize import GBuffer, rasterize, ray_stretch


@dataclass(frozen=True)
class GuidedView:
    """Guidance of one view of a figure."""

    depth_rgb: UInt8[Tensor, "size size 3"]
    keypoints_rgb: UInt8[Tensor, "size size 3"]
    mask: UInt8[Tensor, "size size"]
    """Coverage, 0..255."""
    depth: Float[Tensor, "size size"]
    """Distance along the unit ray, world units; inf where the mask is 0."""
    keypoints: Float[Tensor, "points 2"]
    """Pixels, in the order of `keypoints.POINTS`."""
    visible: Bool[Tensor, "points"]


def silhouette(
    buffer: GBuffer, supersample: int
) -> tuple[Float[Tensor, "views size size"], Float[Tensor, "views size size"]]:
    """Share of each pixel that the figure covers, and `mean_depth`."""
    values = torch.stack([torch.ones_like(buffer.distance), buffer.distance], 1)
    share, distance = buffer.blocks(values, supersample, 0.0).mean(0).unbind(-1)
    return share, where_covered(distance, share)


def mean_depth(buffer: GBuffer, supersample: int) -> Float[Tensor, "views size size"]:
    """Mean distance of what covers each pixel, world units; inf where nothing does."""
    return silhouette(buffer, supersample)[1]


def where_covered(
    distance: Float[Tensor, "views size size"], share: Float[Tensor, "views size size"]
) -> Float[Tensor, "views size size"]:
    """The mean over what is covered, from a mean that counts empty samples as 0; inf where nothing is covered."""
    return torch.where(share > 0, distance / share.clamp(min=1e-6), torch.inf)


def depth_guidance(
    depth: Float[Tensor, "views size size"], labels: Float[Tensor, "views 25"]
) -> UInt8[Tensor, "views size size 3"]:
    """Inverse distance along the camera's axis, stretched over each silhouette: near is 255, background 0."""
    z = depth / ray_stretch(labels.to(depth), depth.shape[-1])
    inverse, seen = 1 / z, z.isfinite()
    low = torch.where(seen, inverse, torch.inf).amin((1, 2), keepdim=True)
    high = torch.where(seen, inverse, -torch.inf).amax((1, 2), keepdim=True)
    grey = torch.where(seen, (inverse - low) / (high - low).clamp(min=1e-9), 0.0)
    return to_uint8(grey * 255)[..., None].expand(*depth.shape, 3)


def keypoint_guidance(
    figure: Figure, labels: Float[Tensor, "views 25"], size: int
) -> UInt8[Tensor, "views size size 3"]:
    """The visible key points in the colours that ControlNet was taught."""
    return to_uint8(draw(*locate(figure, labels), size))


def hybrid(depth_rgb: UInt8[Tensor, "..."], keypoints_rgb: UInt8[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Key points over depth, for people to look at: models get each kind by itself. The last dimension is colour."""
    return torch.where((keypoints_rgb > 0).any(-1, keepdim=True), keypoints_rgb, depth_rgb)


def guide(figure: Figure, camera: Camera, size: int, supersample: int = 2) -> GuidedView:
    """Depth, mask and key points of one view, `size` pixels square."""
    check_size(size, supersample)
    label = camera.label()[None].to(figure.vertices)
    buffer = rasterize(figure.vertices, figure.faces, label, size * supersample, figure.closed)
    return guided_views(figure, label, *silhouette(buffer, supersample))[0]


def guided_views(
    figure: Figure,
    labels: Float[Tensor, "views 25"],
    share: Float[Tensor, "views size size"],
    depth: Float[Tensor, "views size size"],
) -> list[GuidedView]:
    """Guidance from the silhouettes of an already rasterised figure."""
    size = depth.shape[-1]
    xy, visible = locate(figure, labels)
    drawn = to_uint8(draw(xy, visible, size))
    views = (depth_guidance(depth, labels), drawn, to_uint8(share * 255), depth, xy * size, visible)
    return [GuidedView(*view) for view in zip(*views, strict=True)]


def to_uint8(values: Tensor) -> UInt8[Tensor, "..."]:
    """Round 0..255 to bytes."""
    return values.round().clamp(0, 255).to(torch.uint8)


def check_size(size: int, supersample: int) -> None:
    if not (8 <= size <= 2048 and 1 <= supersample <= 8):
        raise StyleAvatarError(
            "no picture of that size",
            got=f"size {size}, supersample {supersample}",
            expected="size in 8..2048, supersample in 1..8",
        )
