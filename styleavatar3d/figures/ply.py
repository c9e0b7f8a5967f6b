"""Stanford PLY, text and binary, with vertex colours. Source: G. Turk, "The PLY Polygon File Format" (1994)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from styleavatar3d.figures.model3d import Guard, Model3D, Paint

_HEADER = 1 << 16
_TICK = 1 << 14
_KINDS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass
class _Property:
    name: str
    kind: str
    counted: str | None = None
    """Type of the length of a list."""


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property]


class _Body:
    """The data after the header, read from front to back."""

    def __init__(self, data: bytes, order: str, guard: Guard):
        self.data, self.order, self.guard, self.at = data, order, guard, 0
        self.words = data.split() if not order else []

    def table(self, element: _Element) -> np.ndarray:
        """Rows without lists, [count, properties] float64."""
        width = len(element.properties)
        if not self.order:
            return self._numbers(element.count * width).reshape(-1, width)
        row = np.dtype([(f"f{i}", self.order + item.kind) for i, item in enumerate(element.properties)])
        rows = np.frombuffer(self._bytes(row.itemsize * element.count), row)
        with np.errstate(invalid="ignore"):  # whoever uses a number looks at it
            return np.stack([rows[f"f{i}"].astype(np.float64) for i in range(width)], 1)

    def lists(self, element: _Element, wanted: int) -> list[np.ndarray]:
        """Property `wanted` of every row, where some properties are lists."""
        regular = self._triangles(element)
        if regular is not None:
            return list(regular)
        found = []
        for number in range(element.count):
            for place, item in enumerate(element.properties):
                length = 1.0 if item.counted is None else float(self._some(item.counted, 1)[0])
                if not 0 <= length <= 4096:
                    self.guard.refuse(f"list {number} of {element.name} is too long", got=length, expected="0-4096")
                values = self._some(item.kind, int(length))
                if place == wanted:
                    found.append(values)
            if number % _TICK == 0:
                self.guard.tick()
        return found

    def _triangles(self, element: _Element) -> np.ndarray | None:
        """The fast road: one list, always of three, in a binary file."""
        item = element.properties[0]
        if not self.order or len(element.properties) != 1 or not item.counted:
            return None
        row = np.dtype([("n", self.order + item.counted), ("v", self.order + item.kind, (3,))])
        if self.at + row.itemsize * element.count > len(self.data):
            return None
        rows = np.frombuffer(self.data, row, element.count, self.at)
        if not (rows["n"] == 3).all():
            return None
        self.at += row.itemsize * element.count
        return rows["v"].astype(np.float64)

    def _some(self, kind: str, count: int) -> np.ndarray:
        if not self.order:
            return self._numbers(count)
        dtype = np.dtype(self.order + kind)
        return np.frombuffer(self._bytes(dtype.itemsize * count), dtype).astype(np.float64)

    def _bytes(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            self._cut_off()
        self.at += count
        return self.data[self.at - count : self.at]

    def _numbers(self, count: int) -> np.ndarray:
        if self.at + count > len(self.words):
            self._cut_off()
        self.at += count
        try:
            return np.array(self.words[self.at - count : self.at]).astype(np.float64) if count else np.zeros(0)
        except ValueError as error:
            self.guard.refuse("a word that is no number", got=str(error), remedy="export the model again")

    def _cut_off(self) -> NoReturn:
        self.guard.refuse("the PLY is cut off", expected="as much data as its header says", remedy="get the file again")


def read_ply(data: bytes, guard: Guard) -> Model3D:
    """The polygons of a PLY, split into triangles. Raises FileRefused."""
    order, elements, start = _header(data, guard)
    body, vertices, names, rings = _Body(data[start:], order, guard), None, [], []
    for element in elements:
        lists = [place for place, item in enumerate(element.properties) if item.counted]
        guard.spend("numbers", element.count * len(element.properties))
        if element.name == "vertex" and not lists:
            guard.spend("vertices", element.count)
            vertices, names = body.table(element), [item.name for item in element.properties]
        elif lists:
            guard.spend("faces", element.count if element.name == "face" else 0)
            rows = body.lists(element, lists[0])
            rings = rows if element.name == "face" else rings
        else:
            body.table(element)
    if vertices is None or not {"x", "y", "z"} <= set(names):
        guard.refuse("there are no vertices in it", got=names[:8], expected="x, y and z")
    if not rings:
        guard.refuse("there are no faces in it", got=f"{len(vertices)} points",
                     expected="a mesh: a cloud of points or splats hides nothing",
                     remedy="reconstruct its surface first (in MeshLab: Screened Poisson)")  # fmt: skip
    return _model(vertices, names, rings, guard)


def _header(data: bytes, guard: Guard) -> tuple[str, list[_Element], int]:
    end = data.find(b"end_header", 0, _HEADER)
    if end < 0:
        guard.refuse("the header of the PLY does not end", expected=f"end_header within {_HEADER:,} bytes")
    start = data.find(b"\n", end) + 1
    lines = data[:end].decode("ascii", errors="replace").splitlines()
    order, elements = None, []
    for line in lines:
        words = line.split()
        try:
            if words[:1] == ["format"]:
                order = _ORDERS[words[1]]
            elif words[:1] == ["element"]:
                elements.append(_Element(words[1], int(words[2]), []))
                if elements[-1].count < 0 or len(elements) > 64:
                    raise ValueError("a count below 0, or more than 64 elements")
            elif words[:2] == ["property", "list"]:
                elements[-1].properties.append(_Property(words[4], _KINDS[words[3]], _KINDS[words[2]]))
            elif words[:1] == ["property"]:
                elements[-1].properties.append(_Property(words[2], _KINDS[words[1]]))
        except (KeyError, IndexError, ValueError) as error:
            guard.refuse("a line of the header is broken", got=line[:80], expected=f"PLY 1.0 ({error})")
    if order is None or not start or any(not element.properties for element in elements):
        guard.refuse("the header of the PLY is broken", got=lines[:4], expected="a format and elements")
    return order, elements, start


def _model(table: np.ndarray, names: list[str], rings: list[np.ndarray], guard: Guard) -> Model3D:
    points = guard.finite(table[:, [names.index(axis) for axis in "xyz"]], "vertices")
    colors = np.ones_like(points)
    channels = [names.index(color) for color in ("red", "green", "blue") if color in names]
    if len(channels) == 3:
        stored = guard.finite(table[:, channels], "colours").clip(0)
        colors = (stored / (255.0 if stored.size and stored.max() > 1 else 1.0)).clip(0, 1) ** 2.2
    faces = []
    for ring in rings:
        if len(ring) > 2:
            faces += [(ring[0], second, third) for second, third in zip(ring[1:], ring[2:], strict=False)]
    guard.spend("faces", max(0, len(faces) - len(rings)))
    index = guard.finite(np.array(faces).reshape(-1, 3), "faces").astype(np.int64)
    if not len(index) or index.min() < 0 or index.max() >= len(points):
        guard.refuse("a triangle has a corner that is not there", got=int(index.max(initial=-1)),
                     expected=f"below {len(points)}", remedy="export the model again")  # fmt: skip
    a, b, c = index.T
    index = index[(a != b) & (b != c) & (a != c)]
    if not len(index):
        guard.refuse("all faces are degenerate", expected="triangles with three corners")
    return Model3D(points, index, np.zeros((len(points), 2)), colors, np.zeros(len(index), np.int64),
                   (Paint("ply"),), "ply")  # fmt: skip
