"""Figures dressed from looks: a bare head, and the hair, shirt, beard, glasses and hats that it wears, in world units."""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.figures.anatomy import SCALP, beard_mask, shirt_mask, symmetric_bumps
from styleavatar3d.figures.collars import collars
from styleavatar3d.figures.faces import face
from styleavatar3d.figures.hair import Cut, Skull, haircuts
from styleavatar3d.figures.heads import (
    ANTENNA,
    FRAME,
    HAIR,
    HAT,
    HEAD_HEIGHT,
    LENS,
    SHIRT,
    SKIN,
    Figure,
    HeadModel,
)
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.shapes import Mesh, vertex_normals
from styleavatar3d.figures.wear import antennae, glasses, hats, moustache, trim

_CLOTH = 0.06
_NEIGHBOURS = 8


class Garment(NamedTuple):
    """A mesh of the template, and the vertices of the head that carry each of its points."""

    cut: Cut
    part: int
    anchors: Int[Tensor, "points neighbours"]
    weights: Float[Tensor, "points neighbours"]


def build_figure(
    look: Look, device: torch.device | str = "cpu", expression: dict[str, float] | None = None
) -> Figure:
    """Dress the head of a look; `expression` holds strengths of the 52 names, such as {"jawOpen": 0.5}."""
    model = HeadModel.load()
    bare = face(model, look, expression)
    head = bare.vertices
    points = {name: head[index] for name, index in model.points.items()}
    pieces = [(_inflated(model, look, head), bare.canonical, bare.faces, bare.parts)]
    moved = head - model.template
    for name in _worn(look):
        (vertices, faces, flow), part, anchors, weights = garment(model, name)
        carried = vertices + torch.einsum("pnc,pn->pc", moved[anchors], weights)
        pieces.append((carried, flow, faces, torch.tensor(part)))
    if look.glasses != "none":
        for (vertices, faces), part in _glasses(model, look, head, points):
            pieces.append((vertices, vertices, faces, torch.tensor(part)))
    return _assemble(model, look, head, points, pieces).to(device)


def _inflated(model: HeadModel, look: Look, head: Tensor) -> Float[Tensor, "vertices 3"]:
    """The head, swollen where cloth or a beard covers it."""
    cloth, beard = _swelling(model, look.beard)
    out = vertex_normals(head, model.faces[model.parts == SKIN])
    return head + out * cloth[:, None] + beard[:, None] * (out + out.new_tensor((0.0, -0.35, 0.15)))


@cache
def _swelling(model: HeadModel, beard: str) -> tuple[Tensor, Tensor]:
    """Decimetres by which cloth and a beard stand off the skin."""
    skin = torch.zeros(len(model.template))
    skin[model.faces[model.parts == SKIN].unique()] = 1
    cloth = _CLOTH * shirt_mask(model.template) * skin
    if beard != "full beard":
        return cloth, 0 * cloth
    grown = 0.19 + 0.04 * symmetric_bumps(model.template, 14.0)
    return cloth, grown * beard_mask(model.template, beard) * skin


def _worn(look: Look) -> list[str]:
    """Names of what is carried by the head and the neck."""
    worn = [f"shirt: {look.shirt}"]
    if look.hair != "bald":
        worn.append(f"hair: {look.hair}" + (" under a hat" if look.hat != "none" else ""))
    if look.hat != "none":
        worn.append(f"hat: {look.hat}")
    if look.beard != "none":
        worn.append("beard: moustache")
    if look.kind == "alien":
        worn.append("antennae: pair")
    return worn


@cache
def garment(model: HeadModel, name: str) -> Garment:
    """A garment of `_worn`, tied to the nearest vertices that can carry it."""
    kind, which = name.split(": ")
    vertices = model.template
    skin = model.faces[model.parts == SKIN].unique()
    if kind == "shirt":
        cut, part = collars((vertices, model.faces[model.parts == SKIN]))[which], SHIRT
        carriers = skin[vertices[skin, 1] < 6.7]
    elif kind == "beard":
        cut, part, carriers = moustache(), HAIR, skin
    else:
        face_front = (vertices[model.anchors, 2] > 0.9) & (vertices[model.anchors, 1] < 7.75)
        carriers = model.anchors[~face_front]
        skull = Skull(vertices[skin[vertices[skin, 1] > SCALP]])
        cut, part = _on_the_head(skull, kind, which)
    distance, nearest = torch.cdist(cut.vertices, vertices[carriers]).topk(_NEIGHBOURS, largest=False)
    weights = 1 / (distance + 0.15) ** 2
    return Garment(cut, part, carriers[nearest], weights / weights.sum(1, keepdim=True))


def _on_the_head(skull: Skull, kind: str, which: str) -> tuple[Cut, int]:
    if kind == "hat":
        return hats(skull)[which], HAT
    if kind == "antennae":
        return antennae(), ANTENNA
    cut = haircuts(skull)[which.removesuffix(" under a hat")]
    return (trim(cut, skull) if which.endswith(" under a hat") else cut), HAIR


def _glasses(model: HeadModel, look: Look, head: Tensor, points: dict[str, Tensor]) -> list[tuple[Mesh, int]]:
    """Frames stand clear of brows, cheeks, eyeballs and temples."""
    x, y, z = model.template.unbind(1)
    around = ((x.abs() - 0.33).abs() < 0.3) & ((y - 7.27).abs() < 0.27) & (z > 0.5)
    beside = ((y - points["left_eye"][1] - 0.04).abs() < 0.12) & (z > 0.65) & (z < 1.0)
    front, temple = float(head[around, 2].max()) + 0.06, float(head[beside, 0].max()) + 0.04
    dark = look.glasses == "sunglasses"
    frame, lens = glasses(points["left_eye"], points["left_ear"], front, temple, dark)
    return [(frame, FRAME), (lens, LENS)] if dark else [(frame, FRAME)]


def _assemble(model: HeadModel, look: Look, head: Tensor, points: dict, pieces: list) -> Figure:
    """One mesh in world units of all pieces (vertices, canonical, faces, parts)."""
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece[0]))
    vertices, canonical = torch.cat([piece[0] for piece in pieces]), torch.cat([piece[1] for piece in pieces])
    faces = torch.cat([piece[2] + start for piece, start in zip(pieces, starts, strict=False)])
    parts = torch.cat([part.expand(len(mesh)) for _, _, mesh, part in pieces])
    centre = (points["left_ear"] + points["right_ear"]) / 2
    scale = HEAD_HEIGHT / (model.template[model.points["crown"], 1] - model.template[model.points["chin"], 1])
    points = points | {f"{side}_shoulder": head[model.joints[f"{side[0]}-shoulder"]] for side in ("left", "right")}
    points["neck"] = head[model.joints["neck"]]
    key_points = {name: (point - centre) * scale for name, point in points.items() if name not in ("chin", "crown")}
    world, landmarks = (vertices - centre) * scale, (head[model.landmarks] - centre) * scale
    return Figure(world, faces, parts, canonical, vertex_normals(world, faces), key_points, look, landmarks)
