"""Writes the GLB, VRM, OBJ and PLY files that the tests read: our figures, on skeletons named as others name them."""

import json
import struct

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from styleavatar3d.figures.heads import EYE, FRAME, HAIR, HAT, SHIRT, SKIN

CHAIN = ("hips", "spine", "neck", "head", "left_eye", "right_eye", "left_collar", "left_arm", "left_forearm",
         "right_collar", "right_arm", "right_forearm")  # fmt: skip
PARENT = (-1, 0, 1, 2, 3, 3, 1, 6, 7, 1, 9, 10)
SCHEMES = {
    "mixamo": ("mixamorig:Hips", "mixamorig:Spine", "mixamorig:Neck", "mixamorig:Head", "mixamorig:LeftEye",
               "mixamorig:RightEye", "mixamorig:LeftShoulder", "mixamorig:LeftArm", "mixamorig:LeftForeArm",
               "mixamorig:RightShoulder", "mixamorig:RightArm", "mixamorig:RightForeArm"),
    "ready player me": ("Hips", "Spine", "Neck", "Head", "LeftEye", "RightEye", "LeftShoulder", "LeftArm",
                        "LeftForeArm", "RightShoulder", "RightArm", "RightForeArm"),
    "rigify": ("DEF-pelvis", "DEF-spine.003", "DEF-neck", "DEF-head", "DEF-eye.L", "DEF-eye.R", "DEF-shoulder.L",
               "DEF-upper_arm.L", "DEF-forearm.L", "DEF-shoulder.R", "DEF-upper_arm.R", "DEF-forearm.R"),
    "unreal": ("pelvis", "spine_03", "neck_01", "head", "eye_l", "eye_r", "clavicle_l", "upperarm_l", "lowerarm_l",
               "clavicle_r", "upperarm_r", "lowerarm_r"),
    "character creator": ("CC_Base_Hip", "CC_Base_Spine02", "CC_Base_NeckTwist01", "CC_Base_Head", "CC_Base_L_Eye",
                          "CC_Base_R_Eye", "CC_Base_L_Clavicle", "CC_Base_L_Upperarm", "CC_Base_L_Forearm",
                          "CC_Base_R_Clavicle", "CC_Base_R_Upperarm", "CC_Base_R_Forearm"),
    "biped": ("Bip01 Pelvis", "Bip01 Spine2", "Bip01 Neck", "Bip01 Head", "Bone_EyeL", "Bone_EyeR", "Bip01 L Clavicle",
              "Bip01 L UpperArm", "Bip01 L Forearm", "Bip01 R Clavicle", "Bip01 R UpperArm", "Bip01 R Forearm"),
    "sketchfab": ("Hips_01", "Spine_02", "Neck_03", "Head_04", "Eye_L_05", "Eye_R_06", "Shoulder_L_07",
                  "Upper_Arm_L_08", "Lower_Arm_L_09", "Shoulder_R_010", "Upper_Arm_R_011", "Lower_Arm_R_012"),
    "vroid": ("J_Bip_C_Hips", "J_Bip_C_Chest", "J_Bip_C_Neck", "J_Bip_C_Head", "J_Adj_L_FaceEye", "J_Adj_R_FaceEye",
              "J_Bip_L_Shoulder", "J_Bip_L_UpperArm", "J_Bip_L_LowerArm", "J_Bip_R_Shoulder", "J_Bip_R_UpperArm",
              "J_Bip_R_LowerArm"),
    "daz": ("pelvis", "chestUpper", "neckLower", "head", "lEye", "rEye", "lCollar", "lShldrBend", "lForearmBend",
            "rCollar", "rShldrBend", "rForearmBend"),
    "smpl": ("m_avg_Pelvis", "m_avg_Spine3", "m_avg_Neck", "m_avg_Head", "x1", "x2", "m_avg_L_Collar",
             "m_avg_L_Shoulder", "m_avg_L_Elbow", "m_avg_R_Collar", "m_avg_R_Shoulder", "m_avg_R_Elbow"),
    "mmd": ("センター", "上半身", "首", "頭", "左目", "右目", "左肩", "左腕", "左ひじ", "右肩", "右腕", "右ひじ"),
    "unnamed": tuple(f"joint_{index:02d}" for index in range(12)),
}  # fmt: skip
"""By who names so, names of CHAIN."""
VRM_BONES = ("hips", "spine", "neck", "head", "leftEye", "rightEye", "leftShoulder", "leftUpperArm", "leftLowerArm",
             "rightShoulder", "rightUpperArm", "rightLowerArm")  # fmt: skip
