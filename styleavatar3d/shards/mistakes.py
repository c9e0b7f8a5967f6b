"""What is wrong with a set of camera labels, by name: the usual slips between one convention and another.

A single matrix seldom tells whether it maps the right way; a set does, for its cameras look at one head, upright. Every
known slip is undone in turn, and the one after which the cameras look at the pivot is the one that was made.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from styleavatar3d.camera.cameras import ORBIT_RADIUS
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.lenses import RIGID, Found, Mistake, check_framing, check_intrinsics
from styleavatar3d.shards.schema import is_finite

_LOOKS = 30.0
"""degrees by which a camera may miss the origin, in the median of a set"""
_AIMED = 14.0
_SEVERAL = 8
"""cameras from which a set says something about its world"""
_PIVOT = 0.35
"""how far from the origin, in units, the cameras may aim: the head's own radius, about"""


def camera_mistakes(labels: Sequence[Sequence[Any]], size: int | None = None) -> list[Mistake]:
    """The mistakes in labels of 25 numbers each, or of whatever a stranger wrote there; none for sound ones.

    `size` is the pictures' side in pixels, if known. Labels that hold one mistake are not looked at for the next.
    """
    found = wrong_numbers(labels)
    bad = {row for mistake in found for row in mistake.rows}
    good = [row for row in range(len(labels)) if row not in bad]
    for check in (_matrices, _world, check_intrinsics, check_framing):
        if not good:
            break
        mistakes = check(numpy.array([labels[row] for row in good], numpy.float64), size)
        found += [mistake._replace(rows=[good[row] for row in mistake.rows]) for mistake in mistakes]
        proven = {row for mistake in mistakes if not mistake.suspicion for row in mistake.rows}
        good = [row for i, row in enumerate(good) if i not in proven]
        if any(mistake.name == "pivot" for mistake in mistakes):
            break  # distances count from there
    return found


def refuse_mistakes(mistakes: Sequence[Mistake], keys: Sequence[str], suspicions: bool = True) -> None:
    """Raise one StyleAvatarError that names the mistakes and the keys they are in."""
    counted = [mistake for mistake in mistakes if suspicions or not mistake.suspicion]
    if counted:
        lines = [describe(mistake, keys) for mistake in counted]
        raise StyleAvatarError(
            "\n  ".join(["these cameras are not what they should be", *lines]),
            expected="25 numbers: row-major 4x4 world_from_camera in OpenCV axes, then 3x3 intrinsics over image size",
            remedy="see docs/data-formats.md, 'Mistakes in cameras'",
        )


def describe(mistake: Mistake, keys: Sequence[str]) -> str:
    """One line: name, what, remedy, and the first keys."""
    shown = ", ".join(str(keys[row]) for row in mistake.rows[:3])
    rest = f" and {len(mistake.rows) - 3} more" if len(mistake.rows) > 3 else ""
    return f"{mistake.name}: {mistake.what} ({shown}{rest}); {mistake.remedy}"


def wrong_numbers(labels: Sequence[Sequence[Any]]) -> list[Mistake]:
    """What is wrong with labels before geometry."""
    found = Found()
    for row, label in enumerate(labels):
        if len(label) != 25:
            what = "only the matrix, no intrinsics" if len(label) in (12, 16) else f"{len(label)} numbers instead of 25"
            found.add("wrong count", what, "append the 3x3 intrinsics, row by row", [row])
        elif not all(map(is_finite, label)):
            found.add("not finite", "a number is NaN, infinite or none", "look for a failed pose estimate", [row])
        elif not any(label[:16]):
            found.add("all zero", "the matrix is zero", "look for a picture whose pose was never estimated", [row])
    return found.list()


