"""Parametric busts: the baked head model, and what a figure made of it is.

The model is linear in a phenotype basis, in signed local changes and in 52 expressions (`data/heads.md` says how it was
baked, and from what). `faces` shapes the head of a look, `dress` puts on what it wears.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import SCALP
from styleavatar3d.figures.hair import Skull, haircuts
from styleavatar3d.figures.looks import Look

SKIN, EYE, LASH, HAIR, SHIRT, FRAME, LENS, ANTENNA, TEETH, MOUTH, HAT, TUSK, METAL = range(13)
"""Part ids. The shirt is the lower part of the skin's faces; `anatomy.shirt_mask` separates it. MOUTH is the tongue and
the inside of the mouth, METAL what is screwed onto robots."""
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
        unknown = set(values) - set(_KNOTS) - set(ORIGINS)
        if unknown:
            raise StyleAvatarError("unknown phenotype", got=sorted(unknown), expected=", ".join([*_KNOTS, *ORIGINS]))
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
