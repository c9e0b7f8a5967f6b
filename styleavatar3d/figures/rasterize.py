"""A deterministic z-buffer in plain PyTorch: one code for CPU and CUDA, no dependency.

Vertices are snapped to 1/256 pixel, and what decides coverage are whole numbers (kept in float64, which holds them
exactly and which processors multiply fastest): a triangle becomes rows, a row becomes the run of pixels whose centres
lie between its long side and one of its two short ones, and no candidate is ever rejected. Pixels on a shared edge go
to the nearer face, ties to the lower index, so the result does not depend on threads or on the order of work.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError

_SUBPIXEL = 256
_HALF = _SUBPIXEL // 2
_ROW = float(1 << 26)
"""Larger than any coordinate in subpixels: y * _ROW + x is one number that sorts by y."""
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
    behind: Bool[Tensor, "covered"]
    """Whether the face is seen from behind."""

    @property
    def view(self) -> Int[Tensor, "covered"]:
        return torch.div(self.pixel, self.size**2, rounding_mode="floor")

    def interpolate(self, values: Float[Tensor, "vertices channels"]) -> Float[Tensor, "covered channels"]:
        """Vertex values at the covered pixels."""
        corners = self.faces.index_select(0, self.face)
        total = values.index_select(0, corners[:, 0]) * self.weights[:, :1]
        for corner in (1, 2):
            total += values.index_select(0, corners[:, corner]) * self.weights[:, corner : corner + 1]
        return total

    def image(self, values: Tensor, background: float) -> Tensor:
        """Scatter [covered, channels] (or [covered]) into [views, size, size, channels] (or [views, size, size])."""
        trailing = values.shape[1:]
        canvas = values.new_full((self.views * self.size**2, *trailing), background)
        canvas.index_copy_(0, self.pixel, values)
        return canvas.view(self.views, self.size, self.size, *trailing)

    def blocks(self, values: Tensor, side: int, background: float) -> Tensor:
        """As `image`, but [side**2, views, size / side, size / side, ...]: first the pixels of a block, then blocks.

        A picture that is shrunk `side` times is the mean over the first dimension.
        """
        rows = torch.div(self.pixel, self.size, rounding_mode="floor")
        column, block_row = self.pixel - rows * self.size, torch.div(rows, side, rounding_mode="floor")
        block_column = torch.div(column, side, rounding_mode="floor")
        place = (rows - block_row * side) * side + column - block_column * side
        width, trailing = self.size // side, values.shape[1:]
        blocks = self.views * width**2
        canvas = values.new_full((side**2 * blocks, *trailing), background)
        canvas.index_copy_(0, place * blocks + block_row * width + block_column, values)
        return canvas.view(side**2, self.views, width, width, *trailing)

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
    views = len(labels)
    if views * len(faces) >= 1 << _FACE_BITS:
        raise StyleAvatarError(
            "too many triangles for one call",
            got=f"{views} views of {len(faces)} faces",
            expected=f"fewer than {1 << _FACE_BITS} triangles in all",
            remedy="pass fewer views at once, or simplify the mesh",
        )
    labels = labels.to(vertices)
    drawn = _triangles(vertices, faces, labels, size, closed)
    pixel, winner = _nearest(drawn, _runs(drawn, size), views, size)
    weights = drawn.inverse_depths(winner, pixel % size, torch.div(pixel, size, rounding_mode="floor") % size)
    depth = 1 / weights.sum(1)
    distance = depth.float() * ray_stretch(labels, size).reshape(-1)[pixel]
    face = drawn.face[winner]
    return GBuffer(views, size, faces, pixel, face, (weights * depth[:, None]).float(), distance, drawn.behind[winner])


@dataclass(frozen=True)
class _Triangles:
    """The triangles worth drawing, of all views. Coordinates are whole numbers of subpixels, in float64."""

    view: Int[Tensor, "triangles"]
    face: Int[Tensor, "triangles"]
    x: Float[Tensor, "3 triangles"]
    y: Float[Tensor, "3 triangles"]
    inverse: Float[Tensor, "3 triangles"]
    """1 / depth of the corners; over the picture it is linear."""
    area: Float[Tensor, "triangles"]
    """Twice the signed area, never 0."""

    @property
    def behind(self) -> Bool[Tensor, "triangles"]:
        return self.area > 0

    def shares(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How the shares of the second and the third corner grow with x, y, a subpixel at a time."""
        (x0, x1, x2), (y0, y1, y2) = self.x, self.y
        return (y2 - y0) / self.area, (x0 - x2) / self.area, (y0 - y1) / self.area, (x1 - x0) / self.area

    def inverse_plane(self) -> tuple[Tensor, Tensor, Tensor]:
        """1 / depth at the centre of pixel (column, row), as (a, b, c) of a column + b row + c."""
        second_x, second_y, third_x, third_y = self.shares()
        second, third = self.inverse[1] - self.inverse[0], self.inverse[2] - self.inverse[0]
        across, down = second_x * second + third_x * third, second_y * second + third_y * third
        level = self.inverse[0] - across * (self.x[0] - _HALF) - down * (self.y[0] - _HALF)
        return across * _SUBPIXEL, down * _SUBPIXEL, level

    def inverse_depths(self, triangle: Tensor, column: Tensor, row: Tensor) -> Float[Tensor, "points 3"]:
        """Each corner's share over its depth, at pixel centres."""
        fields = (self.x[0], self.y[0], *self.shares(), *self.inverse)
        x0, y0, second_x, second_y, third_x, third_y, *inverse = _picked(fields, triangle)
        x, y = column * _SUBPIXEL + (_HALF - x0), row * _SUBPIXEL + (_HALF - y0)
        second, third = second_x * x + second_y * y, third_x * x + third_y * y
        return torch.stack([(1 - second - third) * inverse[0], second * inverse[1], third * inverse[2]], 1)


