"""From a parsed glTF or VRM to one mesh: node transforms, morphs and skins as the file rests, base colours.

Source: the glTF 2.0 specification, sections 3.5, 3.7 and 3.9; KHR_texture_transform; VRM 0.x and VRMC_vrm 1.0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from styleavatar3d.figures.gltf import Gltf, Material, Mesh, Node, Primitive, TextureInfo
from styleavatar3d.figures.model3d import Guard, Model3D, Paint, decode

_REPEAT = 10497


@dataclass
class _Pieces:
    """What has been gathered of the model."""

    vertices: list[np.ndarray] = field(default_factory=list)
    uv: list[np.ndarray] = field(default_factory=list)
    colors: list[np.ndarray] = field(default_factory=list)
    owner: list[np.ndarray] = field(default_factory=list)
    faces: list[np.ndarray] = field(default_factory=list)
    paint: list[np.ndarray] = field(default_factory=list)
    paints: list[Paint] = field(default_factory=list)


def read_gltf(data: bytes, guard: Guard) -> Model3D:
    """The model in a GLB, a VRM or an embedded glTF. Raises FileRefused."""
    file = Gltf(data, guard)
    parents = _parents(file)
    world = _world(file, parents)
    pieces, pictures = _Pieces(), {}
    for index in _shown(file, parents):
        node: Node = file.document.nodes[index]
        if node.mesh is not None:
            mesh = file.pick("meshes", node.mesh)
            for primitive in mesh.primitives:
                _gather(file, pieces, pictures, world, index, mesh, primitive)
    if not pieces.faces:
        guard.refuse("there are no triangles in it", remedy="export a mesh")
    humanoid, gaze, title, licence = _about(file, world)
    return Model3D(
        *(np.concatenate(part) for part in (pieces.vertices, pieces.faces, pieces.uv, pieces.colors, pieces.paint)),
        paints=tuple(pieces.paints), format="vrm" if humanoid else "gltf", owner=np.concatenate(pieces.owner),
        nodes=tuple(node.name for node in file.document.nodes), parents=tuple(parents), positions=world[:, :3, 3],
        joints=tuple(sorted({joint for skin in file.document.skins for joint in skin.joints})),
        humanoid=humanoid, gaze=gaze, title=title, licence=licence,
    )  # fmt: skip


def _parents(file: Gltf) -> list[int]:
    """Parent of every node; refuses nodes with two parents and nodes that are their own ancestors."""
    nodes = file.document.nodes
    parents = [-1] * len(nodes)
    for index, node in enumerate(nodes):
        for child in node.children:
            file.pick("nodes", child)
            if parents[child] != -1:
                file.guard.refuse(f"nodes[{child}] has two parents", got=[parents[child], index], expected="a tree")
            parents[child] = index
    return parents


def _order(file: Gltf, parents: list[int]) -> list[int]:
    """All nodes, parents first."""
    order = [index for index, parent in enumerate(parents) if parent == -1]
    for index in order:
        order.extend(file.document.nodes[index].children)
    if len(order) != len(parents):
        lost = sorted(set(range(len(parents))) - set(order))[:5]
        file.guard.refuse("nodes form a cycle", got=f"nodes {lost}", expected="a tree", remedy="export it again")
    return order


def _world(file: Gltf, parents: list[int]) -> np.ndarray:
    """Matrices [nodes, 4, 4] from each node to the model."""
    world = np.zeros((max(len(parents), 1), 4, 4))
    with np.errstate(over="ignore", invalid="ignore"):
        for index in _order(file, parents):
            local = _local(file.document.nodes[index])
            world[index] = local if parents[index] < 0 else world[parents[index]] @ local
    return file.guard.finite(world, "node transforms")


def _local(node: Node) -> np.ndarray:
    matrix = np.eye(4)
    if node.matrix is not None:
        return np.array(node.matrix).reshape(4, 4).T
    x, y, z, w = np.array(node.rotation) / max(float(np.linalg.norm(node.rotation)), 1e-12)
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] = np.array(rotation) * np.array(node.scale)
    matrix[:3, 3] = node.translation
    return matrix


def _shown(file: Gltf, parents: list[int]) -> list[int]:
    """Nodes of the default scene (of all, where there is none), in order."""
    document = file.document
    if not document.scenes:
        return _order(file, parents)
    stage = file.pick("scenes", document.scene or 0)
    found, seen = list(dict.fromkeys(stage.nodes)), set()
    for index in found:
        if index not in seen:
            seen.add(index)
            found.extend(file.pick("nodes", index).children)
    return list(dict.fromkeys(found))


def _gather(
    file: Gltf, pieces: _Pieces, pictures: dict, world: np.ndarray, index: int, mesh: Mesh, primitive: Primitive
) -> None:
    """Add the triangles of one primitive, as one node shows it."""
    guard, node = file.guard, file.document.nodes[index]
    if primitive.mode < 4 or "POSITION" not in primitive.attributes:
        return
    count = file.pick("accessors", primitive.attributes["POSITION"]).count
    used, inverse = np.unique(_triangles(file, primitive, count), return_inverse=True)
    faces = inverse.reshape(-1, 3)
    guard.spend("vertices", len(used))
    points = _morphed(file, primitive, node.weights or mesh.weights, count)
    placed, owner = _placed(file, primitive, points, used, node, index, world)
    if node.skin is None and np.linalg.det(world[index, :3, :3]) < 0:
        faces = faces[:, ::-1]
    material: Material = file.pick("materials", primitive.material) if primitive.material is not None else Material()
    start = sum(map(len, pieces.vertices))
    pieces.vertices.append(guard.finite(placed, "vertices"))
    pieces.owner.append(owner)
    pieces.faces.append(faces + start)
    pieces.uv.append(_uv(file, primitive, material.pbrMetallicRoughness.baseColorTexture, count)[used])
    pieces.colors.append(_attribute(file, primitive, "COLOR_0", (3, 4), count, 1.0)[used, :3].clip(0, 1))
    pieces.paint.append(np.full(len(faces), len(pieces.paints)))
    pieces.paints.append(_paint(file, material, pictures, f"{node.name}/{mesh.name}/{material.name}"))


def _attribute(file: Gltf, primitive: Primitive, name: str, widths: tuple, count: int, missing: float) -> np.ndarray:
    if name not in primitive.attributes:
        return np.full((count, widths[0]), missing)
    values = file.array(primitive.attributes[name], widths)
    if len(values) != count:
        file.guard.refuse(f"{name} does not fit its mesh", got=f"{len(values)} items", expected=f"{count}")
    return values


def _morphed(file: Gltf, primitive: Primitive, weights: list[float], count: int) -> np.ndarray:
    """Positions with the morphs that are on by default."""
    points = _attribute(file, primitive, "POSITION", (3,), count, 0.0).astype(np.float64)
    for weight, target in zip(weights, primitive.targets, strict=False):
        if weight and "POSITION" in target:
            moved = file.array(target["POSITION"], (3,))
            if len(moved) != count:
                file.guard.refuse("a morph does not fit its mesh", got=f"{len(moved)} items", expected=f"{count}")
            points += weight * moved
    return file.guard.finite(points, "morphed vertices")


def _placed(
    file: Gltf, primitive: Primitive, points: np.ndarray, used: np.ndarray, node: Node, index: int, world: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the model of the used vertices, and the node that moves each most."""
    count, points = len(points), points[used]
    if node.skin is None or "JOINTS_0" not in primitive.attributes:
        return points @ world[index, :3, :3].T + world[index, :3, 3], np.full(len(points), index)
    skin = file.pick("skins", node.skin)
    for joint in skin.joints:
        file.pick("nodes", joint)
    joints, weights = _influences(file, primitive, count, len(skin.joints))
    joints, weights = joints[used], weights[used]
    matrices = world[skin.joints]
    if skin.inverseBindMatrices is not None:
        inverse = file.array(skin.inverseBindMatrices, (16,))
        if len(inverse) < len(skin.joints):
            file.guard.refuse("too few inverse bind matrices", got=len(inverse), expected=str(len(skin.joints)))
        matrices = matrices @ inverse[: len(matrices)].reshape(-1, 4, 4).transpose(0, 2, 1)
    placed = np.zeros_like(points)
    for joint, weight in zip(joints.T, weights.T, strict=True):
        file.guard.tick()
        chosen = matrices[joint]
        placed += weight[:, None] * (np.einsum("vij,vj->vi", chosen[:, :3, :3], points) + chosen[:, :3, 3])
    strongest = joints[np.arange(len(joints)), weights.argmax(1)]
    return placed, np.array(skin.joints)[strongest]