WORDS = {SKIN: "Body_SKIN", EYE: "EyeIris", HAIR: "Hair", SHIRT: "Tops_CLOTH", HAT: "Hat", FRAME: "Glasses"}


class Glb:
    """A glTF that grows."""

    def __init__(self):
        self.json = {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": [], "nodes": [], "meshes": [],
                     "scenes": [{"nodes": []}], "scene": 0}  # fmt: skip
        self.binary = b""

    def view(self, data: bytes) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)})
        self.binary += data
        return len(self.json["bufferViews"]) - 1

    def array(self, values, kind: str, dtype) -> int:
        values = np.ascontiguousarray(values, dtype)
        codes = {"float32": 5126, "uint32": 5125, "uint16": 5123, "uint8": 5121, "int16": 5122}
        accessor = {"bufferView": self.view(values.tobytes()), "componentType": codes[values.dtype.name],
                    "count": len(values), "type": kind}  # fmt: skip
        if kind == "VEC3":
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        self.json["accessors"].append(accessor)
        return len(self.json["accessors"]) - 1

    def bytes(self) -> bytes:
        if self.binary:
            self.json["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.json).encode()
        text += b" " * (-len(text) % 4)
        body = self.binary + b"\0" * (-len(self.binary) % 4)
        chunk = struct.pack("<II", len(body), 0x004E4942) + body if body else b""
        head = struct.pack("<III", 0x46546C67, 2, 20 + len(text) + len(chunk))
        return head + struct.pack("<II", len(text), 0x4E4F534A) + text + chunk


def joints_of(figure) -> dict[str, np.ndarray]:
    """True places of the bones, world units."""
    points = {name: point.numpy() for name, point in figure.key_points.items()}
    eyes = {f"{side}_eye": points[f"{side}_eye"] - [0, 0, 0.02] for side in ("left", "right")}
    arms = {}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        shoulder = points[f"{side}_shoulder"]
        arms |= {f"{side}_arm": shoulder, f"{side}_collar": shoulder * [0.3, 1, 1],
                 f"{side}_forearm": shoulder + [0.3 * sign, -0.3, 0]}  # fmt: skip
    middle = points["neck"] * [0, 1, 1]
    return {"hips": middle - [0, 0.8, 0], "spine": middle - [0, 0.2, 0], "neck": points["neck"],
            "head": middle + [0, 0.17, 0.01], **eyes, **arms}  # fmt: skip


def rigged(figure, scheme="mixamo", turn=None, scale=1.0, eyes=True, names=True, posed=False, vrm=None) -> bytes:
    """A skinned GLB of a figure. `turn` [3, 3] maps our world to the file's axes; `posed` binds it elsewhere than it
    rests: arms of the bind pose hang, and the rest turns them back. `vrm` is 0 or 1."""
    glb, turn = Glb(), np.eye(3) if turn is None else turn
    vertices = (figure.vertices.numpy() @ turn.T * scale).astype(np.float32)
    places = joints_of(figure)
    at = np.stack([places[name] for name in CHAIN]) @ turn.T * scale
    bind = np.tile(np.eye(4), (len(CHAIN), 1, 1))
    bind[:, :3, 3] = at
    rest = bind.copy()
    if posed:  # every joint turned about itself, before and after alike: the mesh must come out where it was
        rest[:, :3, :3] = bind[:, :3, :3] = Rotation.random(len(CHAIN), random_state=0).as_matrix()
    for index, parent in enumerate(PARENT):
        local = rest[index] if parent < 0 else np.linalg.inv(rest[parent]) @ rest[index]
        node = {"name": SCHEMES[scheme][index], "matrix": local.T.flatten().tolist(),
                "children": [child for child, above in enumerate(PARENT) if above == index]}  # fmt: skip
        glb.json["nodes"].append({key: value for key, value in node.items() if value or key == "name"})
    if not eyes:
        glb.json["nodes"][3].pop("children")
        for node in (4, 5):
            glb.json["nodes"][node]["name"] = f"socket_{node}"
        glb.json["scenes"][0]["nodes"] += [4, 5]
    inverse = np.linalg.inv(bind).transpose(0, 2, 1).reshape(-1, 16)
    matrices = glb.array(inverse, "MAT4", np.float32)
    glb.json["skins"] = [{"joints": list(range(len(CHAIN))), "inverseBindMatrices": matrices}]
    which, share = weights(figure)
    shared = {"POSITION": glb.array(vertices, "VEC3", np.float32), "JOINTS_0": glb.array(which, "VEC4", np.uint8),
              "WEIGHTS_0": glb.array(share, "VEC4", np.float32)}  # fmt: skip
    primitives, glb.json["materials"] = [], []
    for part in figure.parts.unique().tolist():
        faces = figure.faces[figure.parts == part].numpy().reshape(-1)
        primitives.append({"attributes": shared, "indices": glb.array(faces, "SCALAR", np.uint32),
                           "material": len(glb.json["materials"])})  # fmt: skip
        color = [0.1 + 0.06 * part, 0.5, 0.9 - 0.06 * part, 1]
        name = WORDS.get(part, f"part {part}") if names else f"mat {part}"
        glb.json["materials"].append({"name": name, "pbrMetallicRoughness": {"baseColorFactor": color}})
    glb.json["meshes"] = [{"name": "figure", "primitives": primitives}]
    glb.json["nodes"].append({"name": "mesh", "mesh": 0, "skin": 0})
    glb.json["scenes"][0]["nodes"] += [0, len(glb.json["nodes"]) - 1]
    if vrm == 1:
        bones = {name: {"node": node} for node, name in enumerate(VRM_BONES)}
        meta = {"name": "Test", "authors": ["nobody"], "licenseUrl": "https://vrm.dev/licenses/1.0/"}
        glb.json["extensions"] = {"VRMC_vrm": {"specVersion": "1.0", "meta": meta, "humanoid": {"humanBones": bones}}}
    if vrm == 0:
        bones = [{"bone": name, "node": node} for node, name in enumerate(VRM_BONES)]
        meta = {"title": "Test", "licenseName": "CC0"}
        glb.json["extensions"] = {"VRM": {"humanoid": {"humanBones": bones}, "meta": meta}}
    return glb.bytes()


def weights(figure) -> tuple[np.ndarray, np.ndarray]:
    """Joints and weights [vertices, 4]: the head above the jaw's level, arms beyond the shoulders, else the spine."""
    x, y, _ = figure.canonical.unbind(1)
    neck = ((6.3 - y) / 0.4).clamp(0, 1).numpy()
    head, body = CHAIN.index("head"), torch.where(y < 5.7, 1, 2).numpy()
    arm = torch.where(x > 1.7, CHAIN.index("left_arm"), torch.where(x < -1.7, CHAIN.index("right_arm"), -1)).numpy()
    body = np.where((arm >= 0) & (neck >= 1), arm, body)
    zero = np.zeros_like(body)
    return np.stack([np.full_like(body, head), body, zero, zero], 1), np.stack([1 - neck, neck, 0 * neck, 0 * neck], 1)


def obj(vertices, faces) -> str:
    lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in vertices.tolist()]
    return "\n".join(lines + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in faces.tolist()]) + "\n"


def ply(vertices, faces, order: str = "<") -> bytes:
    """With red vertices; `order` is "<", ">" or "" for text."""
    kind = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}[order]
    head = (f"ply\nformat {kind} 1.0\nelement vertex {len(vertices)}\nproperty float x\nproperty float y\n"
            "property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n"
            f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n").encode()  # fmt: skip
    if not order:
        rows = [f"{x:.6g} {y:.6g} {z:.6g} 255 0 0" for x, y, z in vertices.tolist()]
        return head + "\n".join(rows + [f"3 {a} {b} {c}" for a, b, c in faces.tolist()]).encode() + b"\n"
    points = np.zeros(len(vertices), [("p", f"{order}f4", 3), ("c", "u1", 3)])
    points["p"], points["c"] = vertices, (255, 0, 0)
    triangles = np.zeros(len(faces), [("n", "u1"), ("v", f"{order}i4", 3)])
    triangles["n"], triangles["v"] = 3, faces
    return head + points.tobytes() + triangles.tobytes()
