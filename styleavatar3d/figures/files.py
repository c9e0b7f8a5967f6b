"""Figures from 3D files: GLB, glTF, VRM 0.x and 1.0, OBJ and PLY, placed and scaled into our world.

`load_figure` reads a stranger's file with bounds on everything (`model3d`), finds its head (`placing`) and gives a
`Figure`, which is drawn and guided like any other. docs/figures.md says what is accepted.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.face_points import face_points
from styleavatar3d.figures.fitting import shapes
from styleavatar3d.figures.gltf_model import read_gltf
from styleavatar3d.figures.heads import (
    EYE,
    FRAME,
    HAIR,
    HAT,
    HEAD_HEIGHT,
    LASH,
    MOUTH,
    SHIRT,
    SKIN,
    TEETH,
    Figure,
    HeadModel,
)
from styleavatar3d.figures.model3d import Guard, Limits, Model3D, Paint, read_bytes
from styleavatar3d.figures.obj import read_obj
from styleavatar3d.figures.placing import BODY_POINTS, HEAD_POINTS, Placed, place
from styleavatar3d.figures.ply import read_ply
from styleavatar3d.figures.rasterize import GBuffer
from styleavatar3d.figures.shapes import vertex_normals

FORMATS = (".glb", ".gltf", ".vrm", ".obj", ".ply")
_PARTS = (
    (LASH, r"lash|brow|eye_?line|eye_?lid"),
    (FRAME, r"glass|goggle|eye_?wear|spectacle"),
    (EYE, r"eye|iris|sclera|cornea|pupil"),
    (TEETH, r"teeth|tooth"),
    (MOUTH, r"tongue|mouth"),
    (HAIR, r"hair|beard|bangs|fringe|mous?tache|pony_?tail|braid"),
    (HAT, r"hat(?![a-z])|cap(?![a-z])|helmet|hood|head_?wear|beanie|crown|headphone|ribbon"),
    (SKIN, r"skin|face|head(?!band)"),
    (SHIRT, r"cloth|shirt|outfit|suit|dress|jacket|coat|sweater|tops|pants|bottom|shoe|skirt|sleeve|onepiece"),
)
"""What names mean, the first that fits."""
_FAR = 0.07
"""Head heights outside of the fitted head, from where on the surface is hair."""
_LANDMARK_BYTES = 1 << 20
Coordinate = Annotated[float, Field(ge=-1e9, le=1e9)]


class Landmarks(BaseModel):
    """A landmarks file: points of the figure in the file's own coordinates; see docs/figures.md."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    points: dict[str, tuple[Coordinate, Coordinate, Coordinate]]

    @classmethod
    def read(cls, path: Path) -> dict[str, Float[Tensor, "3"]]:
        """Named points. Raises StyleAvatarError for unknown names and numbers that are none."""
        try:
            data = read_bytes(path, Limits(bytes=_LANDMARK_BYTES))
            points = cls.model_validate_json(data).points
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise StyleAvatarError(
                f"{path.name}: not a landmarks file", got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                expected='{"points": {"left_eye": [x, y, z], ...}}', remedy="see docs/figures.md",
            ) from error  # fmt: skip
        unknown = sorted(set(points) - set(HEAD_POINTS) - set(BODY_POINTS))
        if unknown:
            raise StyleAvatarError(f"{path.name}: unknown landmarks", got=unknown,
                                   expected=", ".join((*HEAD_POINTS, *BODY_POINTS)))  # fmt: skip
        return {name: torch.tensor(point) for name, point in points.items()}


@dataclass(frozen=True, kw_only=True)
class FileFigure(Figure):
    """A figure read from a file. Colours are the file's own; nobody knows its `look`."""

    colors: Float[Tensor, "vertices 3"]
    """Linear, 0..1, multiplied with tint and texture."""
    uv: Float[Tensor, "vertices 2"]
    paint: Int[Tensor, "faces"]
    paints: tuple[Paint, ...]
    source: str
    sha256: str
    title: str
    licence: str
    """As the file states it, or "not stated"."""
    found_by: str
    """What gave the key points: "landmarks", "skeleton" or "fit"."""

    @property
    def closed(self) -> Bool[Tensor, "faces"]:
        """None: files are often open, and sometimes inside out."""
        return torch.zeros_like(self.parts, dtype=torch.bool)

    def albedo(self, buffer: GBuffer) -> Float[Tensor, "covered 3"]:
        """Colours, sRGB 0..1, of the covered pixels."""
        color, uv = buffer.interpolate(torch.cat([self.colors, self.uv], 1)).split([3, 2], 1)
        which = self.paint[buffer.face]
        tints = torch.tensor([paint.tint[:3] for paint in self.paints], dtype=torch.float32).to(color)
        color = color * tints[which]
        for number, paint in enumerate(self.paints):
            if paint.texture is not None:
                here = torch.nonzero(which == number).squeeze(1)
                color[here] *= _texels(paint, uv[here])[:, :3].to(color).div(255) ** 2.2
        return color.clamp(0, 1) ** (1 / 2.2)