def _influences(file: Gltf, primitive: Primitive, count: int, bones: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices into the skin's joints and weights that sum to 1, each [vertices, influences]."""
    joints, weights, number = [], [], 0
    while f"JOINTS_{number}" in primitive.attributes and f"WEIGHTS_{number}" in primitive.attributes and number < 4:
        joints.append(_attribute(file, primitive, f"JOINTS_{number}", (4,), count, 0).astype(np.int64))
        weights.append(_attribute(file, primitive, f"WEIGHTS_{number}", (4,), count, 0).astype(np.float64))
        number += 1
    if not joints:
        file.guard.refuse("a skinned mesh has no weights", expected="WEIGHTS_0 beside JOINTS_0")
    which, share = np.concatenate(joints, 1), np.concatenate(weights, 1).clip(0)
    which = np.where(share > 0, which, 0)
    if which.min() < 0 or which.max() >= bones:
        file.guard.refuse("a vertex hangs on no joint", got=int(which.max()), expected=f"below {bones}")
    total = share.sum(1, keepdims=True)
    share[total[:, 0] <= 0, 0] = 1
    return which, share / share.sum(1, keepdims=True)


def _triangles(file: Gltf, primitive: Primitive, count: int) -> np.ndarray:
    """Faces [n, 3] of a list, strip or fan of triangles; those that collapse to a line are left out."""
    if primitive.indices is None:
        index = np.arange(count)
    else:
        index = file.array(primitive.indices, (1,))[:, 0].astype(np.int64)
        if index.size and (index.max() >= count or index.min() < 0):
            file.guard.refuse("a triangle has a corner that is not there", got=int(index.max()),
                              expected=f"below {count}", remedy="export the model again")  # fmt: skip
    if primitive.mode == 4:
        faces = index[: len(index) // 3 * 3].reshape(-1, 3)
    elif primitive.mode == 5:
        faces = np.stack([index[:-2], index[1:-1], index[2:]], 1)
        faces[1::2] = faces[1::2, [1, 0, 2]]
    else:
        faces = np.stack([np.full(max(len(index) - 2, 0), index[0]), index[1:-1], index[2:]], 1)
    file.guard.spend("faces", len(faces))
    return faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]


def _uv(file: Gltf, primitive: Primitive, info: TextureInfo | None, count: int) -> np.ndarray:
    transform = _entry(info.extensions if info else {}, "KHR_texture_transform")
    channel = transform.get("texCoord", info.texCoord if info else 0)
    uv = _attribute(file, primitive, f"TEXCOORD_{channel}", (2,), count, 0.0).astype(np.float64)
    try:
        angle = float(transform.get("rotation", 0.0))
        scale, offset = (np.array(transform.get(*entry), float) for entry in (("scale", [1, 1]), ("offset", [0, 0])))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        uv = (uv * scale.reshape(2)) @ turn.T + offset.reshape(2)
    except (TypeError, ValueError) as error:
        file.guard.refuse("KHR_texture_transform is not two numbers each", got=str(error))
    return file.guard.finite(uv, "texture coordinates")


def _paint(file: Gltf, material: Material, pictures: dict[int, np.ndarray | None], name: str) -> Paint:
    base, texture, wrap = material.pbrMetallicRoughness, None, True
    cutout = {"OPAQUE": None, "MASK": material.alphaCutoff, "BLEND": 0.05}[material.alphaMode]
    if base.baseColorTexture is not None:
        entry = file.pick("textures", base.baseColorTexture.index)
        source = _entry(entry.extensions, "EXT_texture_webp").get("source", entry.source)
        if entry.sampler is not None:
            wrap = file.pick("samplers", entry.sampler).wrapS == _REPEAT
        if isinstance(source, int):
            if source not in pictures:
                pictures[source] = _picture(file, source)
            texture = pictures[source]
    return Paint(name, base.baseColorFactor, texture, cutout, wrap)


def _picture(file: Gltf, index: int) -> np.ndarray:
    picture = file.pick("images", index)
    if picture.bufferView is not None:
        data = bytes(file.view(picture.bufferView))
    else:
        data = file.embedded(picture.uri or "", f"images[{index}]")
    return decode(data, file.guard, f"images[{index}]")


def _about(file: Gltf, world: np.ndarray) -> tuple[dict[str, int], np.ndarray | None, str, str]:
    """Bones that a VRM names, where it says that its eyes are, its title and its licence."""
    new, old = (_entry(file.document.extensions, name) for name in ("VRMC_vrm", "VRM"))
    bones = _entry(_entry(new, "humanoid"), "humanBones")
    named = {name: entry.get("node") for name, entry in bones.items() if isinstance(entry, dict)}
    listed = _entry(old, "humanoid").get("humanBones", [])
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("bone"), str):
            named[entry["bone"]] = entry.get("node")
    humanoid = {name: node for name, node in named.items() if isinstance(node, int) and 0 <= node < len(world)}
    if (new or old) and "head" not in humanoid:
        file.guard.refuse("this VRM has no head bone", got=sorted(humanoid)[:5], remedy="export it as a humanoid")
    meta = _entry(new, "meta") or _entry(old, "meta")
    extras = file.document.asset.extras if isinstance(file.document.asset.extras, dict) else {}
    title = meta.get("name") or meta.get("title") or extras.get("title") or ""
    licences = (meta.get("licenseUrl"), meta.get("otherLicenseUrl"), meta.get("licenseName"), extras.get("license"),
                file.document.asset.copyright)  # fmt: skip
    licence = next((text for text in licences if isinstance(text, str) and text), "")
    return humanoid, _gaze(new, old, humanoid, world), str(title)[:200], licence[:200]


def _gaze(new: dict, old: dict, humanoid: dict[str, int], world: np.ndarray) -> np.ndarray | None:
    """The middle between the eyes, as first-person cameras use it."""
    offset: Any = _entry(new, "lookAt").get("offsetFromHeadBone")
    if not new:
        vector = _entry(_entry(old, "firstPerson"), "firstPersonBoneOffset")
        offset = [vector.get("x", 0), vector.get("y", 0), -vector.get("z", 0)] if vector else None
    numbers = isinstance(offset, list) and len(offset) == 3 and all(isinstance(c, int | float) for c in offset)
    if not numbers or not np.isfinite(offset).all() or not np.abs(offset).sum() < 1e6 or not np.any(offset):
        return None
    return world[humanoid["head"], :3, :3] @ np.array(offset, float) + world[humanoid["head"], :3, 3]


def _entry(container: Any, name: str) -> dict[str, Any]:
    """A JSON object inside another, empty where it is missing or no object."""
    value = container.get(name) if isinstance(container, dict) else None
    return value if isinstance(value, dict) else {}
