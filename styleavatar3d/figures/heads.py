"""Parametric busts: the baked head model, and figures dressed from it.

The model is linear in a rank-64 phenotype basis, in signed local changes and in 52 expressions (`data/heads.md` says
how it was baked, and from what). A figure is the head of a `Look` with hair, shirt, beard and glasses, in world units.
"""

import random
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import SCALP, beard_mask, ramp, shirt_mask
from styleavatar3d.figures.hair import Skull, haircuts
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.shapes import Mesh, vertex_normals
from styleavatar3d.figures.wear import antennae, glasses

SKIN, EYE, LASH, HAIR, SHIRT, FRAME, LENS, ANTENNA = range(8)
"""Part ids. The shirt is the lower part of the skin's faces; `anatomy.shirt_mask` separates it."""
HEAD_HEIGHT = 0.36
"""Chin to crown of a bare head, world units (1 unit = 0.64 m)."""

_NECK = 6.1
"""Template height where the head ends and the body begins."""
_SHOULDER_DROP = 1.75
"""Decimetres of the template from ears to shoulder joints."""
_KNOTS = {
    "gender": (0.0, 1.0),
    "age": (-1 / 3, 0.0, 1 / 3, 2 / 3, 1.0),
    "muscle": (0.0, 0.5, 1.0),
    "weight": (0.0, 0.5, 1.0),
    "height": (0.0, 1.0),
    "proportions": (0.0, 1.0),
    "cupsize": (0.0, 0.5, 1.0),
    "firmness": (0.0, 0.5, 1.0),
}
_ORIGINS = ("african", "asian", "caucasian")


