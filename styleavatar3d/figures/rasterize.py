"""A deterministic z-buffer in plain PyTorch: one code for CPU and CUDA, no dependency.

Vertices are snapped to 1/256 pixel and edges are integer functions, so coverage is exact: a triangle becomes rows, a
row becomes the span of pixels whose centres lie inside, and no candidate is ever rejected. Pixels on a shared edge go
to the nearer face, ties to the lower index, so the result does not depend on threads or on the order of work.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError

_SUBPIXEL = 256
_HALF = _SUBPIXEL // 2
_FACE_BITS = 23
_DEPTH_STEPS = 1 << 34
NEAR = 0.05
"""Faces that reach nearer to the camera plane than this (world units) are dropped."""


@dataclass(frozen=True)
class GBuffer:
    """What each covered pixel sees. Pixels are listed once, in row-major order of a [views, size, size] stack."""

    views: int
    size: int
    faces: Int[Tensor, "faces 3"]
    pixel: Int[Tensor, "covered"]
    face: Int[Tensor, "covered"]
    weights: Float[Tensor, "covered 3"]
    """Perspective-correct barycentric coordinates."""
    distance: Float[Tensor, "covered"]
    """Along the unit ray, world units."""

    @property
    def view(self) -> Int[Tensor, "covered"]:
        return torch.div(self.pixel, self.size**2, rounding_mode="floor")

    def interpolate(self, values: Float[Tensor, "vertices channels"]) -> Float[Tensor, "covered channels"]:
        """Vertex values at the covered pixels."""
        corners = self.faces.index_select(0, self.face)
        rows = values.index_select(0, corners.reshape(-1)).view(*corners.shape, -1)
        return torch.einsum("pk,pkc->pc", self.weights, rows)

    def image(self, values: Tensor, background: float) -> Tensor:
        """Scatter [covered, channels] (or [covered]) into [views, size, size, channels] (or [views, size, size])."""
        trailing = values.shape[1:]
        canvas = values.new_full((self.views * self.size**2, *trailing), background)
        canvas[self.pixel] = values
        return canvas.view(self.views, self.size, self.size, *trailing)

    def depth(self) -> Float[Tensor, "views size size"]:
        """Distance along the unit ray; inf where nothing is hit."""
        return self.image(self.distance, torch.inf)


def project(
    points: Float[Tensor, "points 3"], labels: Float[Tensor, "views 25"]
) -> tuple[Float[Tensor, "views points 2"], Float[Tensor, "views points"]]:
    """Image coordinates over image size (x right, y down, centre 0.5) and depth along the camera's axis."""
    pose, intrinsics = labels[:, :16].reshape(-1, 4, 4), labels[:, 16:].reshape(-1, 3, 3)
    in_camera = (points - pose[:, None, :3, 3]) @ pose[:, :3, :3]
    in_image = in_camera @ intrinsics.mT
    return in_image[..., :2] / in_image[..., 2:], in_camera[..., 2]


def rasterize(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    labels: Float[Tensor, "views 25"],
    size: int,
    closed: Bool[Tensor, "faces"] | None = None,
) -> GBuffer:
    """Visible faces of one mesh from several cameras, `size` pixels square.

    Faces are counter-clockwise seen from outside; those marked `closed` are not drawn from behind.
    """
    views, count = len(labels), len(vertices)
    if views * len(faces) >= 1 << _FACE_BITS:
        raise StyleAvatarError(
            "too many triangles for one call",
            got=f"{views} views of {len(faces)} faces",
            expected=f"fewer than {1 << _FACE_BITS} triangles in all",
            remedy="pass fewer views at once, or simplify the mesh",
        )
    xy, z = project(vertices, labels.to(vertices))
    first = torch.arange(views, device=vertices.device)
    all_faces = (faces + first[:, None, None] * count).reshape(-1, 3)
    culled = closed.repeat(views) if closed is not None else torch.zeros_like(all_faces[:, 0], dtype=torch.bool)
    inverse = 1 / z.clamp(min=NEAR).reshape(-1).double()
    kept, edges, rows = _edges(xy.reshape(-1, 2), z.reshape(-1), all_faces, size, culled)
    row_triangle, row_y, low, high = _spans(edges, rows, size)
    row_view = torch.div(kept[row_triangle], len(faces), rounding_mode="floor")
    nearness = inverse[all_faces[kept].T] / edges.area
    row = torch.repeat_interleave(torch.arange(len(row_y), device=row_y.device), high - low)
    column = torch.arange(len(row), device=row.device) - ((high - low).cumsum(0) - high)[row]
    start = (edges.at(row_triangle, 0, row_y) * nearness.index_select(1, row_triangle)).sum(0)
    slope = ((edges.dx * nearness).sum(0) * _SUBPIXEL)[row_triangle]
    steps = ((start[row] + slope[row] * column) * _DEPTH_STEPS).round().long()
    order = ((int(_DEPTH_STEPS / NEAR) - steps).clamp(min=0) << _FACE_BITS) | kept[row_triangle[row]]
    empty = torch.iinfo(torch.int64).max
    buffer = torch.full((views * size * size,), empty, dtype=torch.int64, device=vertices.device)
    buffer.scatter_reduce_(0, (row_view[row] * size + row_y[row]) * size + column, order, "amin")
    pixel = torch.nonzero(buffer != empty).squeeze(1)
    hit = buffer[pixel] & ((1 << _FACE_BITS) - 1)
    position = torch.empty(len(all_faces), dtype=torch.int64, device=vertices.device)
    position[kept] = torch.arange(len(kept), device=vertices.device)
    x, y = pixel % size, torch.div(pixel, size, rounding_mode="floor") % size
    weights = edges.at(position[hit], x, y) * nearness.index_select(1, position[hit])
    depth = 1 / weights.sum(0)
    weights = (weights * depth).float().T
    stretch = _ray_stretch(labels.to(vertices), size).reshape(-1)[pixel]
    return GBuffer(views, size, faces, pixel, hit % len(faces), weights, depth.float() * stretch)


