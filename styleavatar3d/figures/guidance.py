"""Pictures that tell a diffusion model where the figure is: depth, key points, and both in one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.heads import Figure
from styleavatar3d.figures.keypoints import draw, locate
from styleavatar3d.figures.rasterize import GBuffer, rasterize


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


def coverage(buffer: GBuffer, supersample: int) -> Float[Tensor, "views size size"]:
    """Share of each pixel that the figure covers."""
    return shrink(buffer.image(torch.ones_like(buffer.distance), 0.0), supersample)


def mean_depth(buffer: GBuffer, supersample: int) -> Float[Tensor, "views size size"]:
    """Mean distance of what covers each pixel, world units; inf where nothing does."""
    share = coverage(buffer, supersample)
    total = shrink(buffer.image(buffer.distance, 0.0), supersample)
    return torch.where(share > 0, total / share.clamp(min=1e-6), torch.inf)


def shrink(image: Tensor, factor: int) -> Tensor:
    """Mean over blocks of `factor` x `factor` pixels of [views, height, width] or [views, height, width, channels]."""
    views, height, width, *channels = image.shape
    blocks = image.reshape(views, height // factor, factor, width // factor, factor, *channels)
    return blocks.mean((2, 4))


def depth_guidance(
    depth: Float[Tensor, "views size size"], labels: Float[Tensor, "views 25"]
) -> UInt8[Tensor, "views size size 3"]:
    """Inverse distance along the camera's axis, stretched over each silhouette: near is 255, background 0."""
    from styleavatar3d.camera.rays import rays

    size = depth.shape[-1]
    _, directions = rays(labels.to(depth), size)
    axis = labels[:, [2, 6, 10]].to(depth)
    z = depth * (directions @ axis[..., None]).view(depth.shape)
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
    """Key points drawn over depth; the last dimension is the colour."""
    return torch.where((keypoints_rgb > 0).any(-1, keepdim=True), keypoints_rgb, depth_rgb)


def guide(figure: Figure, camera: Camera, size: int, supersample: int = 2) -> GuidedView:
    """Depth, mask and key points of one view, `size` pixels square."""
    check_size(size, supersample)
    label = camera.label()[None]
    buffer = rasterize(figure.vertices, figure.faces, label, size * supersample, figure.closed)
    return guided_views(figure, buffer, label, supersample)[0]


def guided_views(
    figure: Figure, buffer: GBuffer, labels: Float[Tensor, "views 25"], supersample: int
) -> list[GuidedView]:
    """Guidance from an already rasterised figure."""
    size = buffer.size // supersample
    depth = mean_depth(buffer, supersample)
    mask = to_uint8(coverage(buffer, supersample) * 255)
    depth_rgb = depth_guidance(depth, labels)
    xy, visible = locate(figure, labels)
    drawn = to_uint8(draw(xy, visible, size))
    return [GuidedView(*view) for view in zip(depth_rgb, drawn, mask, depth, xy * size, visible, strict=True)]


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
