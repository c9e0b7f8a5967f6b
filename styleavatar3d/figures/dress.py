"""Figures dressed from looks: a bare head in world units, and the hair, shirt, beard, glasses and hat that it wears."""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from styleavatar3d.figures.anatomy import NECK_AXIS, SCALP, beard_mask, below_neckline, shirt_mask, symmetric_bumps
from styleavatar3d.figures.collars import collars
from styleavatar3d.figures.face_points import face_points
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
    Bust,
    HeadModel,
)
from styleavatar3d.figures.kinds import BITS, bit
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
    weights: Float[Tensor, "points neighbours 3"]
    """For each axis."""


def build_figure(look: Look, device: torch.device | str = "cpu", expression: dict[str, float] | None = None) -> Bust:
    """Dress the head of a look; `expression` holds strengths of the 52 names, such as {"jawOpen": 0.5}."""
    model = HeadModel.load()
    bare = face(model, look, expression)
    head = bare.vertices
    points = {name: head[index] for name, index in model.points.items()}
    pieces = [(_inflated(model, look, head), bare.canonical, bare.faces, bare.parts)]
    moved = head - model.template
    for name in _worn(look):
        (vertices, faces, flow), part, anchors, weights = garment(model, name)
        carried = vertices + (moved[anchors] * weights).sum(1)
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
    x, y, _ = model.template.unbind(1)
    lips = torch.exp(-((x / 0.5) ** 4) - ((y - 6.68) / 0.2) ** 4)
    return cloth, grown * beard_mask(model.template, beard) * skin * (1 - lips)


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
    return worn + [f"bit: {name}" for name in BITS.get(look.kind, ())]


@cache
def garment(model: HeadModel, name: str) -> Garment:
    """A garment of `_worn`, tied to the nearest vertices that can carry it."""
    kind, which = name.split(": ")
    vertices = model.template
    skin = model.faces[model.parts == SKIN].unique()
    if kind == "shirt":
        cut, part = _tailor(model)[which], SHIRT
        carriers = skin[_below_the_jaw(vertices[skin])]
    elif kind == "bit":
        (points, faces), part, carried_by = bit(which, vertices)
        cut, carriers = Cut(points, faces, points), torch.nonzero(carried_by).squeeze(1)
    elif kind == "beard":
        cut, part, carriers = moustache(), HAIR, skin
    else:
        carriers = model.anchors[_still(vertices[model.anchors])]
        cut, part = _on_the_head(model, kind, which)
    anchors, weights = _tie(cut.vertices, vertices, carriers)
    weights = weights[..., None].expand(-1, -1, 3)
    if kind == "shirt":  # a collar rises with the shoulders as much as with the neck, or a low chin would turn it over
        base = skin[(below_neckline(vertices[skin]) > 0) & (below_neckline(vertices[skin]) < 0.5)]
        shoulders, share = _tie(cut.vertices, vertices, base)
        both = torch.cat([weights * torch.tensor([1, 0.5, 1]), share[..., None] * torch.tensor([0, 0.5, 0])], 1)
        return Garment(cut, part, torch.cat([anchors, shoulders], 1), both)
    return Garment(cut, part, anchors, weights)


def _tie(points: Tensor, template: Tensor, carriers: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest carriers of each point, and their weights."""
    distance, nearest = torch.cdist(points, template[carriers]).topk(min(_NEIGHBOURS, len(carriers)), largest=False)
    weights = 1 / (distance + 0.15) ** 2
    return carriers[nearest], weights / weights.sum(1, keepdim=True)


def _still(points: Float[Tensor, "points 3"]) -> Bool[Tensor, "points"]:
    """What carries hair and hats: neither the face, which moves, nor the ears, which grow points, nor the shoulders."""
    x, y, z = points.unbind(1)
    ear = (x.abs() > 0.76) & (y > 6.7) & (y < 7.7) & (z < 0.65)
    return ~ear & ~((z > 0.9) & (y < 7.75)) & (y > SCALP)


def _below_the_jaw(points: Float[Tensor, "points 3"]) -> Bool[Tensor, "points"]:
    """What carries collars."""
    x, y, z = points.unbind(1)
    column = (x * x + (z - NECK_AXIS) ** 2).sqrt() < 0.68
    return (y < 6.0) | (column & (y < 6.7))


def _on_the_head(model: HeadModel, kind: str, which: str) -> tuple[Cut, int]:
    skull, cuts = _barber(model)
    if kind == "hat":
        return hats(skull)[which], HAT
    if kind == "antennae":
        return antennae(), ANTENNA
    cut = cuts[which.removesuffix(" under a hat")]
    return (trim(cut, skull) if which.endswith(" under a hat") else cut), HAIR


@cache
def _tailor(model: HeadModel) -> dict[str, Cut]:
    """Every collar that fits the template."""
    return collars((model.template, model.faces[model.parts == SKIN]))


@cache
def _barber(model: HeadModel) -> tuple[Skull, dict[str, Cut]]:
    """The skull of the template, and every cut that fits it."""
    skin = model.faces[model.parts == SKIN].unique()
    skull = Skull(model.template[skin[model.template[skin, 1] > SCALP]])
    return skull, haircuts(skull)


def _glasses(model: HeadModel, look: Look, head: Tensor, points: dict[str, Tensor]) -> list[tuple[Mesh, int]]:
    """Frames stand clear of brows, cheeks, eyeballs and temples."""
    x, y, z = model.template.unbind(1)
    around = ((x.abs() - 0.4).abs() < 0.3) & ((y - 7.27).abs() < 0.33) & (z > 0.5)
    beside = ((y - points["left_eye"][1] - 0.04).abs() < 0.12) & (z > 0.65) & (z < 1.0)
    front, temple = float(head[around, 2].max()) + 0.08, float(head[beside, 0].max()) + 0.04
    dark = look.glasses == "sunglasses"
    frame, lens = glasses(points["left_eye"], points["left_ear"], front, temple, dark)
    return [(frame, FRAME), (lens, LENS)] if dark else [(frame, FRAME)]


def _assemble(model: HeadModel, look: Look, head: Tensor, points: dict, pieces: list) -> Bust:
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
    drawn = (face_points(model, pieces[0][0]) - centre) * scale  # on a beard, not under it
    normals = vertex_normals(world, faces)
    return Bust(world, faces, parts, canonical, normals, key_points, landmarks, drawn, look=look)