@dataclass(frozen=True)
class _Edges:
    """Integer edge functions e = dx * x + dy * y + offset of each triangle, non-negative inside; they sum to `area`."""

    dx: Int[Tensor, "3 triangles"]
    dy: Int[Tensor, "3 triangles"]
    offset: Int[Tensor, "3 triangles"]
    area: Int[Tensor, "triangles"]

    def at(self, triangle: Tensor, x: Tensor | int, y: Tensor) -> Int[Tensor, "3 points"]:
        """Values at the centres of pixels (x, y)."""
        x, y = x * _SUBPIXEL + _HALF, y * _SUBPIXEL + _HALF
        dx, dy, offset = (field.index_select(1, triangle) for field in (self.dx, self.dy, self.offset))
        return dx * x + dy * y + offset


def _edges(
    xy: Tensor, z: Tensor, faces: Tensor, size: int, culled: Tensor
) -> tuple[Tensor, _Edges, tuple[Tensor, Tensor]]:
    """Indices of the triangles worth drawing, their edge functions, and the first and one-past-last rows they touch."""
    snapped = (xy * (size * _SUBPIXEL)).round().long()
    corners = faces.T.contiguous()
    x, y = snapped[:, 0].contiguous()[corners], snapped[:, 1].contiguous()[corners]
    area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
    top = ((_least(y) + _HALF - 1) >> 8).clamp(min=0)
    bottom = (((-_least(-y) - _HALF) >> 8) + 1).clamp(max=size)
    seen = (area != 0) & (bottom > top) & ~(culled & (area > 0)) & (_least(z[corners]) > NEAR)
    kept = torch.nonzero(seen).squeeze(1)
    x, y, area = x.index_select(1, kept), y.index_select(1, kept), area[kept]
    next_x, next_y = x.roll(-1, 0), y.roll(-1, 0)
    dx, dy = (next_y - y.roll(-2, 0)) * area.sign(), (x.roll(-2, 0) - next_x) * area.sign()
    offset = -(dx * next_x + dy * next_y)
    return kept, _Edges(dx, dy, offset, area.abs()), (top[kept], bottom[kept])


def _spans(edges: _Edges, rows: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Triangle, row, first and one-past-last column of every horizontal run of covered pixel centres."""
    top, bottom = rows
    height = bottom - top
    triangle = torch.repeat_interleave(torch.arange(len(top), device=top.device), height)
    y = torch.arange(len(triangle), device=top.device) - (height.cumsum(0) - bottom)[triangle]
    start, slope = edges.at(triangle, 0, y), edges.dx.index_select(1, triangle)
    step = slope.abs().clamp(min=1) * _SUBPIXEL
    quotient = (start.double() / step).floor().long()  # exact: both are integers far below 2**53
    far = 1 << 30
    low = torch.where(slope > 0, -quotient, torch.where((slope == 0) & (start < 0), far, -far))
    high = torch.where(slope < 0, quotient + 1, far)
    low, high = (-_least(-low)).clamp(min=0), _least(high).clamp(max=size)
    return triangle, y, low, torch.maximum(low, high)


def _least(three: Tensor) -> Tensor:
    """Minimum over the first dimension, of length three; much faster than amin."""
    return torch.minimum(torch.minimum(three[0], three[1]), three[2])


def _ray_stretch(labels: Tensor, size: int) -> Float[Tensor, "views pixels"]:
    """Length of the ray that advances the camera's axis by one, at each pixel centre."""
    centre = (torch.arange(size, device=labels.device) + 0.5) / size
    row, column = torch.meshgrid(centre, centre, indexing="ij")
    pixels = torch.stack([column, row, torch.ones_like(row)], -1).reshape(-1, 3)
    return (pixels @ torch.linalg.inv(labels[:, 16:].reshape(-1, 3, 3)).mT).norm(dim=-1)
