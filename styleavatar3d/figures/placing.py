"""From a 3D file's own axes to ours: where its head is, how it is turned, and where its key points lie.

A rig says where neck, shoulders and eyes are, landmarks say what they name; the fitted head (`fitting`) says the rest,
and the surface itself has the last word on eyes, nose and ears.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.fitting import CENTRE, HEIGHT, Cloud, Pose, fit, search, start
from styleavatar3d.figures.heads import HEAD_HEIGHT, HeadModel
from styleavatar3d.figures.model3d import Model3D
from styleavatar3d.figures.skeleton import LIMBS, below, bones

HEAD_POINTS = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "chin", "crown")
BODY_POINTS = ("neck", "left_shoulder", "right_shoulder")
LIMB_POINTS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in LIMBS)
_SNAP_RIG, _SNAP_FIT = 0.5, 0.2
"""Radians within which axes are taken for the file's own: rests lean a little, and so do fits."""
_SAMPLES, _ROUGH = 12_000, 6_000
_DISTINCT = 0.01
"""How far apart joints are at least, in sizes of the model."""
_BEARABLE = 0.16
"""Error above which what was fitted is no head."""


@dataclass(frozen=True)
class Placed:
    """A similarity from the file to our world, and points in the world."""

    turn: Float[Tensor, "3 3"]
    """Left, up and front as columns, in the file."""
    scale: float
    origin: Float[Tensor, "3"]
    key_points: dict[str, Float[Tensor, "3"]]
    head: Float[Tensor, "vertices 3"]
    """The fitted head, vertex by vertex of the template."""
    canonical: Float[Tensor, "3 4"]
    """From the world to template coordinates, shape aside."""
    found_by: str
    """"landmarks", "skeleton" or "fit"."""

    def world(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        return (points - self.origin) @ self.turn * self.scale


@dataclass(frozen=True)
class Clues:
    """What is known before the fit, in the file's axes."""

    turn: Float[Tensor, "3 3"]
    head: Cloud
    """The surface that moves with the head, without hair and hats."""
    points: dict[str, Float[Tensor, "3"]]
    eyes: Cloud | None
    """The surface of eyeballs, where it goes by that name."""


def surface(vertices: Float[Tensor, "vertices 3"], faces: Tensor, count: int = _SAMPLES, seed: int = 0) -> Cloud:
    """Points spread evenly over triangles."""
    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    area = normal.norm(dim=1)
    if not float(area.sum()) > 0:
        raise StyleAvatarError("the mesh has no surface", expected="triangles of some size")
    generator = torch.Generator().manual_seed(seed)
    ends = area.double().cumsum(0)
    drawn = torch.rand(count, generator=generator, dtype=torch.double) * ends[-1]
    some = torch.searchsorted(ends, drawn).clamp(max=len(ends) - 1)
    u, v = torch.rand(2, count, 1, generator=generator)
    root = u.sqrt()
    points = (1 - root) * a[some] + root * (1 - v) * b[some] + root * v * c[some]
    return Cloud(points, torch.nn.functional.normalize(normal[some], dim=1))


def place(
    model: Model3D, vertices: Tensor, faces: Tensor, bare: Bool[Tensor, "faces"], eyes: Bool[Tensor, "faces"],
    landmarks: dict[str, Float[Tensor, "3"]] | None = None,
) -> Placed:  # fmt: skip
    """Place a model. `bare` are faces that may be head, `eyes` those of eyeballs.

    Raises StyleAvatarError where no head is found.
    """
    whole = surface(vertices, faces[bare])
    if landmarks:
        pose, known, found_by = _from_landmarks(whole, landmarks), dict(landmarks), "landmarks"
        turn, body, near = pose.turn, whole, _around(whole, pose)
    else:
        clues = _from_rig(model, vertices, faces, bare, eyes)
        if clues is not None:
            pose, near = _posed(clues), clues.head
            turn, known, found_by = clues.turn, _with_eyes(clues), "skeleton"
        else:
            pose = _found(model, vertices, faces, bare)
            near = surface(vertices, _near(vertices, faces[bare], pose))
            turn, known, found_by = pose.turn, {}, "fit"
        body = whole
    names = HeadModel.load().points
    ties = {names[name]: point for name, point in known.items() if name in names}
    pose, error = fit(near[:3000], pose, ties, turning=found_by != "skeleton")
    if found_by == "fit":
        _believable(error)
        turn = _snapped(pose.turn, _SNAP_FIT)
    points = _refined(pose, turn, near, known)
    points |= _body(pose, turn, body, known)
    return _in_our_world(pose, turn, points, found_by)


def _believable(error: float) -> None:
    if not error <= _BEARABLE:
        raise StyleAvatarError(
            "no head was found in it", got=f"mean distance {error:.2f} head heights", expected=f"at most {_BEARABLE}",
            remedy="say where eyes and ears are in a landmarks file (docs/figures.md)",
        )  # fmt: skip


def _around(cloud: Cloud, pose: Pose) -> Cloud:
    return cloud[(cloud.points - pose.middle).norm(dim=1) < 1.1 * pose.height]


def _near(vertices: Tensor, faces: Tensor, pose: Pose) -> Tensor:
    """Faces around the head."""
    close = (vertices[faces].mean(1) - pose.middle).norm(dim=1) < 1.1 * pose.height
    return faces[close] if close.sum() > 50 else faces


def _from_landmarks(cloud: Cloud, landmarks: dict[str, Tensor]) -> Pose:
    """Least squares with one scale (Umeyama, 1991) from the average head."""
    model = HeadModel.load()
    names = [name for name in HEAD_POINTS if name in landmarks]
    here = torch.stack([landmarks[name] for name in names]).double()
    there = ((model.template[[model.points[name] for name in names]] - CENTRE) / HEIGHT).double()
    a, b = there - there.mean(0), here - here.mean(0)
    u, s, v = torch.linalg.svd(b.T @ a)
    if len(names) < 3 or not float(s[1]) > 1e-4 * float(s[0]):
        raise StyleAvatarError(
            "these landmarks do not fix a head", got=", ".join(names) or "none of the head",
            expected="three or more of its points that do not lie on one line, such as both eyes and the chin",
        )  # fmt: skip
    sign = torch.ones(3, dtype=torch.double)
    sign[2] = torch.linalg.det(u @ v).sign()
    turn = u @ torch.diag(sign) @ v
    scale = float((s * sign).sum() / a.square().sum())
    middle = here.mean(0) - scale * turn @ there.mean(0)
    return start(turn.float(), scale, middle.float())


def _from_rig(model: Model3D, vertices: Tensor, faces: Tensor, bare: Tensor, eyes: Tensor) -> Clues | None:
    """What the bones say; None where there is no head bone or no pair of arms."""
    found = bones(model)
    if model.positions is None or model.owner is None or not {"head", "left_arm", "right_arm"} <= set(found):
        return None
    at = {bone: torch.tensor(model.positions[node], dtype=torch.float32) for bone, node in found.items()}
    across, upward = at["left_arm"] - at["right_arm"], at["head"] - (at["left_arm"] + at["right_arm"]) / 2
    if min(float(across.norm()), float(upward.norm())) < _DISTINCT:
        return None  # meshes named like bones, that all stand at the origin
    turn, swapped = _rig_axes(model, at, "guessed" in found)
    if swapped:
        at = {_other(bone): point for bone, point in at.items()}
    moving = torch.tensor(below(model, found["head"])[model.owner])
    of_head = moving[faces].all(1)
    if int((of_head & bare).sum()) < 50:
        return None
    points = {f"{side}_shoulder": at[f"{side}_arm"] for side in ("left", "right")}
    points["neck"] = at.get("neck", (at["head"] + (at["left_arm"] + at["right_arm"]) / 2) / 2)
    points |= {name: at[name] for name in ("left_eye", "right_eye", *LIMB_POINTS) if name in at}
    if model.gaze is not None:
        points["gaze"] = torch.tensor(model.gaze, dtype=torch.float32)
    looking = of_head & eyes
    clouds = surface(vertices, faces[looking], 2000) if int(looking.sum()) > 3 else None
    return Clues(turn, surface(vertices, faces[of_head & bare]), points, clouds)


def _other(bone: str) -> str:
    for one, two in (("left", "right"), ("right", "left")):
        if bone.startswith(one):
            return two + bone[len(one) :]
    return bone


def _rig_axes(model: Model3D, at: dict[str, Tensor], guessed: bool) -> tuple[Float[Tensor, "3 3"], bool]:
    """Left, up and front as columns; and whether what the rig calls left is right, as feet and eyes show."""
    arms = (at["left_arm"] + at["right_arm"]) / 2
    left = torch.nn.functional.normalize(at["left_arm"] - at["right_arm"], dim=0)
    up = at["head"] - at.get("hips", arms)
    up = torch.nn.functional.normalize(up - (up @ left) * left, dim=0)
    turn = _snapped(torch.stack([left, up, torch.linalg.cross(left, up)], 1), _SNAP_RIG)
    feet = [(at.get(f"{side}_toe"), at.get(f"{side}_ankle")) for side in ("left", "right")]
    front = [toe - foot for toe, foot in feet if toe is not None and foot is not None]
    if {"left_eye", "right_eye"} <= set(at):
        front.append((at["left_eye"] + at["right_eye"]) / 2 - at["head"])
    if guessed and not front:
        front = [torch.tensor([0.0, 0.0, 1.0])]
    away = sum(float(torch.sign(step @ turn[:, 2])) for step in front) < 0
    return (turn * torch.tensor([-1.0, 1.0, -1.0]) if away else turn), away


def _snapped(turn: Float[Tensor, "3 3"], within: float) -> Float[Tensor, "3 3"]:
    """The nearest turn along the file's axes, if it is near."""
    axes = torch.zeros(3, 3)
    axes[turn.abs().argmax(0), torch.arange(3)] = turn.gather(0, turn.abs().argmax(0)[None])[0].sign()
    cosine = ((turn.T @ axes).trace() - 1) / 2
    fits = float(torch.linalg.det(axes)) > 0 and float(torch.acos(cosine.clamp(-1, 1))) < within
    return axes if fits else turn


def _posed(clues: Clues) -> Pose:
    """A first guess from the extent of what moves with the head."""
    along = clues.head.points @ clues.turn
    low, top = along.quantile(0.01, 0), along.quantile(0.995, 0)
    height = float(top[1] - low[1])
    centre = (low + top) / 2
    width = float(top[0] - low[0])
    height = min(height, 1.9 * width)
    centre[1] = top[1] - height / 2
    return start(clues.turn, height, clues.turn @ centre)


def _with_eyes(clues: Clues) -> dict[str, Tensor]:
    """The points of the rig, with eyes on the surface where there are any that can be."""
    points = {name: point for name, point in clues.points.items() if name in (*BODY_POINTS, *LIMB_POINTS)}
    pose = _posed(clues)
    bone = {name: clues.points[name] for name in ("left_eye", "right_eye") if name in clues.points}
    for eyes in (_eyes_of_surface(clues, pose), bone if len(bone) == 2 else None):
        if eyes is not None and _plausible(eyes, pose):
            front = {name: _on_front(clues.eyes or clues.head, pose, point) for name, point in eyes.items()}
            return points | front
    return points


def _eyes_of_surface(clues: Clues, pose: Pose) -> dict[str, Tensor] | None:
    if clues.eyes is None:
        return None
    local = (clues.eyes.points - pose.middle) @ pose.turn
    found = {}
    for name, side in (("left_eye", local[local[:, 0] > 0]), ("right_eye", local[local[:, 0] < 0])):
        if len(side) < 20:
            return None
        centre = (side.quantile(0.02, 0) + side.quantile(0.98, 0)) / 2
        centre[2] = side[:, 2].max()
        found[name] = pose.turn @ centre + pose.middle
    return found


def _plausible(eyes: dict[str, Tensor], pose: Pose) -> bool:
    left, right = ((eyes[name] - pose.middle) @ pose.turn / pose.height for name in ("left_eye", "right_eye"))
    level, apart = float((left - right)[1].abs()), float((left - right)[0])
    return level < 0.1 and 0.08 < apart < 1.0 and bool((torch.stack([left, right]).abs() < 0.75).all())


def _on_front(cloud: Cloud, pose: Pose, point: Tensor, reach: float = 0.04) -> Float[Tensor, "3"]:
    """The foremost surface before or behind a point; the point itself where there is none."""
    local, at = (cloud.points - pose.middle) @ pose.turn, (point - pose.middle) @ pose.turn
    near = (local[:, :2] - at[:2]).norm(dim=1) < reach * pose.height
    if not bool(near.any()):
        return point
    at = at.clone()
    at[2] = local[near, 2].max()
    return pose.turn @ at + pose.middle


def _found(model: Model3D, vertices: Tensor, faces: Tensor, bare: Tensor) -> Pose:
    """The head of a model without a rig, turned and scaled in any way."""
    cloud = surface(vertices, faces[bare], _ROUGH, seed=1)
    return search(cloud, _axes(cloud, model.format))[0]


def _axes(cloud: Cloud, format: str) -> list[tuple[Tensor, float]]:
    """The eight turns along the axes across which the cloud is most symmetric, and how unlikely each is.

    glTF files say that y is up and that the front is +z; others mostly have y or z up.
    """
    middle = (cloud.points.quantile(0.01, 0) + cloud.points.quantile(0.99, 0)) / 2
    some = cloud.points[:1000] - middle
    uneven = [float(torch.cdist(some * (1 - 2 * torch.eye(3)[axis]), some).amin(1).mean()) for axis in range(3)]
    across = int(np.argmin(uneven))
    turns = []
    for up in (axis for axis in range(3) if axis != across):
        for high in (1.0, -1.0):
            for side in (1.0, -1.0):
                left, top = side * torch.eye(3)[across], high * torch.eye(3)[up]
                turn = torch.stack([left, top, torch.linalg.cross(left, top)], 1)
                turns.append((turn, _unlikely(turn, format)))
    return turns


def _unlikely(turn: Tensor, format: str) -> float:
    up, front = turn[:, 1], turn[:, 2]
    if format == "gltf":
        return (1.0 if up[1] > 0 else 1.4) * (1.0 if front[2] > 0 else 1.1)
    upright = 1.0 if up[1] > 0 else 1.02 if up[2] > 0 else 1.2
    return upright * (1.0 if front[2] > 0 or front[1] < 0 else 1.04)


def _refined(pose: Pose, turn: Tensor, head: Cloud, known: dict[str, Tensor]) -> dict[str, Tensor]:
    """The points of the head on its surface; known ones as they are."""
    placed, names = pose.place(), HeadModel.load().points
    said = {name: placed[names[name]] for name in HEAD_POINTS}
    points = dict(said)
    for eye in ("left_eye", "right_eye"):
        points[eye] = known[eye] if eye in known else _on_front(head, pose, said[eye])
    local = (head.points - pose.middle) @ turn / pose.height
    at = {name: (point - pose.middle) @ turn / pose.height for name, point in (points | known).items()}
    eye = (at["left_eye"] + at["right_eye"]) / 2
    deep = float(eye[1] - at["chin"][1])
    strip = ((local[:, 0] - eye[0]).abs() < 0.05) & (local[:, 1] < eye[1] - 0.12 * deep)
    strip &= local[:, 1] > eye[1] - 0.5 * deep
    points["nose"] = _outermost(head, local, strip, local[:, 2], said["nose"], pose)
    for ear, side in (("left_ear", 1.0), ("right_ear", -1.0)):
        beside = ((local[:, 1:] - at[ear][1:]).abs() < torch.tensor([0.1, 0.13])).all(1)
        beside &= (local[:, 0] * side > 0) & ((local[:, 0] - at[ear][0]).abs() < 0.14)
        points[ear] = _outermost(head, local, beside, side * local[:, 0], said[ear], pose)
    return points | {name: known[name] for name in HEAD_POINTS if name in known}


def _outermost(
    cloud: Cloud, local: Tensor, among: Bool[Tensor, "points"], score: Tensor, said: Tensor, pose: Pose
) -> Float[Tensor, "3"]:
    """The point of the surface with the highest score, if it is not far from what the fitted head says."""
    if not bool(among.any()):
        return said
    best = cloud.points[torch.where(among, score, -torch.inf).argmax()]
    return best if float((best - said).norm()) < 0.2 * float(pose.height) else said


def _body(pose: Pose, turn: Tensor, body: Cloud, known: dict[str, Tensor]) -> dict[str, Tensor]:
    """Neck and shoulders: as known, else as the fitted head carries them, within the body, and limbs of a rig."""
    carried = _average_body(pose, turn)
    local = (body.points - pose.middle) @ turn / pose.height
    points = {name: point for name, point in known.items() if name in LIMB_POINTS}
    for name in BODY_POINTS:
        side = {"left": 1.0, "right": -1.0}.get(name.partition("_")[0], 0.0)
        at = (carried[name] - pose.middle) @ turn / pose.height
        level = local[(local[:, 1] - at[1]).abs() < 0.08]
        if name in known:
            points[name] = known[name]
        elif len(level) >= 5:
            reach = float((level[:, 0] * side).max()) if side else 0.0
            at[0] = side * min(abs(float(at[0])), 0.85 * reach)
            points[name] = turn @ at * pose.height + pose.middle
    return points


def _average_body(pose: Pose, turn: Tensor) -> dict[str, Tensor]:
    """Neck and shoulders of the average body under a head of this height: what a face tells of a body is little."""
    model, placed = HeadModel.load(), pose.place()
    names = model.points
    height = ((placed[names["crown"]] - placed[names["chin"]]) @ turn)[1]
    here = (placed[names["left_ear"]] + placed[names["right_ear"]]) / 2
    there = (model.template[names["left_ear"]] + model.template[names["right_ear"]]) / 2
    joints = {"neck": "neck", "left_shoulder": "l-shoulder", "right_shoulder": "r-shoulder"}
    offset = {name: (model.template[model.joints[joint]] - there) / HEIGHT for name, joint in joints.items()}
    return {name: here + turn @ step * height for name, step in offset.items()}


def _in_our_world(pose: Pose, turn: Tensor, points: dict[str, Tensor], found_by: str) -> Placed:
    along = {name: point @ turn for name, point in points.items()}
    height = float(along["crown"][1] - along["chin"][1])
    if not height > 0.2 * float(pose.height):
        raise StyleAvatarError("the crown is not above the chin", got=f"{height:.3g}", remedy="mend the landmarks")
    origin = (points["left_ear"] + points["right_ear"]) / 2
    scale = HEAD_HEIGHT / height
    linear = torch.diag(HEIGHT / pose.size) @ pose.turn.T
    canonical = torch.cat([linear @ turn / scale, (linear @ (origin - pose.middle) + CENTRE)[:, None]], 1)
    placed = Placed(turn, scale, origin, {}, torch.zeros(0, 3), canonical, found_by)
    names = [name for name in points if name not in ("chin", "crown")]
    world = placed.world(torch.stack([points[name] for name in names]))
    return replace(placed, key_points=dict(zip(names, world, strict=True)), head=placed.world(pose.place()))
