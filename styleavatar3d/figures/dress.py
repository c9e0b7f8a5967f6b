"""Figures dressed from looks: a bare head, and the hair, shirt, beard, glasses and hats that it wears, in world units."""

import torch
from torch import Tensor

from styleavatar3d.figures.anatomy import beard_mask, shirt_mask
from styleavatar3d.figures.faces import face
from styleavatar3d.figures.hair import Cut
from styleavatar3d.figures.heads import ANTENNA, FRAME, HAIR, HEAD_HEIGHT, LENS, SKIN, Figure, HeadModel
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.shapes import Mesh, vertex_normals
from styleavatar3d.figures.wear import antennae, glasses


def build_figure(
    look: Look, device: torch.device | str = "cpu", expression: dict[str, float] | None = None
) -> Figure:
    """Dress the head of a look; `expression` holds strengths of the 52 names, such as {"jawOpen": 0.5}."""
    model = HeadModel.load()
    head = face(model, look, expression)
    points = {name: head[index] for name, index in model.points.items()}
    skin_normals = vertex_normals(head, model.faces[model.parts == SKIN])
    cloth = 0.06 * shirt_mask(model.template)
    beard = 0.0 * cloth
    if look.beard != "none":
        beard = (0.12 if look.beard == "full beard" else 0.09) * beard_mask(model.template, look.beard)
    dressed = head + skin_normals * (cloth + beard)[:, None]
    pieces: list[tuple[Tensor, Tensor, Tensor, Tensor | int]] = [(dressed, model.template, model.faces, model.parts)]
    for name, (vertices, faces, flow), part in _worn(model, look):
        pieces.append((model.bind(name, vertices, head), flow, faces, part))
    if look.glasses != "none":
        for (vertices, faces), part in _glasses(model, look, head, points):
            pieces.append((vertices, vertices, faces, part))
    return _assemble(model, look, head, points, pieces).to(device)


def _worn(model: HeadModel, look: Look) -> list[tuple[str, Cut, int]]:
    """What is carried by the scalp."""
    worn = []
    if look.hair != "bald":
        worn.append((look.hair, model.haircuts[look.hair], HAIR))
    if look.kind == "alien":
        vertices, faces = antennae()
        worn.append(("antennae", Cut(vertices, faces, vertices), ANTENNA))
    return worn


def _glasses(model: HeadModel, look: Look, head: Tensor, points: dict[str, Tensor]) -> list[tuple[Mesh, int]]:
    """Frames stand clear of brows, cheeks and eyeballs."""
    around = model.template[:, :2].abs() - torch.tensor([0.33, 7.27])
    front = head[(around.abs() < 0.25).all(1) & (model.template[:, 2] > 0.5), 2].max()
    frame, lens = glasses(points["left_eye"], points["left_ear"], float(front) + 0.06)
    return [(frame, FRAME), (lens, LENS)] if look.glasses == "sunglasses" else [(frame, FRAME)]


def _assemble(model: HeadModel, look: Look, head: Tensor, points: dict, pieces: list) -> Figure:
    """One mesh in world units of all pieces (vertices, canonical, faces, parts)."""
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece[0]))
    vertices, canonical = torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])
    faces = torch.cat([piece[2] + start for piece, start in zip(pieces, starts, strict=False)])
    parts = torch.cat([torch.as_tensor(part).expand(len(mesh)) for _, _, mesh, part in pieces])
    centre = (points["left_ear"] + points["right_ear"]) / 2
    scale = HEAD_HEIGHT / (points["crown"] - points["chin"])[1]
    points = points | {f"{side}_shoulder": head[model.joints[f"{side[0]}-shoulder"]] for side in ("left", "right")}
    points["neck"] = head[model.joints["neck"]]
    key_points = {name: (point - centre) * scale for name, point in points.items() if name not in ("chin", "crown")}
    world = (vertices - centre) * scale
    return Figure(world, faces, parts, canonical, vertex_normals(world, faces), key_points, look)