def load_figure(path: str | Path, landmarks: str | Path | None = None, limits: Limits | None = None) -> FileFigure:
    """Read a figure from a GLB, glTF (data embedded), VRM, OBJ or PLY file.

    `landmarks` names a JSON of points, for models without a skeleton whose head is not found by itself.
    Raises FileRefused for files that are broken, unsupported or over the limits, StyleAvatarError without a head.
    """
    path = Path(path)
    limits = limits or Limits()
    given = Landmarks.read(Path(landmarks)) if landmarks else None
    data = read_bytes(path, limits)
    guard = Guard(path.name, limits)
    try:
        model = _opaque(_read(data, guard, path))
        figure = figure_of(model, path.name, hashlib.sha256(data).hexdigest(), given)
    except (MemoryError, RecursionError, OverflowError) as error:
        guard.refuse("it needs more than this machine has", got=type(error).__name__, remedy="simplify the model")
    return figure


def _read(data: bytes, guard: Guard, path: Path) -> Model3D:
    """By content; a name ending only tells OBJ from other text."""
    head = data[:64].lstrip()
    if data[:4] == b"glTF" or head[:1] == b"{":
        return read_gltf(data, guard)
    if head[:3] == b"ply":
        return read_ply(data, guard)
    if path.suffix.lower() == ".obj":
        return read_obj(data, guard, path.parent)
    guard.refuse("not a 3D file that can be read", got=f"{path.suffix or 'no suffix'}, starts with {bytes(data[:8])!r}",
                 expected=", ".join(FORMATS), remedy="open it in Blender and export it as glTF 2.0 (.glb)")  # fmt: skip


def _opaque(model: Model3D) -> Model3D:
    """Without faces that cannot be seen: no area of texture, or nothing but holes of a cut-out."""
    keep = np.ones(len(model.faces), bool)
    for number, paint in enumerate(model.paints):
        if paint.cutout is not None and paint.texture is not None:
            here = np.nonzero(model.paint == number)[0]
            corner = model.uv[model.faces[here]]
            spots = torch.tensor(np.concatenate([corner, corner.mean(1, keepdims=True)], 1).reshape(-1, 2))
            alpha = _texels(paint, spots)[:, 3].view(-1, 4).amax(1).numpy() / 255 * paint.tint[3]
            keep[here] = alpha >= paint.cutout
        elif paint.cutout is not None and paint.tint[3] < paint.cutout:
            keep[model.paint == number] = False
    if not keep.any():
        raise StyleAvatarError("everything in this file is transparent", remedy="export it with opaque materials")
    return replace(model, faces=model.faces[keep], paint=model.paint[keep])


def _texels(paint: Paint, uv: Float[Tensor, "points 2"]) -> UInt8[Tensor, "points 4"]:
    """The nearest texels."""
    texture = torch.from_numpy(paint.texture)
    uv = uv - uv.floor() if paint.wrap else uv.clamp(0, 1)
    height, width = texture.shape[:2]
    x, y = (uv.cpu() * torch.tensor([width, height])).long().unbind(1)
    return texture[y.clamp(0, height - 1), x.clamp(0, width - 1)].to(uv.device)


