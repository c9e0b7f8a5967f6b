"""Parametric busts: the baked head model, and what a figure made of it is.

The model is linear in a phenotype basis, in signed local changes and in 52 expressions (`data/heads.md` says how it was
baked, and from what). `faces` shapes the head of a look, `dress` puts on what it wears.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import SCALP
from styleavatar3d.figures.landmarks import landmark_vertices
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.rasterize import GBuffer

SKIN, EYE, LASH, HAIR, SHIRT, FRAME, LENS, ANTENNA, TEETH, MOUTH, HAT, TUSK, METAL = range(13)
"""Part ids. The shirt is the lower part of the skin's faces; `anatomy.shirt_mask` separates it. MOUTH is the tongue and
the inside of the mouth, METAL what is screwed onto robots."""
_BARE = (SKIN, EYE, TEETH, MOUTH)
_CLOSED = (SKIN, EYE, TEETH, MOUTH, FRAME, ANTENNA, TUSK, METAL)
HEAD_HEIGHT = 0.36
"""Chin to crown of a bare head, world units (1 unit = 0.64 m)."""

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
ORIGINS = ("african", "asian", "caucasian")
_FLIP = torch.tensor([-1.0, 1.0, 1.0])
Kind = TypeVar("Kind", bound="Figure")


@dataclass(frozen=True)
class Figure:
    """A figure in world units: origin between the ears, y up, face to +z."""

    vertices: Float[Tensor, "vertices 3"]
    faces: Int[Tensor, "faces 3"]
    parts: Int[Tensor, "faces"]
    canonical: Float[Tensor, "vertices 3"]
    """Template coordinates (`anatomy`), where colours are painted."""
    normals: Float[Tensor, "vertices 3"]
    key_points: dict[str, Float[Tensor, "3"]]
    landmarks: Float[Tensor, "landmarks 3"]
    """Points of the face, in the order of `landmarks.LANDMARKS`."""
    face: Float[Tensor, "70 3"] | None = None
    """`face_points`, where they are known."""

    @property
    def bare(self) -> Bool[Tensor, "faces"]:
        """Faces of the figure without hair and things worn."""
        return self._in(_BARE)

    @property
    def closed(self) -> Bool[Tensor, "faces"]:
        """Faces that are never seen from behind."""
        return self._in(_CLOSED)

    def albedo(self, buffer: GBuffer) -> Float[Tensor, "covered 3"] | None:
        """Colours of its own, sRGB 0..1, of the covered pixels; None for a figure that waits to be painted."""
        return None

    def _in(self, parts: tuple[int, ...]) -> Bool[Tensor, "faces"]:
        return torch.isin(self.parts, self.parts.new_tensor(parts))

    def to(self: Kind, device: torch.device | str) -> Kind:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        points = {name: point.to(device) for name, point in self.key_points.items()}
        return replace(self, key_points=points, **moved)


@dataclass(frozen=True, kw_only=True)
class Bust(Figure):
    """A figure of the parametric head, of which every attribute is known."""

    look: Look


@dataclass(frozen=True)
class SparseShapes:
    """Named displacements that touch few vertices: for each, their indices [moved] and offsets [moved, 3]."""

    names: tuple[str, ...]
    index: tuple[Tensor, ...]
    offset: tuple[Tensor, ...]

    def add(self, vertices: Float[Tensor, "vertices 3"], weights: dict[str, float]) -> None:
        """Add the weighted sum of the shapes to `vertices`, in place."""
        some = [(self.names.index(name), weight) for name, weight in weights.items() if weight]
        if some:
            moved = torch.cat([self.offset[i] * weight for i, weight in some])
            vertices.index_add_(0, torch.cat([self.index[i] for i, _ in some]), moved)


class HeadModel:
    """The baked bust. Vertices are template coordinates: decimetres, y up, face to +z; the file holds the left half."""

    def __init__(self, tensors: dict[str, Tensor], metadata: dict[str, str]):
        half = tensors["template"]
        self._beside = torch.nonzero(half[:, 0] > 0).squeeze(1)
        self.mirror = torch.cat([torch.arange(len(half)), self._beside])
        self.mirror[self._beside] = len(half) + torch.arange(len(self._beside))
        self.template = self.unfold(half)
        faces = tensors["faces"].long()
        self.faces = torch.cat([faces, self.mirror[faces].flip(1)])
        self.parts = tensors["parts"].long().repeat(2)
        self.basis = tensors["phenotype.basis"].float() * tensors["phenotype.scale"][:, None, None]
        self.mix, self.mask = tensors["phenotype.mix"].float(), tensors["phenotype.mask"].bool()
        pairs = tuple(f"{name}{sign}" for name in metadata["locals"].split() for sign in "+-")
        self.locals = _sparse(tensors, "local", pairs)
        """Of the left half: they are symmetric."""
        self.expressions = self._both_sides(_sparse(tensors, "expression", tuple(metadata["expressions"].split())))
        names = metadata["joints"].split()
        joints = {name: len(half) - len(names) + i for i, name in enumerate(names)}
        twins = {f"r-{name[2:]}": int(self.mirror[index]) for name, index in joints.items() if name[:2] == "l-"}
        self.joints = joints | twins
        skin = self.faces[self.parts == SKIN].unique()
        head = skin[self.template[skin, 1] > SCALP]
        hair = tensors["hair_anchors"].long()
        self.anchors = torch.cat([head, hair, self.mirror[hair]]).unique()
        self.eyeballs = self.faces[self.parts == EYE].unique()
        teeth = self.faces[self.parts == TEETH].unique()
        self.teeth = {"lower": teeth[torch.isin(teeth, self._moved_by("jawOpen"))]}
        self.teeth["upper"] = teeth[~torch.isin(teeth, self.teeth["lower"])]
        self.points = self._points(skin)
        self.landmarks = landmark_vertices(self.template, skin)

    def unfold(self, half: Float[Tensor, "... half 3"]) -> Float[Tensor, "... vertices 3"]:
        """Both halves of a symmetric field."""
        return torch.cat([half, half[..., self._beside, :] * _FLIP], -2)

    def _both_sides(self, shapes: SparseShapes) -> SparseShapes:
        """The shapes, and the mirror images of those named "Left"."""
        lefts = [i for i, name in enumerate(shapes.names) if "Left" in name]
        return SparseShapes(
            shapes.names + tuple(shapes.names[i].replace("Left", "Right") for i in lefts),
            shapes.index + tuple(self.mirror[shapes.index[i]] for i in lefts),
            shapes.offset + tuple(shapes.offset[i] * _FLIP for i in lefts),
        )

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
        unknown = set(values) - set(_KNOTS) - set(ORIGINS)
        if unknown:
            raise StyleAvatarError("unknown phenotype", got=sorted(unknown), expected=", ".join([*_KNOTS, *ORIGINS]))
        point = {name: torch.tensor([float(value)]) for name, value in values.items()}
        row = interpolants(point, self.mask)[0] @ self.mix
        return self.template + self.unfold(torch.einsum("k,kvc->vc", row, self.basis))

    def change(self, vertices: Float[Tensor, "vertices 3"], changes: dict[str, float]) -> None:
        """Apply signed local changes, such as {"eye-scale-incr": 1.5}, in place."""
        signed = {f"{name}{'-' if value < 0 else '+'}": abs(value) for name, value in changes.items()}
        half = torch.zeros(len(self.template) - len(self._beside), 3)
        self.locals.add(half, _known(self.locals.names, signed, "local change"))
        vertices += self.unfold(half)

    def _moved_by(self, expression: str) -> Int[Tensor, "moved"]:
        return self.expressions.index[self.expressions.names.index(expression)]

    def express(self, vertices: Float[Tensor, "vertices 3"], expression: dict[str, float]) -> None:
        """Apply expression strengths, such as {"jawOpen": 0.5}, in place."""
        self.expressions.add(vertices, _known(self.expressions.names, expression, "expression"))

    def _points(self, skin: Tensor) -> dict[str, int]:
        """Vertices that serve as key points and measures."""
        x, y, z = self.template.unbind(1)

        def extreme(among: Tensor, score: Tensor) -> int:
            return int(among[score[among].argmax()])

        eyes = self.eyeballs
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
    origins = torch.stack([phenotypes.get(name, torch.full_like(some, 1 / 3)) for name in ORIGINS], 1)
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
    counts = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    rounded = tensors[f"{name}.offset"].float().split(counts)
    offsets = [part * scale for part, scale in zip(rounded, tensors[f"{name}.scale"].float(), strict=True)]
    return SparseShapes(names, tensors[f"{name}.index"].long().split(counts), tuple(offsets))


def _known(names: tuple[str, ...], values: dict[str, float], what: str) -> dict[str, float]:
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise StyleAvatarError(f"unknown {what}", got=unknown, expected=f"one of {', '.join(names)}")
    return values
