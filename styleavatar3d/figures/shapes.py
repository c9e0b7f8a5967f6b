"""Small meshes: grids of points, tubes, balls and discs, as (vertices [V, 3], faces [F, 3])."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Mesh = tuple[Tensor, Tensor]
"""Vertices [V, 3] and faces [F, 3]; two meshes in one signature have their own V and F."""


def merge(*meshes: Mesh) -> Mesh:
    """One mesh of several."""
    starts = [0]
    for vertices, _ in meshes:
        starts.append(starts[-1] + len(vertices))
    faces = [mesh[1] + start for mesh, start in zip(meshes, starts, strict=False)]
    return torch.cat([mesh[0] for mesh in meshes]), torch.cat(faces)


def grid(points: Float[Tensor, "rows columns 3"], keep: Tensor | None = None) -> Mesh:
    """A sheet through rows of points; `keep` [rows - 1, columns - 1] leaves cells out."""
    rows, columns = points.shape[:2]
    index = torch.arange(rows * columns).view(rows, columns)
    corners = [index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]]
    cells = torch.stack(corners, -1)
    cells = cells.reshape(-1, 4) if keep is None else cells[keep]
    return points.reshape(-1, 3), torch.cat([cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]])


def tube(path: Float[Tensor, "points 3"], radius: Float[Tensor, "points"] | float, sides: int = 6) -> Mesh:
    """A tube around a path, open at both ends."""
    tangent = torch.nn.functional.normalize(torch.gradient(path, dim=0)[0], dim=1)
    aside = torch.linalg.cross(tangent, torch.tensor([0.13, 0.05, 1.0]).expand_as(tangent))
    aside = torch.nn.functional.normalize(aside, dim=1)
    across = torch.linalg.cross(tangent, aside)
    angle = torch.linspace(0, 2 * math.pi, sides + 1)
    ring = aside[:, None] * angle.cos()[:, None] + across[:, None] * angle.sin()[:, None]
    return grid((path[:, None] + torch.as_tensor(radius).expand(len(path))[:, None, None] * ring).flip(1))


def ball(centre: tuple[float, float, float], radius: float, rings: int = 12) -> Mesh:
    polar = torch.linspace(0, math.pi, rings + 1)[:, None]
    azimuth = torch.linspace(-math.pi, math.pi, 2 * rings + 1)[None]
    direction = torch.stack([polar.sin() * azimuth.sin(), polar.cos() + 0 * azimuth, polar.sin() * azimuth.cos()], -1)
    return grid(torch.tensor(centre) + radius * direction)


def disc(rim: Float[Tensor, "points 3"]) -> Mesh:
    """A fan that fills a closed rim."""
    count = len(rim)
    index = torch.arange(count)
    faces = torch.stack([index, index.roll(-1), torch.full_like(index, count)], 1)
    return torch.cat([rim, rim.mean(0, keepdim=True)]), faces


def mirrored(mesh: Mesh) -> Mesh:
    """The mesh on the other side of x = 0."""
    vertices, faces = mesh
    return vertices * torch.tensor([-1.0, 1, 1]), faces.flip(1)


def vertex_normals(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> Float[Tensor, "vertices 3"]:
    """Unit normals, faces weighted by area."""
    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        total.index_add_(0, corner, normal)
    return torch.nn.functional.normalize(total, dim=1)