def figure_of(
    model: Model3D, source: str, sha256: str, landmarks: dict[str, Float[Tensor, "3"]] | None = None
) -> FileFigure:
    """The figure that a model shows. Raises StyleAvatarError where no head is found."""
    shift, size = _spread(model)
    vertices = torch.tensor((model.vertices - shift) / size, dtype=torch.float32)
    faces, paint = torch.tensor(model.faces), torch.tensor(model.paint)
    faces = _outward(vertices, faces)
    parts = torch.tensor([part_of(entry.name) for entry in model.paints])[paint]
    local = None if landmarks is None else {
        name: ((point - torch.tensor(shift)) / size).float() for name, point in landmarks.items()
    }  # fmt: skip
    bare = torch.isin(parts, torch.tensor([SKIN, EYE, SHIRT]))
    bare = bare if int(bare.sum()) > 100 else torch.ones_like(bare)
    placed = place(_shifted(model, shift, size), vertices, faces, bare, parts == EYE, local)
    world = placed.world(vertices)
    if not bool((parts == HAIR).any()):
        parts = torch.where((parts == SKIN) & _stands_off(world, faces, placed), HAIR, parts)
    return FileFigure(
        vertices=world, faces=faces, parts=parts, face=face_points(HeadModel.load(), placed.head),
        canonical=world @ placed.canonical[:, :3].T + placed.canonical[:, 3], normals=_smooth_normals(world, faces),
        key_points=placed.key_points, landmarks=placed.head[HeadModel.load().landmarks],
        colors=torch.tensor(model.colors, dtype=torch.float32), uv=torch.tensor(model.uv, dtype=torch.float32),
        paint=paint, paints=model.paints, source=source, sha256=sha256, title=model.title,
        licence=model.licence or "not stated", found_by=placed.found_by,
    )  # fmt: skip


def _spread(model: Model3D) -> tuple[np.ndarray, float]:
    """Middle and size, which bring any unit near 1."""
    used = model.vertices[np.unique(model.faces)]
    low, high = used.min(0), used.max(0)
    return (low + high) / 2, max(float((high - low).max()), 1e-30)


def _shifted(model: Model3D, shift: np.ndarray, size: float) -> Model3D:
    positions = None if model.positions is None else (model.positions - shift) / size
    return replace(model, positions=positions, gaze=None if model.gaze is None else (model.gaze - shift) / size)


def _outward(vertices: Tensor, faces: Tensor) -> Int[Tensor, "faces 3"]:
    """Faces turned so that the volume within is positive."""
    a, b, c = (vertices - vertices[faces].mean((0, 1)))[faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum(1).double().sum()
    return faces.flip(1) if float(volume) < 0 else faces


def part_of(name: str) -> int:
    """The part that a mesh/node/material name speaks of, the material first; SKIN where it says nothing."""
    for word in reversed(name.split("/")):
        word = re.sub(r"([a-z])([A-Z])", r"\1_\2", word).lower()
        for part, pattern in _PARTS:
            if re.search(pattern, word):
                return part
    return SKIN


def _stands_off(world: Tensor, faces: Tensor, placed: Placed) -> Bool[Tensor, "faces"]:
    """Faces that lie clearly outside of the fitted head, above the chin: hair and hats of meshes without names."""
    form = shapes()
    sample, normals = placed.head[form.sample], form.normals[form.sample]
    centre = world[faces].mean(1)
    chin = placed.head[HeadModel.load().points["chin"], 1]
    far = torch.zeros(len(faces), dtype=torch.bool)
    near = torch.nonzero((centre[:, 1] > chin) & (centre.norm(dim=1) < 2.5 * HEAD_HEIGHT)).squeeze(1)
    for some in near.split(20_000):
        nearest = torch.cdist(centre[some], sample).argmin(1)
        off = ((centre[some] - sample[nearest]) * normals[nearest]).sum(1)
        far[some] = off > _FAR * HEAD_HEIGHT
    return far


def _smooth_normals(vertices: Tensor, faces: Tensor) -> Float[Tensor, "vertices 3"]:
    """Normals without the seams along which files split their vertices."""
    keys = (vertices * 1e5).round().long()
    _, same = torch.unique(keys, dim=0, return_inverse=True)
    first = torch.zeros(int(same.max()) + 1, 3).index_copy_(0, same, vertices)
    return vertex_normals(first, same[faces])[same]


def about(figure: FileFigure) -> dict[str, Any]:
    """What a person wants to know of a loaded figure, for logs and JSON."""
    return {
        "source": figure.source, "sha256": figure.sha256, "title": figure.title, "licence": figure.licence,
        "vertices": len(figure.vertices), "faces": len(figure.faces), "key points by": figure.found_by,
        "key_points": {name: [round(x, 4) for x in point.tolist()] for name, point in figure.key_points.items()},
    }  # fmt: skip