def _matrices(table: numpy.ndarray, size: int | None) -> list[Mistake]:
    """Matrices that are no rigid motion."""
    found, rows = Found(), numpy.arange(len(table))
    swapped = (numpy.abs(table[:, 21:25] - [0, 0, 0, 1]).max(1) < RIGID) & (table[:, 8] == 1)
    found.add("intrinsics first", "the 3x3 stands before the 4x4", "put the matrix first", rows[swapped])
    matrix, left = table[:, :16].reshape(-1, 4, 4), ~swapped
    bottom = numpy.abs(matrix[:, 3] - [0, 0, 0, 1]).max(1) > RIGID
    columns = left & bottom & (numpy.abs(matrix[:, :3, 3]).max(1) < RIGID)
    found.add("transposed", "the 4x4 is written column by column", "write it row by row: transpose it", rows[columns])
    left &= ~columns
    found.add("last row", "the last row of the 4x4 is not 0 0 0 1", "append 0, 0, 0, 1", rows[left & bottom])
    left &= ~bottom
    rotation = matrix[:, :3, :3]
    gram = rotation.transpose(0, 2, 1) @ rotation
    scale = numpy.sqrt(numpy.abs(numpy.trace(gram, axis1=1, axis2=2) / 3))
    skewed = numpy.abs(gram / numpy.maximum(scale, 1e-9)[:, None, None] ** 2 - numpy.eye(3)).max((1, 2)) > RIGID
    wide = left & skewed & (numpy.abs(rotation).max((1, 2)) > 1.5)
    found.add(
        "degrees", "angles stand where a rotation matrix belongs", "make a rotation of them, in radians", rows[wide]
    )
    skewed &= left & ~wide
    found.add("not a rotation", "the axes are not perpendicular or not of one length",
              "use the nearest rotation (U V^T of its SVD), or estimate the pose again", rows[skewed])  # fmt: skip
    left &= ~(skewed | wide)
    scaled = left & (numpy.abs(scale - 1) > RIGID)
    found.add("scaled", "the rotation is multiplied by a scale", "divide its columns by their length", rows[scaled])
    left &= ~scaled
    mirrored = left & (numpy.linalg.det(rotation) < 0)
    for row in rows[mirrored].tolist():
        found.add("mirrored", f"the axes are left-handed: {_flipped_axis(matrix[row])}",
                  "negate that axis, or mirror the pictures", [row])  # fmt: skip
    return found.list()


def _flipped_axis(matrix: numpy.ndarray) -> str:
    """Which column or row, negated, makes an upright camera that looks at the origin."""
    costs = {}
    for axis, name in enumerate("xyz"):
        sign = numpy.ones(4)
        sign[axis] = -1
        costs[f"the camera's {name} axis is flipped"] = _cost((matrix * sign)[None])
        costs[f"the world's {name} axis is flipped"] = _cost((sign[:, None] * matrix)[None]) + 1.0
    return min(costs, key=lambda name: costs[name])


def _cost(matrices: numpy.ndarray) -> float:
    """How little these look like cameras around a head: degrees by which they miss it, roll, and hang upside down."""
    roll = numpy.degrees(numpy.arcsin(numpy.abs(matrices[:, 1, 0]).clip(0, 1)))
    return float(numpy.median(_misses(matrices)) + numpy.median(roll) / 2 + 90 * (~_upright(matrices)).mean())


def _misses(matrices: numpy.ndarray) -> numpy.ndarray:
    """Degrees between where each camera looks and where the origin is, seen from it."""
    position, forward = matrices[:, :3, 3], matrices[:, :3, 2]
    distance = numpy.linalg.norm(position, axis=1)
    along = -(position * forward).sum(1) / numpy.maximum(distance, 1e-12)
    return numpy.where(distance < 1e-6, 180.0, numpy.degrees(numpy.arccos(along.clip(-1, 1))))


def _upright(matrices: numpy.ndarray) -> numpy.ndarray:
    """Whether the camera's down axis points down, more or less, wherever it looks."""
    return _fall(matrices) > 0.3


def _fall(matrices: numpy.ndarray) -> numpy.ndarray:
    """Cosine of the roll: 1 upright, 0 on its side, -1 upside down."""
    return -matrices[:, 1, 1] / numpy.maximum(numpy.hypot(matrices[:, 1, 0], matrices[:, 1, 1]), 1e-9)


Undo = Callable[[numpy.ndarray], numpy.ndarray]
OPENCV_FROM_OPENGL = numpy.diag([1.0, -1.0, -1.0, 1.0])
Y_UP_FROM_Z_UP = numpy.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
_ROLLED = numpy.diag([-1.0, -1.0, 1.0, 1.0])
_QUARTER = numpy.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

