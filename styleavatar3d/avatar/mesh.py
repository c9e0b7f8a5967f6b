"""From the density field to a mesh: marching cubes, colours at the vertices, one closed component, metres."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.avatar.files import write_whole
from styleavatar3d.errors import StyleAvatarError

METRES_PER_UNIT = 0.64
LARGEST_GRID = 512
_POINTS_AT_ONCE = 1 << 19
_REACH = 100.0
_BENEATH = 0.005
"""world units (3 mm) under the surface lies the colour that views show: there the ray has lost half of its light"""

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""points [P, 3] in world units -> colours [P, 3] in [0, 1], density [P] a world unit"""


@dataclass(frozen=True)
class Mesh:
    """A closed surface in metres: y up, face to +z, faces counter-clockwise from outside; sRGB colours in [0, 1]."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    normals: Float[np.ndarray, "vertices 3"]
    colors: Float[np.ndarray, "vertices 3"]
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write a binary glTF 2.0 file (.glb) with the provenance in `asset.extras`."""
        from styleavatar3d.avatar.glb import to_glb

        return write_whole(path, to_glb(self))


@torch.inference_mode()
def mesh_of_field(read: Field, box: float, resolution: int, level: float) -> Mesh:
    """The largest component of the surface density = level inside the cube of side `box` around the origin.

    The samples are the centres of resolution^3 cells; beyond the border the density is zero, so the surface is closed.
    """
    if not 8 <= resolution <= LARGEST_GRID or level <= 0:
        raise StyleAvatarError(
            "no mesh has these numbers",
            got=f"resolution {resolution}, level {level}",
            expected=f"resolution 8 to {LARGEST_GRID}, level above 0",
        )
    density = _sample_grid(read, box, resolution)
    if density.max() <= level:
        raise StyleAvatarError(
            "the density never reaches the level of the surface",
            got=f"at most {density.max():.3g}",
            expected=f"above {level:g}",
            remedy="ask for a lower level, or train the generator longer",
        )
    vertices, faces = _marching_cubes(np.pad(density, 1), level)
    vertices = ((vertices - 0.5) / resolution - 0.5) * box
    vertices, faces = _largest_component(vertices, faces)
    normals = _normals(vertices, faces)
    seen = torch.from_numpy(vertices - _BENEATH * normals).float()
    colors = _read_in_chunks(lambda points: read(points)[0], seen)
    metres = (vertices * METRES_PER_UNIT).astype(np.float32)
    return Mesh(metres, faces, normals.astype(np.float32), colors.clamp(0, 1).numpy())


def _sample_grid(read: Field, box: float, resolution: int) -> Float[np.ndarray, "x y z"]:
    axis = ((torch.arange(resolution) + 0.5) / resolution - 0.5) * box
    points = torch.cartesian_prod(axis, axis, axis)
    return _read_in_chunks(lambda some: read(some)[1], points).reshape(resolution, resolution, resolution).numpy()


def _read_in_chunks(read: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    return torch.cat([read(some).float().cpu() for some in points.split(_POINTS_AT_ONCE)])


def _marching_cubes(density: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in units of cells, and faces.

    Density rises a hundredfold within a cell or two, which between cells is far from linear and leaves steps; its
    logarithm, cut where it no longer matters, is near enough.
    """
    from skimage.measure import marching_cubes

    logarithm = np.log(np.clip(density / level, 1 / _REACH, _REACH))
    # The names of the directions hold for arrays in z, y, x order; ours is x, y, z, whose mirror image it is.
    vertices, faces, _, _ = marching_cubes(logarithm, 0.0, gradient_direction="ascent")
    return vertices.astype(np.float64), faces.astype(np.int64)


def _largest_component(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2)
    component = connected_components(graph, directed=False)[1]
    kept = component == np.bincount(component).argmax()
    number = np.cumsum(kept) - 1
    return vertices[kept], number[faces[kept[faces[:, 0]]]]


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit vertex normals, faces weighted by area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], across)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 0, normals / np.maximum(length, 1e-12), (0.0, 1.0, 0.0))
