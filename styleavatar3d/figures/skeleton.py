"""Which bones are the head, the neck, the upper arms and the eyes: by a VRM's own word, by name, else by structure.

Names are those of Mixamo, Ready Player Me, VRoid, Rigify and other Blender rigs, MakeHuman, Unreal, Unity, 3ds Max
Biped, Character Creator, DAZ, Maya HumanIK, SMPL, Source and MMD. "left" is the figure's own left.
"""

from __future__ import annotations

import re

import numpy as np

from styleavatar3d.figures.model3d import Model3D

_VRM = {
    "head": "head", "neck": "neck", "hips": "hips", "leftEye": "left_eye", "rightEye": "right_eye",
    "leftUpperArm": "left_arm", "rightUpperArm": "right_arm", "leftToes": "left_toe", "rightToes": "right_toe",
    "leftLowerArm": "left_elbow", "leftHand": "left_wrist", "leftUpperLeg": "left_hip", "leftLowerLeg": "left_knee",
    "leftFoot": "left_ankle", "rightLowerArm": "right_elbow", "rightHand": "right_wrist",
    "rightUpperLeg": "right_hip", "rightLowerLeg": "right_knee", "rightFoot": "right_ankle",
}  # fmt: skip
_NOISE = {"mixamorig", "armature", "bip", "biped", "valve", "valvebiped", "cc", "base", "def", "org", "mch", "j", "c",
          "m", "jnt", "joint", "joints", "bone", "bind", "sk", "skel", "skeleton", "rig", "rigged", "character",
          "metarig", "bn", "b", "adj", "avg",
          "sec", "center", "centre", "mid", "g", "gltf", "human", "genesis"}  # fmt: skip
_SIDES = {"l": "left", "left": "left", "lft": "left", "r": "right", "right": "right", "rgt": "right"}
_MMD = {"頭": "head", "首": "neck", "左目": "left_eye", "右目": "right_eye", "左腕": "left_arm", "右腕": "right_arm",
        "センター": "hips", "左足首": "left_ankle", "右足首": "right_ankle"}  # fmt: skip
_WORDS = {
    "head": ("head", "head1"),
    "neck": ("neck", "necklower", "lowerneck", "necktwist"),
    "hips": ("hips", "pelvis", "hip"),
    "eye": ("eye", "eyeball", "eyes", "faceeye", "eyeroot"),
    "arm": ("upperarm", "uparm", "armupper", "arm", "shldr", "shldrbend", "shoulderbend", "humerus", "bicep"),
    "elbow": ("forearm", "lowerarm", "lowarm", "armlower", "elbow", "forearmbend"),
    "wrist": ("hand", "wrist"),
    "hip": ("upleg", "upperleg", "thigh", "legupper", "thighbend"),
    "knee": ("lowerleg", "calf", "shin", "leglower", "knee", "leg"),
    "ankle": ("foot", "ankle"),
    "toe": ("toe", "toebase", "toes", "ball"),
}
"""In order of trust."""
LIMBS = ("elbow", "wrist", "hip", "knee", "ankle")


def bones(model: Model3D) -> dict[str, int]:
    """Nodes of "head", "neck", "hips", "left_eye", "right_eye", "left_arm", "right_arm" and limbs, as far as known."""
    if model.humanoid:
        return {_VRM[name]: node for name, node in model.humanoid.items() if name in _VRM}
    found = _by_name(model)
    if "head" in found and {"left_arm", "right_arm"} <= set(found):
        return found
    return _by_structure(model) | found if model.joints else found


def words(name: str) -> tuple[str, str]:
    """Side ("left", "right" or "") and the rest of a bone's name, without prefixes, numbers and separators."""
    name = re.sub(r"^.*[:|]", "", name)
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    tokens = re.findall(r"[^\W\d_]+", name.lower())
    if len(tokens) > 1 or (tokens and len(tokens[0]) < 2):
        sides = [_SIDES[token] for token in tokens if token in _SIDES]
    else:
        sides = []
    rest = [token for token in tokens if token not in _NOISE and not (sides and token in _SIDES)]
    for prefix in ("left", "right"):
        if not sides and len(rest) == 1 and rest[0].startswith(prefix) and rest[0] != prefix:
            sides, rest = [prefix], [rest[0][len(prefix) :]]
    return (sides[0] if sides else ""), "".join(rest)


