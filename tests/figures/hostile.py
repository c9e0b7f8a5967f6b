"""A hundred and more 3D files that must be refused: broken, lying about sizes, reaching outside, or bombs."""

import base64
import copy
import io
import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from figures.rigs import Glb
from PIL import Image

HUGE = 2**31 - 1


def triangle() -> Glb:
    """The smallest model with everything: a skin, a morph, a texture."""
    glb = Glb()
    position = glb.array(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]), "VEC3", np.float32)
    joints = glb.array(np.zeros((3, 4)), "VEC4", np.uint8)
    weights = glb.array(np.tile([1.0, 0, 0, 0], (3, 1)), "VEC4", np.float32)
    index = glb.array(np.arange(3), "SCALAR", np.uint32)
    inverse = glb.array(np.eye(4).reshape(1, 16), "MAT4", np.float32)
    uv = glb.array(np.zeros((3, 2)), "VEC2", np.float32)
    attributes = {"POSITION": position, "JOINTS_0": joints, "WEIGHTS_0": weights, "TEXCOORD_0": uv}
    glb.json["meshes"] = [{"primitives": [{"attributes": attributes, "indices": index, "material": 0,
                                           "targets": [{"POSITION": position}]}], "weights": [0.5]}]  # fmt: skip
    glb.json["skins"] = [{"joints": [1], "inverseBindMatrices": inverse}]
    glb.json["nodes"] = [{"mesh": 0, "skin": 0}, {"name": "bone"}]
    glb.json["scenes"] = [{"nodes": [0, 1]}]
    glb.json["images"] = [{"bufferView": glb.view(png(4, 4)), "mimeType": "image/png"}]
    glb.json["textures"] = [{"source": 0}]
    glb.json["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}]
    return glb


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of few bytes that says it has billions of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


EDITS: dict[str, tuple[tuple, object]] = {
    "accessor-beyond-view": (("accessors", 0, "count"), 1000),
    "accessor-2e31": (("accessors", 0, "count"), HUGE),
    "accessor-2e63": (("accessors", 0, "count"), 2**63),
    "accessor-negative": (("accessors", 0, "count"), -1),
    "accessor-zero": (("accessors", 0, "count"), 0),
    "accessor-float-count": (("accessors", 0, "count"), 2.5),
    "accessor-text-count": (("accessors", 0, "count"), "three"),
    "accessor-offset": (("accessors", 0, "byteOffset"), 10**6),
    "accessor-negative-offset": (("accessors", 0, "byteOffset"), -4),
    "accessor-no-view": (("accessors", 0, "bufferView"), 99),
    "accessor-kind": (("accessors", 0, "type"), "VEC9"),
    "accessor-wrong-width": (("accessors", 0, "type"), "SCALAR"),
    "accessor-component": (("accessors", 0, "componentType"), 5124),
    "accessor-zeros-bomb": (("accessors", 0), {"componentType": 5126, "count": HUGE, "type": "VEC3"}),
    "sparse-too-many": (("accessors", 0, "sparse"), {"count": 50, "indices": {"bufferView": 3, "componentType": 5125},
                                                     "values": {"bufferView": 0}}),
    "sparse-2e31": (("accessors", 0, "sparse"), {"count": HUGE, "indices": {"bufferView": 3, "componentType": 5125},
                                                 "values": {"bufferView": 0}}),
    "sparse-no-view": (("accessors", 0, "sparse"), {"count": 1, "indices": {"bufferView": 77, "componentType": 5125},
                                                    "values": {"bufferView": 0}}),
    "sparse-out-of-range": (("accessors", 0, "sparse"), {"count": 1, "values": {"bufferView": 0},
                                                         "indices": {"bufferView": 2, "componentType": 5125}}),
    "view-beyond-buffer": (("bufferViews", 0, "byteLength"), 10**6),
    "view-offset": (("bufferViews", 0, "byteOffset"), 10**6),
    "view-negative": (("bufferViews", 0, "byteLength"), -5),
    "view-no-buffer": (("bufferViews", 0, "buffer"), 3),
    "view-stride-0": (("bufferViews", 0, "byteStride"), 0),
    "view-stride-small": (("bufferViews", 0, "byteStride"), 4),
    "view-stride-large": (("bufferViews", 0, "byteStride"), 252),
    "buffer-longer": (("buffers", 0, "byteLength"), 10**9),
    "buffer-file": (("buffers", 0, "uri"), "file:///etc/passwd"),
    "buffer-http": (("buffers", 0, "uri"), "http://127.0.0.1:9/x.bin"),
    "buffer-https": (("buffers", 0, "uri"), "https://example.invalid/x.bin"),
    "buffer-relative": (("buffers", 0, "uri"), "model.bin"),
    "buffer-parent": (("buffers", 0, "uri"), "../../../../etc/passwd"),
    "buffer-absolute": (("buffers", 0, "uri"), "/etc/passwd"),
    "buffer-unc": (("buffers", 0, "uri"), "\\\\server\\share\\x.bin"),
    "buffer-data-text": (("buffers", 0, "uri"), "data:text/plain,hello"),
    "buffer-data-broken": (("buffers", 0, "uri"), "data:application/octet-stream;base64,@@@@"),
    "buffer-data-short": (("buffers", 0, "uri"), "data:application/octet-stream;base64,AAAA"),
    "image-file": (("images", 0), {"uri": "file:///etc/passwd"}),
    "image-http": (("images", 0), {"uri": "http://127.0.0.1:9/x.png"}),
    "image-relative": (("images", 0), {"uri": "skin.png"}),
    "image-parent": (("images", 0), {"uri": "../skin.png"}),
    "image-nothing": (("images", 0), {}),
    "image-no-view": (("images", 0, "bufferView"), 99),
    "image-no-picture": (("images", 0, "bufferView"), 0),
    "image-svg": (("images", 0), {"uri": "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()}),
    "image-bomb": (("images", 0), {"uri": "data:image/png;base64," + base64.b64encode(bomb()).decode()}),
    "image-wide-bomb": (("images", 0), {"uri": "data:image/png;base64," + base64.b64encode(bomb(HUGE, 2)).decode()}),
    "image-truncated": (("images", 0), {"uri": "data:image/png;base64," + base64.b64encode(png(64, 64)[:60]).decode()}),
    "texture-no-image": (("textures", 0, "source"), 12),
    "texture-info": (("materials", 0, "pbrMetallicRoughness", "baseColorTexture", "index"), 12),
    "texture-transform": (("materials", 0, "pbrMetallicRoughness", "baseColorTexture", "extensions"),
                          {"KHR_texture_transform": {"scale": "wide"}}),
    "texture-transform-nan": (("materials", 0, "pbrMetallicRoughness", "baseColorTexture", "extensions"),
                              {"KHR_texture_transform": {"scale": [1e308, 1e308], "offset": [1e308, 1e308]}}),
    "material-factor": (("materials", 0, "pbrMetallicRoughness", "baseColorFactor"), [1, 1]),
    "material-alpha": (("materials", 0, "alphaMode"), "MAYBE"),
    "material-missing": (("meshes", 0, "primitives", 0, "material"), 7),
    "transparent": (("materials", 0), {"alphaMode": "BLEND",
                                       "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0]}}),
    "index-missing": (("meshes", 0, "primitives", 0, "indices"), 70),
    "position-missing": (("meshes", 0, "primitives", 0, "attributes", "POSITION"), 70),
    "position-negative": (("meshes", 0, "primitives", 0, "attributes", "POSITION"), -1),
    "no-primitives": (("meshes", 0, "primitives"), []),
    "lines-only": (("meshes", 0, "primitives", 0, "mode"), 1),
    "mode-9": (("meshes", 0, "primitives", 0, "mode"), 9),
    "morph-missing": (("meshes", 0, "primitives", 0, "targets", 0, "POSITION"), 70),
    "morph-weight-huge": (("meshes", 0, "weights"), [1e300]),
    "node-cycle": (("nodes",), [{"mesh": 0, "children": [1]}, {"children": [0]}]),
    "node-self": (("nodes",), [{"mesh": 0, "children": [0]}, {}]),
    "node-two-parents": (("nodes",), [{"children": [2]}, {"children": [2]}, {"mesh": 0}]),
    "node-missing-child": (("nodes", 0, "children"), [9]),
    "node-missing-mesh": (("nodes", 0, "mesh"), 9),
    "node-missing-skin": (("nodes", 0, "skin"), 9),
    "node-short-matrix": (("nodes", 0, "matrix"), [1, 2, 3]),
    "node-huge-scale": (("nodes", 1, "scale"), [1e13, 1e13, 1e13]),
    "node-bomb": (("nodes",), [{"mesh": 0}] * 30_000),
    "node-chain-overflow": (("nodes",), [*({"scale": [1e9] * 3, "children": [i + 1]} for i in range(60)), {"mesh": 0}]),
    "scene-missing": (("scene",), 4),
    "scene-missing-node": (("scenes", 0, "nodes"), [44]),
    "scene-empty": (("scenes", 0, "nodes"), []),
    "skin-no-joints": (("skins", 0, "joints"), []),
    "skin-missing-joint": (("skins", 0, "joints"), [55]),
    "skin-few-matrices": (("skins", 0, "joints"), [0, 1, 1]),
    "skin-wrong-matrices": (("skins", 0, "inverseBindMatrices"), 0),
    "skin-missing-matrices": (("skins", 0, "inverseBindMatrices"), 90),
    "draco": (("extensionsRequired",), ["KHR_draco_mesh_compression"]),
    "meshopt": (("extensionsRequired",), ["EXT_meshopt_compression"]),
    "basisu": (("extensionsRequired",), ["KHR_texture_basisu"]),
    "splats": (("extensionsRequired",), ["KHR_gaussian_splatting"]),
    "unknown-extension": (("extensionsRequired",), ["EVIL_" + "x" * 10_000]),
    "version-1": (("asset", "version"), "1.0"),
    "asset-missing": (("asset",), None),
    "vrm-without-head": (("extensions",), {"VRMC_vrm": {"humanoid": {"humanBones": {}}}}),
    "vrm-head-nowhere": (("extensions",), {"VRMC_vrm": {"humanoid": {"humanBones": {"head": {"node": 99}}}}}),
    "vrm0-nonsense": (("extensions",), {"VRM": {"humanoid": {"humanBones": [1, None, {"bone": 3}]}}}),
}  # fmt: skip
"""Where a value of `triangle` is replaced, and by what."""


def edited(path: tuple, value: object) -> bytes:
    glb = triangle()
    glb.bytes()
    there = glb.json = copy.deepcopy(glb.json)
    if path[0] == "buffers" or "buffers" not in there:
        there["buffers"] = [{"byteLength": len(glb.binary)}]
    for step in path[:-1]:
        there = there[step]
    there[path[-1]] = value
    text = json.dumps(glb.json).encode()
    return container(text, glb.binary)


def container(text: bytes, binary: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body


def files() -> Iterator[tuple[str, bytes]]:
    """File names and contents."""
    for name, (path, value) in EDITS.items():
        yield f"{name}.glb", edited(path, value)
    yield from _arrays()
    yield from _containers()
    yield from _texts()
    yield from _plys()


def _arrays() -> Iterator[tuple[str, bytes]]:
    """Numbers that are wrong inside the binary chunk."""
    for name, view, dtype, value in (
        ("nan-vertex", 0, "<f4", np.nan), ("infinite-vertex", 0, "<f4", np.inf), ("large-vertex", 0, "<f4", 3e38),
        ("joint-out-of-range", 1, "u1", 9), ("nan-weight", 2, "<f4", np.nan), ("index-out-of-range", 3, "<u4", 3),
        ("index-2e32", 3, "<u4", 2**32 - 1), ("nan-matrix", 4, "<f4", np.nan), ("nan-uv", 5, "<f4", np.nan),
    ):  # fmt: skip
        glb = triangle()
        start = glb.json["bufferViews"][view]["byteOffset"]
        glb.binary = bytearray(glb.binary)
        size = np.dtype(dtype).itemsize
        glb.binary[start : start + size] = np.array(value, dtype).tobytes()
        glb.binary = bytes(glb.binary)
        yield f"{name}.glb", glb.bytes()


def _containers() -> Iterator[tuple[str, bytes]]:
    good = triangle().bytes()
    yield "empty.glb", b""
    yield "magic-only.glb", b"glTF"
    yield "cut-off.glb", good[: len(good) // 2]
    yield "length-2e32.glb", good[:8] + b"\xff\xff\xff\xff" + good[12:]
    yield "version-9.glb", good[:4] + struct.pack("<I", 9) + good[8:]
    yield "chunk-2e32.glb", good[:12] + b"\xff\xff\xff\xff" + good[16:]
    yield "chunk-kind.glb", good[:16] + b"EVIL" + good[20:]
    yield "no-json.glb", struct.pack("<III", 0x46546C67, 2, 12) + bytes(20)
    yield "json-broken.glb", container(b'{"asset": {"version": "2.0"}, ', b"")
    yield "json-deep.glb", container(b"[" * 200_000, b"")
    yield "json-deep-extras.glb", container(b'{"asset":{"version":"2.0","extras":' + b'{"a":' * 100_000, b"")
    yield "json-nodes-bomb.gltf", b'{"asset":{"version":"2.0"},"nodes":[' + b"{}," * 2_000_000 + b"{}]}"
    yield "json-nan.gltf", b'{"asset":{"version":"2.0"},"nodes":[{"translation":[NaN,0,0]}]}'
    yield "json-not-utf8.gltf", b'{"asset":{"version":"\xff\xfe"}}'
    yield "json-number.gltf", b'{"asset":{"version":"2.0"},"scene":' + b"9" * 5000 + b"}"
    yield "pickle.glb", b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x94."
    yield "fbx.fbx", b"Kaydara FBX Binary  \x00"
    yield "zip.vrm", b"PK\x03\x04" + bytes(100)


def _texts() -> Iterator[tuple[str, bytes]]:
    corner = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    yield "index.obj", corner + b"f 1 2 9\n"
    yield "index-0.obj", corner + b"f 0 1 2\n"
    yield "index-negative.obj", corner + b"f -1 -2 -9\n"
    yield "index-2e63.obj", corner + b"f 1 2 9223372036854775809\n"
    yield "nan.obj", b"v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    yield "infinite.obj", b"v 1e999 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    yield "words.obj", b"v one two three\nf 1 2 3\n"
    yield "two-corners.obj", corner + b"f 1 2\n"
    yield "no-faces.obj", corner
    yield "binary.obj", bytes(range(256)) * 10
    yield "flat-vertex.obj", b"v 0\nv 1\nv 2\nf 1 2 3\n"
    yield "long-polygon.obj", corner + b"f " + b"1 2 3 " * 15_000
    yield "mtl-absolute.obj", b"mtllib /etc/passwd\n" + corner + b"f 1 2 3\n"
    yield "mtl-parent.obj", b"mtllib ../../etc/passwd\n" + corner + b"f 1 2 3\n"
    yield "mtl-http.obj", b"mtllib http://127.0.0.1:9/a.mtl\n" + corner + b"f 1 2 3\n"
    yield "mtl-windows.obj", b"mtllib C:\\Windows\\win.ini\n" + corner + b"f 1 2 3\n"
    yield "mtl-unc.obj", b"mtllib \\\\server\\share\\a.mtl\n" + corner + b"f 1 2 3\n"
    yield "mtl-nul.obj", corner + b"x" * 5000 + b"\nmtllib a\0b\nf 1 2 3\n"


def _plys() -> Iterator[tuple[str, bytes]]:
    def header(kind: str, vertices: int | str, faces: int | str, extra: str = "") -> bytes:
        lines = (f"ply\nformat {kind} 1.0\nelement vertex {vertices}", *(f"property float {axis}" for axis in "xyz"),
                 f"{extra}element face {faces}", "property list uchar int vertex_indices", "end_header\n")  # fmt: skip
        return "\n".join(lines).encode()

    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], "<f4").tobytes()
    face = b"\x03" + np.array([0, 1, 2], "<i4").tobytes()
    binary = "binary_little_endian"
    yield "endless-header.ply", b"ply\n" + b"comment x\n" * 10_000
    yield "no-format.ply", b"ply\nelement vertex 1\nproperty float x\nend_header\n"
    yield "count-2e31.ply", header(binary, HUGE, 1) + points + face
    yield "faces-2e31.ply", header(binary, 3, HUGE) + points + face
    yield "count-negative.ply", header(binary, -3, 1) + points + face
    yield "count-words.ply", header(binary, "many", 1) + points + face
    yield "cut-off.ply", header(binary, 3, 1) + points[:20]
    yield "index.ply", header(binary, 3, 1) + points + b"\x03" + np.array([0, 1, 7], "<i4").tobytes()
    yield "index-negative.ply", header(binary, 3, 1) + points + b"\x03" + np.array([0, 1, -1], "<i4").tobytes()
    yield "nan.ply", header(binary, 3, 1) + np.full(9, np.nan, "<f4").tobytes() + face
    yield "list-of-lists.ply", header("ascii", 3, 1, "property list int int evil\n") + b"0 0 0\n" * 3 + b"3 0 1 2\n"
    yield "words.ply", header("ascii", 3, 1) + b"a b c\n" * 3 + b"3 0 1 2\n"
    yield "degenerate.ply", header("ascii", 3, 1) + b"0 0 0\n" * 3 + b"3 1 1 1\n"
    yield "points-only.ply", header(binary, 3, 0) + points
    counted = header("ascii", 3, 1).replace(b"list uchar", b"list float")
    yield "list-count-nan.ply", counted + b"0 0 0\n" * 3 + b"nan 0 1 2\n"
    yield "no-coordinates.ply", header(binary, 3, 1).replace(b"float x", b"float q") + points + face
    yield "kind.ply", header(binary, 3, 1).replace(b"float x", b"quad x") + points + face
