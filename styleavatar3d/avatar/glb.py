"""A mesh as binary glTF 2.0 (Khronos specification, sections 3.6, 3.7 and 4.4): one node, vertex colours, provenance.

Written here and not by a library because vertex colours need 16 bits: glTF wants them linear, and 8 linear bits
leave dark hair six shades.
"""

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from styleavatar3d.avatar.mesh import Mesh

_UNSIGNED_SHORT, _UNSIGNED_INT, _FLOAT = 5123, 5125, 5126
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942


def to_glb(mesh: "Mesh") -> bytes:
    """The whole file. Colours are unlit: the light is already in them."""
    arrays = {
        "POSITION": (mesh.vertices.astype("<f4"), _FLOAT, "VEC3"),
        "NORMAL": (mesh.normals.astype("<f4"), _FLOAT, "VEC3"),
        "COLOR_0": (_linear_rgba16(mesh.colors), _UNSIGNED_SHORT, "VEC4"),
        "indices": (mesh.faces.astype("<u4").reshape(-1), _UNSIGNED_INT, "SCALAR"),
    }
    views, accessors, offset = [], [], 0
    for name, (array, component, kind) in arrays.items():
        target = _ELEMENT_ARRAY_BUFFER if name == "indices" else _ARRAY_BUFFER
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": target})
        accessor = {"bufferView": len(accessors), "componentType": component, "count": len(array), "type": kind}
        if name == "COLOR_0":
            accessor["normalized"] = True
        if name == "POSITION":
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        accessors.append(accessor)
        offset += array.nbytes
    document = _document(mesh.provenance, views, accessors, offset)
    return _container(json.dumps(document).encode(), b"".join(array.tobytes() for array, _, _ in arrays.values()))


def _document(provenance: dict[str, Any], views: list, accessors: list, length: int) -> dict:
    attributes = {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}
    return {
        "asset": {"version": "2.0", "generator": "StyleAvatar3D", "extras": provenance},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "avatar"}],
        "meshes": [{"name": "avatar", "primitives": [{"attributes": attributes, "indices": 3, "material": 0}]}],
        "materials": [
            {
                "name": "vertex colours",
                "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "buffers": [{"byteLength": length}],
        "bufferViews": views,
        "accessors": accessors,
    }


def _linear_rgba16(srgb: np.ndarray) -> np.ndarray:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    rgba = np.concatenate([linear, np.ones((len(linear), 1))], 1)
    return (rgba * 65535).round().astype("<u2")


def _container(text: bytes, binary: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(binary), _BIN) + binary
    return struct.pack("<III", _MAGIC, 2, 12 + len(chunks)) + chunks