_MAPS: dict[str, Undo] = {"": lambda m: m, "world-to-camera given": numpy.linalg.inv}
_CAMERAS: dict[str, numpy.ndarray] = {
    "": numpy.eye(4),
    "OpenGL axes: y and z of the camera are flipped": OPENCV_FROM_OPENGL,
    "PyTorch3D axes, or upside down: x and y of the camera are flipped": _ROLLED,
    "the picture lies on its side: x and y of the camera are swapped": _QUARTER,
    "the picture lies on its other side: x and y of the camera are swapped": _QUARTER.T,
}
_WORLDS: dict[str, numpy.ndarray] = {
    "": numpy.eye(4),
    "z is up in the world": Y_UP_FROM_Z_UP,
    "y points down in the world": OPENCV_FROM_OPENGL,
}


def _transposed(m: numpy.ndarray) -> numpy.ndarray:
    out = m.copy()
    out[:, :3, :3] = m[:, :3, :3].transpose(0, 2, 1)
    return out


def _behind(m: numpy.ndarray) -> numpy.ndarray:
    return m * numpy.array([[1, 1, 1, -1]] * 3 + [[1, 1, 1, 1]])


def _mixed(m: numpy.ndarray) -> numpy.ndarray:
    out = m.copy()
    out[:, :3, 3] = -(m[:, :3, :3] @ m[:, :3, 3:])[..., 0]
    return out


_TRANSPOSED = "the rotation alone is transposed"


def _hypotheses() -> dict[str, tuple[Undo, float]]:
    """Name -> (what undoes the slip, how many degrees better it must be than a simpler one)."""
    found: dict[str, tuple[Undo, float]] = {}
    for (a, undo), (b, camera), (c, world) in itertools.product(_MAPS.items(), _CAMERAS.items(), _WORLDS.items()):
        names = [name for name in (a, b, c) if name]
        found["; ".join(names)] = (lambda m, u=undo, k=camera, w=world: w @ u(m) @ k), 2.0 * len(names)
    single = {
        _TRANSPOSED: _transposed,
        "the position is negated, or x and z of the camera are flipped": _behind,
        "the rotation is camera-to-world, but the translation is world-to-camera": _mixed,
    }
    return found | {name: (undo, 3.0) for name, undo in single.items()}


_HYPOTHESES = _hypotheses()


def _world(table: numpy.ndarray, size: int | None) -> list[Mistake]:
    """Rigid cameras that do not look at the head, or not upright."""
    matrices = table[:, :16].reshape(-1, 4, 4)
    rows = list(range(len(table)))
    if (still := numpy.linalg.norm(matrices[:, :3, 3], axis=1) < 1e-6).all():
        return [Mistake("no translation", "all cameras stand in the origin", "give their positions", rows)]
    sound = [*_sides(matrices, still), *_aimed(matrices), *_facing(matrices)]
    hanging, upright = (_fall(matrices) < -0.3).mean(), _upright(matrices).mean()
    if _is_transposed(matrices):
        kind = "rotation and position disagree"
        return [Mistake(kind, _TRANSPOSED, _REMEDIES[kind], rows)]
    if upright > 0.85 and (len(rows) >= 3 and meeting_point(matrices) is not None):
        return sound
    costs = {name: _cost(undo(matrices)) + handicap for name, (undo, handicap) in _HYPOTHESES.items()}
    best = min(costs, key=lambda name: costs[name])
    if costs[best] > 10 and numpy.median(_misses(matrices)) < _AIMED and min(hanging, upright) > 0.1:
        return _sides(matrices, still)
    if costs[best] > _LOOKS:
        return [_aim(matrices)]
    kind = next((kind for part, kind in _KINDS.items() if part in best), "axes flipped")
    return [Mistake(kind, "".join(best.partition(": ")), _REMEDIES[kind], rows)] if best else sound


def _is_transposed(matrices: numpy.ndarray) -> bool:
    """Whether cameras that miss the head by a little would all look at it if their rotations were transposed: those of
    an orbit are nearly symmetric where it is level."""
    now, undone = _cost(matrices), _cost(_transposed(matrices))
    return len(matrices) >= 5 and now > 1 and undone < now / 4


_KINDS = {
    "world-to-camera given": "world-to-camera",
    "rotation": "rotation and position disagree",
    "position": "rotation and position disagree",
}
_REMEDIES = {
    "world-to-camera": "invert the 4x4",
    "axes flipped": "see docs/cameras.md, 'From and to other conventions'",
    "rotation and position disagree": "take both from the same matrix",
}