@dataclass(frozen=True)
class Figure:
    """A bust in world units: origin between the ears, y up, face to +z."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]
    parts: Int[Tensor, "faces"]
    canonical: Float[Tensor, "vertices 3"]
    """Template coordinates (`anatomy`), where colours are painted."""
    normals: Float[Tensor, "vertices 3"]
    key_points: dict[str, Float[Tensor, "3"]]
    look: Look

    @property
    def bare(self) -> Bool[Tensor, "faces"]:
        """Faces of the figure without hair and things worn."""
        return self.parts <= EYE

    @property
    def closed(self) -> Bool[Tensor, "faces"]:
        """Faces that are never seen from behind."""
        return (self.parts <= EYE) | (self.parts == FRAME) | (self.parts == ANTENNA)

    def to(self, device: torch.device | str) -> "Figure":
        fields = ("vertices", "faces", "parts", "canonical", "normals")
        points = {name: point.to(device) for name, point in self.key_points.items()}
        return replace(self, key_points=points, **{name: getattr(self, name).to(device) for name in fields})


@dataclass(frozen=True)
class SparseShapes:
    """Named displacements that touch few vertices."""

    names: tuple[str, ...]
    ends: Int[Tensor, "shapes"]
    index: Int[Tensor, "entries"]
    offset: Float[Tensor, "entries 3"]

    def add(self, vertices: Float[Tensor, "vertices 3"], weights: Float[Tensor, "shapes"]) -> None:
        """Add the weighted sum of the shapes to `vertices`, in place."""
        counts = torch.diff(self.ends, prepend=self.ends.new_zeros(1))
        strength = torch.repeat_interleave(weights, counts)
        some = torch.nonzero(strength).squeeze(1)
        vertices.index_add_(0, self.index[some], self.offset[some] * strength[some, None])


class HeadModel:
    """The baked bust. Vertices are template coordinates: decimetres, y up, face to +z; the last ones are joints."""

    def __init__(self, tensors: dict[str, Tensor], metadata: dict[str, str]):
        self.template = tensors["template"]
        self.faces = tensors["faces"].long()
        self.parts = tensors["parts"].long()
        self.basis = tensors["phenotype.basis"].float() * tensors["phenotype.scale"][:, None, None]
        self.mix, self.mask = tensors["phenotype.mix"].float(), tensors["phenotype.mask"].bool()
        pairs = tuple(f"{name}{sign}" for name in metadata["locals"].split() for sign in "+-")
        self.locals = _sparse(tensors, "local", pairs)
        self.expressions = _sparse(tensors, "expression", tuple(metadata["expressions"].split()))
        joints = metadata["joints"].split()
        self.joints = {name: len(self.template) - len(joints) + i for i, name in enumerate(joints)}
        skin = self.faces[self.parts == SKIN].unique()
        head = skin[self.template[skin, 1] > SCALP]
        self.anchors = torch.cat([head, tensors["hair_anchors"].long()])
        self.points = self._points(skin)
        self.haircuts = haircuts(Skull(self.template[head]))
        self._bindings: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    @cache
    def load(cls, path: Path | None = None) -> "HeadModel":
        """Read `heads.safetensors` (the shipped one by default)."""
        from safetensors import SafetensorError, safe_open

        path = path or assets() / "data" / "heads.safetensors"
        try:
            with safe_open(path, "pt") as file:
                return cls({key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118
        except (OSError, SafetensorError, KeyError) as error:
            raise StyleAvatarError(
                "not a baked head model",
                got=f"{path} ({error})",
                expected="the tensors listed in data/heads.md",
                remedy="restore data/heads.safetensors, or bake it again with data/bake_heads.py",
            ) from error

    def phenotype(self, **values: float) -> Float[Tensor, "vertices 3"]:
        """The neutral bust of a phenotype: gender (0 male .. 1 female), age (-1/3 .. 1), muscle, weight, african,
        asian, caucasian (0 .. 1). Those left out are average."""
        unknown = set(values) - set(_KNOTS) - set(_ORIGINS)
        if unknown:
            raise StyleAvatarError("unknown phenotype", got=sorted(unknown), expected=", ".join([*_KNOTS, *_ORIGINS]))
        row = interpolants({name: torch.tensor([value]) for name, value in values.items()}, self.mask)[0] @ self.mix
        return self.template + torch.einsum("k,kvc->vc", row, self.basis)

    def change(self, vertices: Float[Tensor, "vertices 3"], changes: dict[str, float]) -> None:
        """Apply signed local changes, such as {"eye-scale-incr": 1.5}, in place."""
        self.locals.add(
            vertices,
            _weights(
                self.locals.names,
                {f"{name}{'-' if value < 0 else '+'}": abs(value) for name, value in changes.items()},
                "local change",
            ),
        )

    def express(self, vertices: Float[Tensor, "vertices 3"], expression: dict[str, float]) -> None:
        """Apply expression strengths, such as {"jawOpen": 0.5}, in place."""
        self.expressions.add(vertices, _weights(self.expressions.names, expression, "expression"))

    def bind(self, name: str, points: Float[Tensor, "points 3"], moved: Float[Tensor, "vertices 3"]) -> Tensor:
        """Carry template-space points with the six nearest scalp vertices of a head whose vertices are `moved`."""
        if name not in self._bindings:
            distance, nearest = torch.cdist(points, self.template[self.anchors]).topk(6, largest=False)
            weight = 1 / (distance + 0.15) ** 2
            self._bindings[name] = self.anchors[nearest], weight / weight.sum(1, keepdim=True)
        anchor, weight = self._bindings[name]
        return points + ((moved - self.template)[anchor] * weight[..., None]).sum(1)

    def _points(self, skin: Tensor) -> dict[str, int]:
        """Vertices that serve as key points and measures."""
        x, y, z = self.template.unbind(1)

        def extreme(among: Tensor, score: Tensor) -> int:
            return int(among[score[among].argmax()])

        eyes = self.faces[self.parts == EYE].unique()
        ears = skin[(y[skin] > 6.9) & (y[skin] < 7.4)]
        middle = skin[(x[skin].abs() < 0.05) & (z[skin] > 1.0) & (y[skin] > 5.8)]
        return {
            "nose": extreme(skin, z),
            "left_eye": extreme(eyes[x[eyes] > 0], z),
            "right_eye": extreme(eyes[x[eyes] < 0], z),
            "left_ear": extreme(ears, x),
            "right_ear": extreme(ears, -x),
            "chin": extreme(middle, -y),
            "crown": extreme(skin, y),
        }


def interpolants(phenotypes: dict[str, Float[Tensor, "batch"]], mask: Tensor) -> Float[Tensor, "batch rows"]:
    """Blend weights: for each row of `mask`, the product of the piecewise-linear interpolants it selects.

    Phenotypes are in [0, 1] (age from -1/3, a newborn); those left out are average.
    """
    some = next(iter(phenotypes.values()), torch.zeros(1))
    origins = torch.stack([phenotypes.get(name, torch.full_like(some, 1 / 3)) for name in _ORIGINS], 1)
    columns = [origins / origins.sum(1, keepdim=True)]
    for name, knots in _KNOTS.items():
        columns.append(_hats(phenotypes.get(name, torch.full_like(some, 0.5)), torch.tensor(knots)))
    return torch.where(mask.bool(), torch.cat(columns, 1)[:, None], torch.ones(())).prod(-1)


def _hats(value: Float[Tensor, "batch"], knots: Float[Tensor, "knots"]) -> Float[Tensor, "batch knots"]:
    """Piecewise-linear hat functions; they sum to 1."""
    value = value.clamp(knots[0], knots[-1])[:, None]
    rise = (value - knots[:-1]) / (knots[1:] - knots[:-1])
    one = torch.ones_like(value)
    return torch.minimum(torch.cat([one, rise.clamp(0, 1)], 1), torch.cat([(1 - rise).clamp(0, 1), one], 1))


def _sparse(tensors: dict[str, Tensor], name: str, names: tuple[str, ...]) -> SparseShapes:
    ends = tensors[f"{name}.ends"].long()
    scale = torch.repeat_interleave(tensors[f"{name}.scale"].float(), torch.diff(ends, prepend=ends.new_zeros(1)))
    offset = tensors[f"{name}.offset"].float() * scale[:, None]
    return SparseShapes(names, ends, tensors[f"{name}.index"].long(), offset)


def _weights(names: tuple[str, ...], values: dict[str, float], what: str) -> Float[Tensor, "shapes"]:
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise StyleAvatarError(f"unknown {what}", got=unknown, expected=f"one of {', '.join(names)}")
    weights = torch.zeros(len(names))
    for name, value in values.items():
        weights[names.index(name)] = value
    return weights


def build_figure(look: Look, device: torch.device | str = "cpu") -> Figure:
    """Dress the head of a look."""
    model = HeadModel.load()
    head = _shape(model, look)
    points = {name: head[index] for name, index in model.points.items()}
    skin_normals = vertex_normals(head, model.faces[model.parts == SKIN])
    cloth = 0.06 * shirt_mask(model.template)
    beard = 0.0 * cloth
    if look.beard != "none":
        beard = (0.12 if look.beard == "full beard" else 0.09) * beard_mask(model.template, look.beard)
    dressed = head + skin_normals * (cloth + beard)[:, None]
    pieces: list[tuple[Tensor, Tensor, Tensor, Tensor | int]] = [(dressed, model.template, model.faces, model.parts)]
    for name, (vertices, faces), part in _worn(model, look):
        pieces.append((model.bind(name, vertices, head), vertices, faces, part))
    if look.glasses != "none":
        for (vertices, faces), part in _glasses(model, look, head, points):
            pieces.append((vertices, vertices, faces, part))
    return _assemble(model, look, head, points, pieces).to(device)


def _shape(model: HeadModel, look: Look) -> Float[Tensor, "vertices 3"]:
    """The bare head of a look, template coordinates, its skull as high as the template's."""
    draw = random.Random(f"face/{look.seed}")
    low, high = {"child": (0.22, 0.38), "young": (0.6, 0.72), "old": (0.93, 1.0)}[look.age]
    tilt = {"pale": (0.05, 0.4, 1), "tan": (0.3, 1, 0.6), "brown": (0.8, 0.3, 0.3), "dark": (1, 0.05, 0.05)}
    origin = [weight * draw.uniform(0.3, 1) for weight in tilt.get(look.skin, (1, 1, 1))]
    gender = draw.uniform(0.0, 0.1) if look.gender == "man" else draw.uniform(0.9, 1.0)
    vertices = model.phenotype(
        gender=gender,
        age=draw.uniform(low, high),
        muscle=draw.uniform(0.3, 0.8),
        weight=0.2 + 0.75 * look.build,
        **dict(zip(_ORIGINS, origin, strict=True)),
    )
    changes = {name: draw.gauss(0, 0.3) for name in sorted({pair[:-1] for pair in model.locals.names})}
    changes |= {name: 0.0 for name in changes if name.startswith("neck")}
    alien = look.kind == "alien"
    pointed = alien and look.hair not in ("bob", "long")
    changes |= {
        "eye-scale-incr": draw.uniform(1.8, 2.4) + (0.4 if alien else 0.0) - (0.5 if look.age == "child" else 0.0),
        "eye-height1-incr": 0.4,
        "eye-height2-incr": draw.uniform(0.7, 1.1),
        "eye-height3-incr": 0.4,
        "eye-eyefold-up": 0.0,
        "eye-epicanthus-out": 0.0,
        "eye-bag-incr": 0.0,
        "ear-wing-incr": -0.5,
        "head-age-incr": {"old": 1.0, "young": -0.3, "child": -0.4}[look.age],
        "head-scale-vert-incr": draw.uniform(-0.5, 0.2),
        "nose-scale-horiz-incr": -0.6 if alien else draw.uniform(-0.5, 0.6),
        "nose-scale-vert-incr": -0.6 if alien else draw.uniform(-0.4, 0.2),
        "mouth-scale-horiz-incr": draw.uniform(0.2, 0.8),
        "ear-scale-incr": 0.9 if pointed else draw.uniform(-0.3, 0.2),
        "ear-shape-triangle": 1.5 if pointed else 0.0,
    }
    model.change(vertices, changes)
    if look.smile:
        model.express(vertices, {"mouthSmileLeft": 1.2, "mouthSmileRight": 1.2})
    height = [(field[model.points["crown"]] - field[model.points["chin"]])[1] for field in (model.template, vertices)]
    origin_joint = model.joints["head"]
    vertices = (vertices - vertices[origin_joint]) * (height[0] / height[1]) + model.template[origin_joint]
    return _smaller_body(model, vertices)


def _smaller_body(model: HeadModel, vertices: Tensor) -> Tensor:
    """Shoulders drawn in and up under the head, so that a view that the head fills still holds them."""
    below = (_NECK - model.template[:, 1]).clamp(min=0)
    narrow = 1 - 0.28 * ramp(below, 0.0, 0.9)
    ear, shoulder = model.points["left_ear"], model.joints["l-shoulder"]
    missing = vertices[ear, 1] - _SHOULDER_DROP - vertices[shoulder, 1]
    lift = missing * (below / below[shoulder]).clamp(max=1.3) - 2.0 * (below - 1.7).clamp(min=0)
    return torch.stack([vertices[:, 0] * narrow, vertices[:, 1] + lift, vertices[:, 2] * narrow], 1)


def _worn(model: HeadModel, look: Look) -> list[tuple[str, Mesh, int]]:
    """What is carried by the scalp."""
    worn = []
    if look.hair != "bald":
        worn.append((look.hair, model.haircuts[look.hair], HAIR))
    if look.kind == "alien":
        worn.append(("antennae", antennae(), ANTENNA))
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
