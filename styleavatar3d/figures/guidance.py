"""Pictures that tell a diffusion model where the figure is, each as public ControlNets were taught to read it.

`docs/guidance.md` says for every kind what its values mean and which networks read it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import beard_mask, shirt_mask
from styleavatar3d.figures.edges import canny, exposed, lit, shadows, soft_edges, tones
from styleavatar3d.figures.heads import HAIR, SHIRT, SKIN, Bust, Figure
from styleavatar3d.figures.keypoints import draw, locate
from styleavatar3d.figures.openpose import openpose_guidance
from styleavatar3d.figures.rasterize import GBuffer, rasterize, ray_stretch

NO_PART = 13
PART_COLORS = (
    (230, 170, 140), (255, 255, 255), (40, 20, 60), (120, 60, 20), (40, 90, 200), (20, 160, 160), (60, 60, 90),
    (160, 220, 60), (250, 240, 170), (170, 20, 40), (240, 130, 0), (200, 190, 110), (150, 150, 170), (0, 0, 0),
)  # fmt: skip
"""Skin, eye, lash, hair, shirt, frame, lens, antenna, teeth, mouth, hat, tusk, metal (as numbered in `heads`), nothing.
Our own: there is no public ControlNet for the parts of a head."""
PERSON, WALL = (150, 5, 61), (120, 120, 120)
"""ADE20K's colours for the two of its 150 classes that a figure before nothing has."""


@dataclass(frozen=True)
class GuidedView:
    """Guidance of one view of a figure."""

    pictures: dict[str, UInt8[Tensor, "size size 3"]]
    """By kind, one of `KINDS`."""
    mask: UInt8[Tensor, "size size"]
    """Coverage, 0..255."""
    depth: Float[Tensor, "size size"]
    """Distance along the unit ray, world units; inf where the mask is 0."""
    keypoints: Float[Tensor, "points 2"]
    """Pixels, in the order of `keypoints.POINTS`."""
    visible: Bool[Tensor, "points"]


@dataclass
class Sight:
    """A rasterised figure, and what several kinds of guidance read of it, found when it is first asked for."""

    figure: Figure
    labels: Float[Tensor, "views 25"]
    buffer: GBuffer
    supersample: int

    @property
    def size(self) -> int:
        return self.buffer.size // self.supersample

    @cached_property
    def silhouette(self) -> tuple[Float[Tensor, "views size size"], Float[Tensor, "views size size"]]:
        """Share of each pixel that the figure covers, and the mean distance of it."""
        return silhouette(self.buffer, self.supersample)

    @cached_property
    def canonical(self) -> Float[Tensor, "covered 3"]:
        return self.buffer.interpolate(self.figure.canonical)

    @cached_property
    def parts(self) -> Int[Tensor, "covered"]:
        """Ids of `heads`; what is painted on the skin, a shirt or a beard, told apart."""
        parts = self.figure.parts[self.buffer.face]
        beard = self.figure.look.beard if isinstance(self.figure, Bust) else "none"
        skin = parts == SKIN
        if beard != "none":
            parts = torch.where(skin & (beard_mask(self.canonical, beard) > 0.5), HAIR, parts)
        return torch.where(skin & (shirt_mask(self.canonical) > 0.5), SHIRT, parts)

    @cached_property
    def normals(self) -> Float[Tensor, "covered 3"]:
        """In the axes of the camera (x right, y down, z away from it); surfaces seen from behind are turned round."""
        outward = unit(self.buffer.interpolate(self.figure.normals))
        outward = outward * (1 - 2 * self.buffer.behind.to(outward))[:, None]
        world_from_camera = self.labels[:, :16].view(-1, 4, 4)[:, :3, :3]
        if len(world_from_camera) == 1:
            return outward @ world_from_camera[0]
        return torch.einsum("ni,nij->nj", outward, world_from_camera[self.buffer.view])

    @cached_property
    def grey(self) -> Float[Tensor, "views size size"]:
        """`edges.lit` and its `shadows`, 0..1, before white."""
        colors = self.figure.albedo(self.buffer)
        tone = tones(self.parts, self.canonical) if colors is None else exposed(colors)
        picture = self.buffer.blocks(lit(tone, -self.normals[:, 2]), self.supersample, 1.0).mean(0)
        share, depth = self.silhouette
        return picture * (1 - share * shadows(depth))


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