def _picked(fields: Iterable[Tensor], index: Tensor) -> list[Tensor]:
    """Entries of several vectors; one by one is faster than rows of a table, and 32-bit indices than 64-bit ones."""
    index = index.int()
    return [field.index_select(0, index) for field in fields]


def _triangles(vertices: Tensor, faces: Tensor, labels: Tensor, size: int, closed: Tensor | None) -> _Triangles:
    """Project in float64, so that every device snaps alike, and leave out what shows no side that is drawn."""
    views = len(labels)
    xy, z = project(vertices.double(), labels.double())
    x, y = (xy * (size * _SUBPIXEL)).round_().permute(2, 1, 0).contiguous()
    z = z.T.contiguous()
    x = x.masked_fill_(z <= NEAR, torch.nan)  # every comparison with such an area is false
    x, y, inverse = (field.view(3, -1) for field in _picked((x, y, 1 / z), faces.T.reshape(-1)))
    area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
    behind = (area > 0).view(-1, views)
    seen = (area < 0) | (behind if closed is None else behind & ~closed[:, None]).view(-1)
    kept = torch.nonzero(seen).squeeze(1)
    x, y, inverse = (torch.stack(_picked(field, kept)) for field in (x, y, inverse))
    face = torch.div(kept, views, rounding_mode="floor")
    return _Triangles(kept - face * views, face, x, y, inverse, area[kept])


def _runs(drawn: _Triangles, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Triangle, row, first and one-past-last column of runs of covered pixel centres; some are empty.

    The middle corner cuts a triangle into an upper and a lower half, each between the long side and a short one.
    """
    keys = torch.stack(_sorted(drawn.y * _ROW + drawn.x))
    y = (keys / _ROW).round_()
    x = keys - y * _ROW
    cuts = ((y - _HALF) / _SUBPIXEL).ceil_()
    cuts[2] = ((y[2] - _HALF) / _SUBPIXEL).floor_() + 1
    cuts = cuts.clamp_(0, size).int()
    height = (cuts[1:] - cuts[:2]).view(-1)
    half = torch.repeat_interleave(height)
    (before,) = _picked([height.cumsum(0, dtype=torch.int32) - height - cuts[:2].view(-1)], half)
    row = torch.arange(len(half), device=half.device, dtype=torch.int32) - before
    triangle = half % len(drawn.face)
    first, second = (_crossing(side, row) for side in _sides(x, y, triangle, half))
    low = torch.minimum(first, second).ceil_().clamp_(min=0)
    high = torch.maximum(first, second).floor_().clamp_(max=size - 1) + 1
    return triangle, row, low.int(), torch.maximum(low, high).int()


def _sides(x: Tensor, y: Tensor, triangle: Tensor, half: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The long side of each triangle, and the short one of each half, as (slope, offset, scale) of `_crossing`."""
    ends, starts = [2, 1, 2], [0, 0, 1]
    rise, run = (y[ends] - y[starts]).clamp_(min=1), x[ends] - x[starts]
    offset = (x[starts] - _HALF) * rise - (y[starts] - _HALF) * run
    sides = _SUBPIXEL * run, offset, _SUBPIXEL * rise
    return _picked([field[0] for field in sides], triangle), _picked([field[1:].view(-1) for field in sides], half)


def _crossing(side: list[Tensor], row: Tensor) -> Float[Tensor, "rows"]:
    """Where a side crosses the row of pixel centres: columns from the first centre, exact up to the one division."""
    slope, offset, scale = side
    return (slope * row + offset) / scale


def _nearest(
    drawn: _Triangles, runs: tuple[Tensor, Tensor, Tensor, Tensor], views: int, size: int
) -> tuple[Tensor, Tensor]:
    """The covered pixels, and the triangle that each of them sees."""
    triangle, row, low, high = runs
    count = high - low
    run = torch.repeat_interleave(count)
    slope, down, level, view = _picked((*drawn.inverse_plane(), drawn.view), triangle)
    shift = low - (count.cumsum(0, dtype=torch.int32) - count)
    fields = (slope, level + down * row, shift, (view * size + row) * size, triangle)
    slope, start, shift, line, triangle = _picked(fields, run)
    column = torch.arange(len(run), device=run.device) + shift
    steps = int(_DEPTH_STEPS / NEAR) - ((start + slope * column) * _DEPTH_STEPS).round_().long()
    order = (steps.clamp_(min=0) << _FACE_BITS) | triangle
    empty = torch.iinfo(torch.int64).max
    buffer = torch.full((views * size * size,), empty, dtype=torch.int64, device=run.device)
    buffer.scatter_reduce_(0, line + column, order, "amin")
    covered = torch.nonzero(buffer != empty).squeeze(1)
    return covered, buffer[covered] & ((1 << _FACE_BITS) - 1)


def _sorted(three: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first dimension, of length three, in ascending order; much faster than sort."""
    a, b, c = three
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


def ray_stretch(labels: Float[Tensor, "views 25"], size: int) -> Float[Tensor, "views size size"]:
    """Length of the ray that advances the camera's axis by one, at each pixel centre."""
    centre = (torch.arange(size, device=labels.device, dtype=labels.dtype) + 0.5) / size
    across, down, one = torch.linalg.inv(labels[:, 16:].reshape(-1, 3, 3))[..., None, None].unbind(2)
    return (across * centre + down * centre[:, None] + one).square().sum(1).sqrt()