def _by_name(model: Model3D) -> dict[str, int]:
    """The best named node for each bone; of equals the one nearest to the root."""
    depth = _depths(model.parents)
    trust: dict[str, tuple[int, int, int]] = {}
    used = set(model.joints)
    for node, name in enumerate(model.nodes):
        plain = re.sub(r"[_.]?\d*$", "", name.rpartition(":")[2])
        side, rest = words(name)
        bone, rank = _MMD.get(plain, ""), 0
        for kind, names in _WORDS.items():
            if not bone and rest in names and bool(side) == (kind not in ("head", "neck", "hips")):
                bone, rank = (f"{side}_{kind}" if side else kind), names.index(rest)
        if bone:
            key = rank + 100 * (bool(used) and node not in used), depth[node], node
            trust[bone] = min(trust.get(bone, key), key)
    found = {bone: key[2] for bone, key in trust.items()}
    return found | {bone: node for bone, node in _shoulders(model).items() if bone not in found}


def _shoulders(model: Model3D) -> dict[str, int]:
    """Upper arms that are called shoulders: where there is a collar bone too, or else the child of the shoulder."""
    named = [words(name) for name in model.nodes]
    collars = any(rest in ("collar", "clavicle", "collarbone") for _, rest in named)
    found = {}
    for node, (side, rest) in enumerate(named):
        if side and rest == "shoulder" and f"{side}_arm" not in found:
            children = [child for child, parent in enumerate(model.parents) if parent == node]
            found[f"{side}_arm"] = node if collars or not children else children[0]
    return found


def _by_structure(model: Model3D) -> dict[str, int]:
    """Head, neck and arms of a rig without telling names.

    The chest is the joint that carries two mirrored chains and, between them, a chain that carries no such pair.
    """
    joints, position = set(model.joints), model.positions
    if position is None or len(joints) > 2000:
        return {}
    children = {joint: [child for child in sorted(joints) if model.parents[child] == joint] for joint in joints}
    pairs = {joint: _pair(model, joint, kids, children) for joint, kids in children.items() if len(kids) >= 3}
    for joint in sorted(pairs, key=lambda node: _depths(model.parents)[node], reverse=True):
        pair = pairs[joint]
        if pair is None:
            continue
        left, right = pair
        between = [child for child in children[joint] if child not in (left, right)]
        chain = max((_longest(child, children) for child in between), key=len)
        if len(chain) <= 4:
            chain = chain[:2] if len(chain) > 1 else [chain[0], chain[0]]
            left, right = (_beyond_collar(model, arm, children) for arm in (left, right))
            return {"left_arm": left, "right_arm": right, "neck": chain[0], "head": chain[1], "guessed": joint}
    return {}


def _pair(model: Model3D, joint: int, kids: list[int], children: dict) -> tuple[int, int] | None:
    """Two children on opposite sides, with chains of the same length."""
    best, found = 0.15, None
    position = model.positions
    assert position is not None
    for i, one in enumerate(kids):
        for other in kids[i + 1 :]:
            a, b = position[one] - position[joint], position[other] - position[joint]
            far = np.linalg.norm(a - b) + 1e-9
            uneven = abs(np.linalg.norm(a) - np.linalg.norm(b)) / far
            reach = [len(_longest(child, children)) for child in (one, other)]
            if reach[0] == reach[1] >= 2 and uneven < best:
                best, found = uneven, (one, other)
    return found


def _beyond_collar(model: Model3D, first: int, children: dict[int, list[int]]) -> int:
    """The upper arm of a chain: an upper arm is about as long as a forearm, a collar bone is shorter than the arm."""
    chain = _longest(first, children)[:3]
    if len(chain) < 3 or model.positions is None:
        return first
    one, two = np.linalg.norm(np.diff(model.positions[chain], axis=0), axis=1)
    return chain[1] if one < 0.7 * two else first


def _longest(node: int, children: dict[int, list[int]]) -> list[int]:
    chain = [node]
    while children.get(chain[-1]) and len(chain) < 64:
        chain.append(children[chain[-1]][0])
    return chain


def _depths(parents: tuple[int, ...]) -> list[int]:
    depths = [-1] * len(parents)
    for node in range(len(parents)):
        way = [node]
        while parents[way[-1]] >= 0 and depths[parents[way[-1]]] < 0:
            way.append(parents[way[-1]])
        above = parents[way[-1]]
        level = depths[above] + 1 if above >= 0 else 0
        for step, passed in enumerate(reversed(way)):
            depths[passed] = level + step
    return depths


def below(model: Model3D, node: int) -> np.ndarray:
    """For each node, whether it is `node` or hangs on it: [nodes]."""
    inside = np.zeros(len(model.nodes), bool)
    depths = _depths(model.parents)
    for index in sorted(range(len(model.nodes)), key=depths.__getitem__):
        inside[index] = index == node or (model.parents[index] >= 0 and inside[model.parents[index]])
    return inside
