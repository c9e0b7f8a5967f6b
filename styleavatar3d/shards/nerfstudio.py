"""nerfstudio's layout: `transforms.json` has camera-to-world matrices in OpenGL axes and focal lengths in pixels."""

import math
from collections import Counter
from typing import Any

import numpy

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.archives import Archive, check_name
from styleavatar3d.shards.eg3d import Labelled
from styleavatar3d.shards.mistakes import OPENCV_FROM_OPENGL, Y_UP_FROM_Z_UP, camera_mistakes
from styleavatar3d.shards.schema import is_finite, parse_json

TRANSFORMS = "transforms.json"
_DISTORTIONS = ("k1", "k2", "k3", "k4", "p1", "p2")
_CAMERAS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")


def read_transforms(archive: Archive, name: str = TRANSFORMS) -> tuple[list[Labelled], str]:
    """The frames as labels, and which axis of their world is up, "y" or "z": the one that leaves fewer mistakes.

    Where z is up the figure faces -y, as in Blender. Raises StyleAvatarError if the file is none.
    """
    tree = parse_json(archive.read(name))
    frames = tree.get("frames") if isinstance(tree, dict) else None
    if not isinstance(frames, list) or not frames:
        raise StyleAvatarError(f"{archive.name}/{name} holds no frames", expected='{"frames": [...], "fl_x": ...}')
    there = set(archive.names())
    found = [_frame(tree, frame, number, there) for number, frame in enumerate(frames)]
    (path, count), *_ = Counter(path for path, _, _ in found).most_common(1)
    if count > 1:
        raise StyleAvatarError("duplicated key: a picture has two frames", got=path, remedy="keep one of the two")
    choices = {
        up: [Labelled(path, _label(world @ matrix @ OPENCV_FROM_OPENGL, focal)) for path, matrix, focal in found]
        for up, world in (("z", Y_UP_FROM_Z_UP), ("y", numpy.eye(4)))
    }
    best = min(choices, key=lambda up: _doubts([pair.label for pair in choices[up]]))
    return choices[best], best


def _doubts(labels: list[list[float]]) -> tuple[int, int]:
    """How many mistakes are in these labels, the proven ones first."""
    mistakes = camera_mistakes(labels)
    return sum(not mistake.suspicion for mistake in mistakes), len(mistakes)


def _frame(tree: dict[str, Any], frame: Any, number: int, there: set[str]) -> tuple[str, numpy.ndarray, list[float]]:
    """(file, 4x4 world from OpenGL camera, 3x3 intrinsics over image size as 9 numbers) of one frame."""
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise StyleAvatarError(f"frame {number} has no file_path", got=frame)
    path = frame["file_path"].removeprefix("./")
    known = [path + suffix for suffix in ("", ".png", ".jpg", ".jpeg") if path + suffix in there]
    matrix = frame.get("transform_matrix")
    rows = matrix if isinstance(matrix, list) and all(isinstance(row, list) for row in matrix) else []
    numbers = [value for row in rows for value in row]
    if len(numbers) not in (12, 16) or len(rows) not in (3, 4) or not all(map(is_finite, numbers)):
        raise StyleAvatarError(
            f"{path}: transform_matrix is no matrix", got=matrix, expected="4 rows of 4 finite numbers, camera to world"
        )
    full = numpy.array([*numbers, 0, 0, 0, 1][:16], numpy.float64).reshape(4, 4)
    return check_name(known[0] if known else path), full, _intrinsics(tree | frame, path)


def _intrinsics(said: dict[str, Any], path: str) -> list[float]:
    if (model := said.get("camera_model", "OPENCV")) not in _CAMERAS:
        raise StyleAvatarError(f"{path}: this camera_model is none of ours", got=model, expected=", ".join(_CAMERAS))
    if bent := [name for name in _DISTORTIONS if said.get(name)]:
        raise StyleAvatarError(f"{path}: the lens bends the picture, {bent[0]} is not 0", remedy="undistort it")
    numbers = {name: said[name] for name in ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x") if name in said}
    if bad := [name for name, value in numbers.items() if not is_finite(value) or value <= 0]:
        raise StyleAvatarError(f"{path}: {bad[0]} is no size", got=numbers[bad[0]], expected="a number above 0")
    angle = numbers.get("camera_angle_x", 0.0)
    if angle >= math.pi:
        raise StyleAvatarError(f"{path}: camera_angle_x is in degrees", got=angle, remedy="give it in radians")
    width = numbers.get("w", 1.0)
    if numbers.get("h", width) != width:
        size = f"{width} x {numbers['h']}"
        raise StyleAvatarError(f"{path}: wrong size, it is not square", got=size, remedy="crop it to a square")
    if "fl_x" in numbers and "w" not in numbers:
        raise StyleAvatarError(f"{path}: fl_x without w", expected="w and h: fl_x is in pixels of a picture w wide")
    if "fl_x" not in numbers and not angle:
        raise StyleAvatarError(f"{path}: there is no focal length", expected="fl_x and w, or camera_angle_x")
    x = numbers["fl_x"] / width if "fl_x" in numbers else 0.5 / math.tan(angle / 2)
    y = numbers.get("fl_y", x * width) / width
    centre = [numbers.get(name, width / 2) / width for name in ("cx", "cy")]
    return [x, 0.0, centre[0], 0.0, y, centre[1], 0.0, 0.0, 1.0]


def _label(matrix: numpy.ndarray, intrinsics: list[float]) -> list[float]:
    return [*matrix.ravel().tolist(), *intrinsics]