def _depth(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    return depth_guidance(sight.silhouette[1], sight.labels)


def _keypoints(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    return keypoint_guidance(sight.figure, sight.labels, sight.size)


def _normals(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    """Red is left, green is up, blue is towards the camera; what the figure does not cover faces the camera."""
    mean = sight.buffer.blocks(sight.normals, sight.supersample, 0.0).mean(0)
    mean[..., 2] -= 1 - sight.silhouette[0]
    return to_uint8(127.5 * (1 - unit(mean)))


def _openpose(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    return to_uint8(openpose_guidance(sight.figure, sight.labels, sight.size))


def _canny(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    return _as_rgb(torch.stack([canny(255 * picture) for picture in sight.grey]).to(torch.uint8) * 255)


def _softedge(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    return _as_rgb(to_uint8(255 * soft_edges(sight.grey)))


def _parts(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    """The part that covers most of a pixel."""
    ids = sight.buffer.blocks(sight.parts.to(torch.uint8), sight.supersample, NO_PART).mode(0).values
    return torch.tensor(PART_COLORS, dtype=torch.uint8, device=ids.device)[ids.long()]


def _seg(sight: Sight) -> UInt8[Tensor, "views size size 3"]:
    palette = torch.tensor((WALL, PERSON), dtype=torch.uint8, device=sight.labels.device)
    return palette[(sight.silhouette[0] > 0.5).long()]


def _as_rgb(grey: UInt8[Tensor, "views size size"]) -> UInt8[Tensor, "views size size 3"]:
    return grey[..., None].expand(*grey.shape, 3)


_PAINTERS: dict[str, Callable[[Sight], Tensor]] = {
    "depth": _depth,
    "keypoints": _keypoints,
    "normals": _normals,
    "openpose": _openpose,
    "canny": _canny,
    "softedge": _softedge,
    "parts": _parts,
    "seg": _seg,
}
KINDS = tuple(_PAINTERS)
"""What `guide` can draw. The miniature's own models read the first two."""


def guide(
    figure: Figure, camera: Camera, size: int, kinds: Sequence[str] = KINDS[:2], supersample: int = 2
) -> GuidedView:
    """The asked `kinds` of guidance of one view, `size` pixels square; several kinds are a hybrid.

    Raises StyleAvatarError for unknown kinds and sizes out of 8..2048.
    """
    check_size(size, supersample)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise StyleAvatarError("no such guidance", got=", ".join(unknown), expected=", ".join(KINDS))
    label = camera.label()[None].to(figure.vertices)
    buffer = rasterize(figure.vertices, figure.faces, label, size * supersample, figure.closed)
    sight = Sight(figure, label, buffer, supersample)
    pictures = {kind: _PAINTERS[kind](sight) for kind in kinds}
    return _views(figure, label, pictures, *sight.silhouette)[0]


def guided_views(
    figure: Figure,
    labels: Float[Tensor, "views 25"],
    share: Float[Tensor, "views size size"],
    depth: Float[Tensor, "views size size"],
) -> list[GuidedView]:
    """The miniature's guidance, from the silhouettes of an already rasterised figure."""
    size = depth.shape[-1]
    pictures = {"depth": depth_guidance(depth, labels), "keypoints": keypoint_guidance(figure, labels, size)}
    return _views(figure, labels, pictures, share, depth)


def _views(
    figure: Figure, labels: Tensor, pictures: dict[str, Tensor], share: Tensor, depth: Tensor
) -> list[GuidedView]:
    xy, visible = locate(figure, labels)
    views = (to_uint8(share * 255), depth, xy * depth.shape[-1], visible)
    return [
        GuidedView({kind: picture[i] for kind, picture in pictures.items()}, *view)
        for i, view in enumerate(zip(*views, strict=True))
    ]


def unit(vectors: Float[Tensor, "... 3"]) -> Float[Tensor, "... 3"]:
    """Of length 1, or 0 where they were 0; much faster than `normalize` over so short a dimension."""
    x, y, z = vectors.unbind(-1)
    return vectors * (x * x + y * y + z * z).clamp(min=1e-12).rsqrt()[..., None]


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