def _sides(matrices: numpy.ndarray, still: numpy.ndarray) -> list[Mistake]:
    """Single cameras of a sound set that stand in the origin, look away or hang upside down."""
    found, rows, misses = Found(), numpy.arange(len(matrices)), _misses(matrices)
    found.add("no translation", "the camera stands in the origin", "give its position", rows[still])
    hanging = ~still & ~_upright(matrices) & (misses < _LOOKS)
    if hanging.mean() > 0.1:
        found.add("degrees", "part of the cameras hang upside down: angles in degrees were taken for radians",
                  "convert to radians before sine and cosine", rows[hanging])  # fmt: skip
    else:
        found.add(
            "axes flipped", "the camera hangs upside down, unlike the others", "turn it or drop it", rows[hanging]
        )
    away = ~still & (misses > 60)
    found.add("axes flipped", "the camera looks away from the head, unlike the others",
              "negate its y and z axes if it came from OpenGL, or leave it out", rows[away])  # fmt: skip
    return found.list()


def meeting_point(matrices: numpy.ndarray) -> numpy.ndarray | None:
    """The point nearest to all optical axes, if they meet in front of the cameras."""
    forward, position = matrices[:, :3, 2], matrices[:, :3, 3]
    across = numpy.eye(3) - forward[:, :, None] * forward[:, None, :]
    if numpy.linalg.cond(across.sum(0)) > 1e4:
        return None  # axes are parallel
    point = numpy.linalg.solve(across.sum(0), (across @ position[:, :, None]).sum(0))[:, 0]
    ahead = ((point - position) * forward).sum(1)
    beside = numpy.linalg.norm(numpy.cross(point - position, forward), axis=1)
    near = ahead < 0.3 * numpy.median(numpy.linalg.norm(position, axis=1))
    return point if numpy.median(beside / numpy.maximum(ahead, 1e-9)) < 0.1 and near.mean() < 0.2 else None


def _aim(matrices: numpy.ndarray) -> Mistake:
    rows = list(range(len(matrices)))
    if len(matrices) >= 3 and (point := meeting_point(matrices)) is not None:
        return _elsewhere(point, rows)
    return Mistake(
        "rotation and position disagree", "the cameras look neither at the head nor at any other common point",
        "take both from the same matrix, angles in radians, world_from_camera", rows,
    )  # fmt: skip


def _elsewhere(point: numpy.ndarray, rows: list[int]) -> Mistake:
    place = ", ".join(f"{value:.2f}" for value in point)
    return Mistake("pivot", f"the cameras look at ({place}) instead of the middle between the ears",
                   "subtract this point from their positions", rows, suspicion=True)  # fmt: skip


def _aimed(matrices: numpy.ndarray) -> list[Mistake]:
    """A sound set that looks past the head."""
    if len(matrices) < 5 or (point := meeting_point(matrices)) is None:
        return []
    radius = numpy.median(numpy.linalg.norm(matrices[:, :3, 3], axis=1))
    off = numpy.linalg.norm(point) / radius * ORBIT_RADIUS
    return [_elsewhere(point, list(range(len(matrices))))] if off > _PIVOT else []


def _facing(matrices: numpy.ndarray) -> list[Mistake]:
    """A set of which nobody sees the face, or whose angles are suspiciously small or equal."""
    rows = list(range(len(matrices)))
    if len(matrices) < _SEVERAL:
        return []
    if numpy.ptp(matrices, axis=0).max() < 1e-6:
        return [Mistake("all the same", "every picture has the same camera", "give each its own", rows, True)]
    outward = -matrices[:, :3, 2]
    yaw, pitch = numpy.degrees(numpy.arctan2(outward[:, 0], outward[:, 2])), numpy.degrees(numpy.arcsin(outward[:, 1]))
    if numpy.abs(yaw).max() <= 180 / 57.29577 + 0.01 and numpy.abs(pitch).max() <= 90 / 57.29577 and numpy.ptp(yaw) > 1:
        return [Mistake("radians", "all cameras stand within 3.15 degrees of the front: radians were taken for degrees",
                        "convert to degrees", rows, True)]  # fmt: skip
    mean = outward[:, [0, 2]].mean(0)
    turned = math.degrees(math.atan2(*mean))
    if numpy.linalg.norm(mean) > 0.6 and abs(turned) > 60:
        return [Mistake("world turned", f"the cameras stand around yaw {turned:.0f} and nobody sees the face",
                        "turn the world about y until the face looks to +z", rows, True)]  # fmt: skip
    return []
