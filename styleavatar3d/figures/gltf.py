"""The container and the arrays of glTF 2.0: GLB or JSON with embedded data, checked before they are used.

Source: the glTF 2.0 specification (Khronos), sections 3.6 (buffers, accessors), 4 (GLB), KHR_mesh_quantization.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from styleavatar3d.figures.model3d import Guard

_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_OBJECTS = 500_000
"""A bound on memory before parsing: a node of two bytes becomes hundreds."""
_UNPACK = {
    "KHR_draco_mesh_compression": "decompress it: npx @gltf-transform/cli copy in.glb out.glb",
    "EXT_meshopt_compression": "decompress it: npx @gltf-transform/cli copy in.glb out.glb",
    "KHR_meshopt_compression": "decompress it: npx @gltf-transform/cli copy in.glb out.glb",
    "KHR_texture_basisu": "convert the textures: npx @gltf-transform/cli png in.glb out.glb, or export with PNG ones",
    "KHR_gaussian_splatting": "export a mesh: Gaussian splats have no surface",
}
_UNDERSTOOD = ("KHR_materials_", "KHR_texture_transform", "KHR_mesh_quantization", "KHR_lights_", "EXT_texture_webp",
               "VRM", "KHR_animation_pointer", "KHR_node_visibility", "KHR_xmp", "MSFT_lod")  # fmt: skip

Index = Annotated[int, Field(ge=0, lt=1 << 31)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
Item = TypeVar("Item")


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    name: str = ""
    extensions: dict[str, Any] = {}


class SparseIndices(_Part):
    bufferView: Index
    byteOffset: Index = 0
    componentType: Literal[5121, 5123, 5125]


class SparseValues(_Part):
    bufferView: Index
    byteOffset: Index = 0


class Sparse(_Part):
    count: Annotated[int, Field(ge=1, lt=1 << 31)]
    indices: SparseIndices
    values: SparseValues


class Accessor(_Part):
    bufferView: Index | None = None
    byteOffset: Index = 0
    componentType: Literal[5120, 5121, 5122, 5123, 5125, 5126]
    normalized: bool = False
    count: Annotated[int, Field(ge=1, lt=1 << 31)]
    type: Literal["SCALAR", "VEC2", "VEC3", "VEC4", "MAT2", "MAT3", "MAT4"]
    sparse: Sparse | None = None


class BufferView(_Part):
    buffer: Index
    byteOffset: Index = 0
    byteLength: Annotated[int, Field(ge=1, lt=1 << 31)]
    byteStride: Annotated[int, Field(ge=4, le=252)] | None = None


class Buffer(_Part):
    byteLength: Annotated[int, Field(ge=1, lt=1 << 31)]
    uri: str | None = None


class Picture(_Part):
    uri: str | None = None
    bufferView: Index | None = None


class Texture(_Part):
    source: Index | None = None
    sampler: Index | None = None


class Sampler(_Part):
    wrapS: int = 10497


class TextureInfo(_Part):
    index: Index
    texCoord: Annotated[int, Field(ge=0, le=15)] = 0


class Metallic(_Part):
    baseColorFactor: tuple[Number, Number, Number, Number] = (1, 1, 1, 1)
    baseColorTexture: TextureInfo | None = None


class Material(_Part):
    pbrMetallicRoughness: Metallic = Metallic()
    alphaMode: Literal["OPAQUE", "MASK", "BLEND"] = "OPAQUE"
    alphaCutoff: Number = 0.5


class Primitive(_Part):
    attributes: dict[str, Index]
    indices: Index | None = None
    material: Index | None = None
    mode: Annotated[int, Field(ge=0, le=6)] = 4
    targets: list[dict[str, Index]] = []


class Mesh(_Part):
    primitives: Annotated[list[Primitive], Field(min_length=1)]
    weights: list[Number] = []


class Skin(_Part):
    joints: Annotated[list[Index], Field(min_length=1)]
    inverseBindMatrices: Index | None = None


class Node(_Part):
    children: list[Index] = []
    mesh: Index | None = None
    skin: Index | None = None
    matrix: Annotated[list[Number], Field(min_length=16, max_length=16)] | None = None
    translation: tuple[Number, Number, Number] = (0, 0, 0)
    rotation: tuple[Number, Number, Number, Number] = (0, 0, 0, 1)
    scale: tuple[Number, Number, Number] = (1, 1, 1)
    weights: list[Number] = []


class Stage(_Part):
    """What the specification calls a scene."""

    nodes: list[Index] = []


class Asset(_Part):
    version: str
    copyright: str = ""
    extras: Any = None


class Document(_Part):
    asset: Asset
    scene: Index | None = None
    scenes: list[Stage] = []
    nodes: list[Node] = []
    meshes: list[Mesh] = []
    skins: list[Skin] = []
    materials: list[Material] = []
    textures: list[Texture] = []
    samplers: list[Sampler] = []
    images: list[Picture] = []
    accessors: list[Accessor] = []
    bufferViews: list[BufferView] = []
    buffers: list[Buffer] = []
    extensionsUsed: list[str] = []
    extensionsRequired: list[str] = []


class Gltf:
    """A parsed file: its document, and its arrays on demand."""

    def __init__(self, data: bytes, guard: Guard):
        text, self._binary = _container(data, guard) if data[:4] == b"glTF" else (data, None)
        self.guard = guard
        if text.count(b"{") > _OBJECTS or text.count(b",") + text.count(b"[") > 10 * _OBJECTS:
            guard.refuse("too much JSON", expected=f"at most {_OBJECTS:,} objects", remedy="simplify the model")
        try:
            self.document = Document.model_validate_json(text.rstrip(b"\0 \n\r\t"))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"])[:120] or "the JSON"
            guard.refuse(f"not a valid glTF: {where}", got=first["msg"], expected="glTF 2.0",
                         remedy="export the model again; the Khronos glTF validator names every mistake")  # fmt: skip
        _understood(self.document, guard)
        guard.spend("nodes", len(self.document.nodes))
        self._buffers: dict[int, bytes] = {}
        self._arrays: dict[int, np.ndarray] = {}

    def pick(self, kind: str, index: int) -> Any:
        """`document.<kind>[index]`."""
        items = getattr(self.document, kind)
        if not 0 <= index < len(items):
            self.guard.refuse(f"{kind}[{index}] does not exist", got=index, expected=f"below {len(items)}",
                              remedy="export the model again")  # fmt: skip
        return items[index]

    def view(self, index: int, start: int = 0, length: int | None = None) -> memoryview:
        """Bytes of a buffer view from `start`, all or `length` of them."""
        view = self.pick("bufferViews", index)
        data = self._buffer(view.buffer)
        end = view.byteLength if length is None else start + length
        if max(end, view.byteLength) > min(view.byteLength, len(data) - view.byteOffset):
            self.guard.refuse(f"bufferViews[{index}] is read beyond its end", got=f"byte {view.byteOffset + end:,}",
                              expected=f"at most {min(view.byteOffset + view.byteLength, len(data)):,}",
                              remedy="the file is cut off or broken: get it again")  # fmt: skip
        return memoryview(data)[view.byteOffset + start : view.byteOffset + end]

    def array(self, index: int, widths: tuple[int, ...]) -> np.ndarray:
        """An accessor as [count, width], not to be written: whole numbers as int64, normalised ones and floats as
        float64."""
        accessor = self.pick("accessors", index)
        width, dtype = _WIDTHS[accessor.type], np.dtype(_TYPES[accessor.componentType]).newbyteorder("<")
        if width not in widths:
            self.guard.refuse(f"accessors[{index}] has the wrong type", got=accessor.type,
                              expected=f"{' or '.join(map(str, widths))} numbers an item")  # fmt: skip
        if index not in self._arrays:
            self._arrays[index] = self._decoded(index, accessor, width, dtype)
        return self._arrays[index]

    def _decoded(self, index: int, accessor: Accessor, width: int, dtype: np.dtype) -> np.ndarray:
        self.guard.spend("numbers", accessor.count * width)
        if accessor.bufferView is None:
            values = np.zeros((accessor.count, width), dtype)
        else:
            view = self.pick("bufferViews", accessor.bufferView)
            stride = view.byteStride or dtype.itemsize * width
            values = self._strided(accessor.bufferView, accessor.byteOffset, accessor.count, width, dtype, stride)
        if accessor.sparse:
            values = self._overlaid(values, accessor.sparse, width, dtype)
        if dtype.kind == "f":
            return self.guard.finite(values.astype(np.float64), f"accessors[{index}]: values")
        if accessor.normalized:
            return np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values.astype(np.int64)

    def _strided(self, view: int, start: int, count: int, width: int, dtype: np.dtype, stride: int) -> np.ndarray:
        size = dtype.itemsize * width
        if stride < size:
            self.guard.refuse(f"bufferViews[{view}] has too small a stride", got=stride, expected=f"at least {size}")
        data = self.view(view, start, stride * (count - 1) + size)
        return np.ndarray((count, width), dtype, data, strides=(stride, dtype.itemsize)).copy()

    def _overlaid(self, values: np.ndarray, sparse: Sparse, width: int, dtype: np.dtype) -> np.ndarray:
        if sparse.count > len(values):
            self.guard.refuse("a sparse accessor changes more than it has", got=sparse.count, expected=f"{len(values)}")
        self.guard.spend("numbers", sparse.count * (width + 1))
        where = np.dtype(_TYPES[sparse.indices.componentType]).newbyteorder("<")
        places = self._strided(sparse.indices.bufferView, sparse.indices.byteOffset, sparse.count, 1, where,
                               where.itemsize)[:, 0]  # fmt: skip
        if places.max() >= len(values):
            self.guard.refuse("a sparse index is out of range", got=int(places.max()), expected=f"below {len(values)}")
        values[places] = self._strided(sparse.values.bufferView, sparse.values.byteOffset, sparse.count, width, dtype,
                                       dtype.itemsize * width)  # fmt: skip
        return values

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            buffer = self.pick("buffers", index)
            if buffer.uri is None and (index or self._binary is None):
                self.guard.refuse(f"buffers[{index}] holds nothing", expected="a binary chunk or a data: URI")
            data = self._binary if buffer.uri is None else self.embedded(buffer.uri, f"buffers[{index}]")
            if data is None or len(data) < buffer.byteLength:
                self.guard.refuse(f"buffers[{index}] is shorter than it says", got=f"{len(data or b''):,} bytes",
                                  expected=f"{buffer.byteLength:,}", remedy="get the file again")  # fmt: skip
            self._buffers[index] = data or b""
        return self._buffers[index]

    def embedded(self, uri: str, what: str) -> bytes:
        """The bytes of a data: URI; any other URI is refused, and never opened."""
        head, comma, body = uri.partition(",")
        if not head.startswith("data:") or not comma or not head.endswith(";base64"):
            self.guard.refuse(f"{what} lies outside the file", got=uri[:120], expected="data inside the file",
                              remedy="export as GLB, or as glTF with embedded data")  # fmt: skip
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            self.guard.refuse(f"{what} is not base64", got=str(error), remedy="export the model again")


def _container(data: bytes, guard: Guard) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a GLB."""
    chunks: dict[int, bytes] = {}
    if len(data) < 20:
        guard.refuse("the GLB is cut off", got=f"{len(data)} bytes", expected="a header and a JSON chunk")
    _, version, length = struct.unpack_from("<III", data)
    if version != 2:
        guard.refuse("not a GLB of version 2", got=f"version {version}", remedy="export it as glTF 2.0 binary")
    if length > len(data):
        guard.refuse("the GLB is cut off", got=f"{len(data):,} bytes", expected=f"{length:,}", remedy="get it again")
    start = 12
    while start + 8 <= length:
        size, kind = struct.unpack_from("<II", data, start)
        if start + 8 + size > length:
            guard.refuse("a chunk reaches beyond the GLB", got=f"{size:,} bytes", expected=f"{length - start - 8:,}")
        if kind not in (_JSON, _BIN) and not chunks:
            guard.refuse("the first chunk of a GLB must be JSON", got=f"{kind:#x}", expected=f"{_JSON:#x}")
        if kind in (_JSON, _BIN):
            chunks.setdefault(kind, data[start + 8 : start + 8 + size])
        start += 8 + size
        guard.tick()
    if _JSON not in chunks:
        guard.refuse("the GLB has no JSON chunk", remedy="export the model again")
    return chunks[_JSON], chunks.get(_BIN)


def _understood(document: Document, guard: Guard) -> None:
    if not document.asset.version.startswith("2."):
        guard.refuse("not glTF 2", got=f"version {document.asset.version}", remedy="export the model as glTF 2.0")
    for name in document.extensionsRequired:
        if not name.startswith(_UNDERSTOOD):
            guard.refuse(f"this file cannot be read without {name[:60]}", expected="a file that does not require it",
                         remedy=_UNPACK.get(name, "export the model without it"))  # fmt: skip
