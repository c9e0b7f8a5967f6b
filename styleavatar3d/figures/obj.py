"""Wavefront OBJ, with vertex colours, and the materials and pictures that lie in its own folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from styleavatar3d.figures.model3d import Guard, Model3D, Paint, decode

_LOG = logging.getLogger(__name__)
_TICK = 1 << 14
_LINE = 50_000
_BESIDE = 64 << 20
"""Bytes of a material file or a picture."""


@dataclass
class _Mesh:
    vertices: list[list[float]] = field(default_factory=list)
    uv: list[list[float]] = field(default_factory=list)
    corners: dict[tuple[int, int], int] = field(default_factory=dict)
    """(vertex, uv) to its number."""
    faces: list[tuple[int, int, int]] = field(default_factory=list)
    paint: list[int] = field(default_factory=list)
    names: dict[tuple[str, str], int] = field(default_factory=dict)
    """(object, material) to the number of their paint."""


def read_obj(data: bytes, guard: Guard, folder: Path) -> Model3D:
    """The polygons of an OBJ, split into triangles. Raises FileRefused."""
    mesh, part, material, libraries = _Mesh(), "", "", []
    for number, words in _lines(data, guard):
        try:
            if words[0] == "v":
                guard.spend("vertices", 1)
                mesh.vertices.append([float(word) for word in words[1:8]])
            elif words[0] == "vt":
                guard.spend("numbers", 2)
                mesh.uv.append([float(words[1]), float(words[2]) if len(words) > 2 else 0.0])
            elif words[0] == "f":
                _polygon(mesh, words[1:], guard, mesh.names.setdefault((part, material), len(mesh.names)))
            elif words[0] in ("o", "g"):
                part = " ".join(words[1:])[:200]
            elif words[0] == "usemtl":
                material = " ".join(words[1:])[:200]
            elif words[0] == "mtllib":
                libraries.append(" ".join(words[1:]))
        except (ValueError, IndexError) as error:
            guard.refuse(f"line {number} is broken", got=" ".join(words)[:80], expected=str(error) or "OBJ",
                         remedy="export the model again")  # fmt: skip
    if not mesh.faces:
        guard.refuse("there are no faces in it", remedy="export a mesh as OBJ, GLB or PLY")
    return _model(mesh, _materials(libraries[:16], guard, folder), guard)


def _lines(data: bytes, guard: Guard) -> Iterator[tuple[int, list[str]]]:
    """Number and words of the lines that say something."""
    if b"\0" in data[:4096]:
        guard.refuse("this is no OBJ but a binary file", expected="text")
    text, number = data.decode("utf-8", errors="replace").replace("\\\n", " "), 0
    start, length = 0, len(text)
    while start < length:
        end = text.find("\n", start)
        end = length if end < 0 else end
        number += 1
        if end - start > _LINE:
            guard.refuse(f"line {number} is too long", got=f"{end - start:,} characters", expected=f"at most {_LINE:,}")
        words = text[start:end].split()
        start = end + 1
        if number % _TICK == 0:
            guard.tick()
        if words and not words[0].startswith("#"):
            yield number, words


def _polygon(mesh: _Mesh, words: list[str], guard: Guard, paint: int) -> None:
    """A fan of triangles."""
    if len(words) < 3:
        raise ValueError("a face has at least three corners")
    guard.spend("faces", len(words) - 2)
    ring = []
    for word in words:
        vertex, _, rest = word.partition("/")
        uv = rest.partition("/")[0]
        key = _index(vertex, len(mesh.vertices)), _index(uv, len(mesh.uv)) if uv else -1
        ring.append(mesh.corners.setdefault(key, len(mesh.corners)))
    for second, third in zip(ring[1:], ring[2:], strict=False):
        if len({ring[0], second, third}) == 3:
            mesh.faces.append((ring[0], second, third))
            mesh.paint.append(paint)


def _index(word: str, count: int) -> int:
    """From 1, or backwards from -1."""
    number = int(word)
    index = number - 1 if number > 0 else count + number
    if number == 0 or not 0 <= index < count:
        raise ValueError(f"an index of 1-{count}, that is there already")
    return index


def _model(mesh: _Mesh, materials: dict[str, Paint], guard: Guard) -> Model3D:
    guard.spend("vertices", len(mesh.corners))
    lengths = {len(row) for row in mesh.vertices}
    if min(lengths) < 3:
        guard.refuse("a vertex has fewer than three numbers", got=min(lengths), expected="x y z")
    table = np.array([(row + [1.0] * 6)[:3] + (row[3:6] if len(row) >= 6 else [1.0] * 3) for row in mesh.vertices])
    guard.finite(table, "vertices")
    which = np.array(list(mesh.corners)).reshape(-1, 2)
    texture = guard.finite(np.array([*mesh.uv, [0.0, 0.0]]), "texture coordinates")[which[:, 1]]
    colors = table[which[:, 0], 3:].clip(0) / max(1.0, float(table[:, 3:].max()))
    paints = []
    for part, material in mesh.names:
        paint = materials.get(material, Paint(""))
        paints.append(Paint(f"{part}//{material}", paint.tint, paint.texture))
    return Model3D(
        table[which[:, 0], :3], np.array(mesh.faces), texture * [1, -1] + [0, 1], colors**2.2,
        np.array(mesh.paint), tuple(paints), "obj",
    )  # fmt: skip


def _materials(libraries: list[str], guard: Guard, folder: Path) -> dict[str, Paint]:
    found: dict[str, Paint] = {}
    for library in libraries:
        data, name, tint, picture = _beside(library, guard, folder), None, [1.0] * 3, None
        for number, words in _lines(data or b"", guard):
            if words[0] == "newmtl":
                name, tint, picture = " ".join(words[1:])[:200], [1.0] * 3, None
                guard.spend("nodes", 1)
            try:
                tint = [min(max(float(word), 0.0), 1.0) for word in words[1:4]] if words[0] == "Kd" else tint
            except ValueError as error:
                guard.refuse(f"line {number} of {library} is broken", got=" ".join(words)[:80], expected=str(error))
            if words[0] == "map_Kd":
                options = words[1:2] and words[1].startswith("-")
                file = words[-1] if options else " ".join(words[1:])
                image = _beside(file, guard, folder)
                picture = decode(image, guard, file) if image else None
            if name is not None and len(tint) == 3:
                red, green, blue = (1.0 if picture is not None else channel**2.2 for channel in tint)
                found[name] = Paint(name, (red, green, blue, 1.0), picture)
    return found


def _beside(name: str, guard: Guard, folder: Path) -> bytes | None:
    """The content of a file in the folder of the OBJ; None, with a warning, where it is missing."""
    windows, posix = PureWindowsPath(name), PurePosixPath(name.replace("\\", "/"))
    outside = windows.drive or windows.root or posix.is_absolute() or ".." in posix.parts or ":" in name
    try:
        path = (folder / posix).resolve()
        if outside or "\0" in name or not path.is_relative_to(folder.resolve()):
            guard.refuse("it names a file outside of its folder", got=name[:120], expected="a file beside the OBJ",
                         remedy="put materials and pictures beside the OBJ, or export a GLB")  # fmt: skip
        if not path.is_file():
            _LOG.warning("%s: %s is not there: what it colours stays plain", guard.name, name[:120])
            return None
        if path.stat().st_size > _BESIDE:
            guard.refuse(f"{name[:120]} is too large", got=f"{path.stat().st_size:,} bytes", expected=f"{_BESIDE:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        guard.refuse("it names a file that cannot be read", got=f"{name[:120]!r} ({error})")
