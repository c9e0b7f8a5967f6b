"""Thirty ways to get cameras wrong, as functions of true labels [N, 25], with a word that the validator has to say."""

from collections.abc import Callable

import numpy

Labels = numpy.ndarray
FLIP = numpy.diag([1.0, -1.0, -1.0, 1.0])
Z_UP = numpy.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""Blender's world from ours"""


def matrices(change: Callable[[numpy.ndarray], numpy.ndarray]) -> Callable[[Labels], Labels]:
    """A mistake of the 4x4 alone."""

    def apply(labels: Labels) -> Labels:
        changed = change(labels[:, :16].reshape(-1, 4, 4).copy())
        return numpy.concatenate([changed.reshape(-1, 16), labels[:, 16:]], 1)

    return apply


def intrinsics(change: Callable[[numpy.ndarray], numpy.ndarray]) -> Callable[[Labels], Labels]:
    """A mistake of the 3x3 alone."""

    def apply(labels: Labels) -> Labels:
        changed = change(labels[:, 16:].reshape(-1, 3, 3).copy())
        return numpy.concatenate([labels[:, :16], changed.reshape(-1, 9)], 1)

    return apply


def times(array: numpy.ndarray, factor: object, where: tuple = ()) -> numpy.ndarray:
    array[(slice(None), *where)] *= factor
    return array


def put(array: numpy.ndarray, value: object, *where: object) -> numpy.ndarray:
    array[(slice(None), *where)] = value
    return array


def transposed_rotation(m: numpy.ndarray) -> numpy.ndarray:
    return put(m, m[:, :3, :3].transpose(0, 2, 1).copy(), slice(3), slice(3))


def world_translation(m: numpy.ndarray) -> numpy.ndarray:
    return put(m, numpy.linalg.inv(m)[:, :3, 3], slice(3), 3)


def angles(m: numpy.ndarray) -> numpy.ndarray:
    yaw = numpy.degrees(numpy.arctan2(-m[:, 0, 2], -m[:, 2, 2]))
    m[:, :3, :3] = 0
    m[:, 0, 0], m[:, 1, 1] = yaw + 40, 10.0
    return m


def degrees_as_radians(labels: Labels) -> Labels:
    """Sine and cosine of degrees, in a set whose pitch goes up and down."""
    outward = -labels[:, [2, 6, 10]]
    yaw = numpy.degrees(numpy.arctan2(outward[:, 0], outward[:, 2]))
    pitch = numpy.degrees(numpy.arcsin(outward[:, 1].clip(-1, 1)))
    return orbit(numpy.degrees(yaw), numpy.degrees(pitch), labels)


def radians_as_degrees(labels: Labels) -> Labels:
    outward = -labels[:, [2, 6, 10]]
    yaw, pitch = numpy.arctan2(outward[:, 0], outward[:, 2]), numpy.arcsin(outward[:, 1].clip(-1, 1))
    return orbit(yaw, pitch, labels)


def orbit(yaw: numpy.ndarray, pitch: numpy.ndarray, like: Labels) -> Labels:
    a, b = numpy.radians(yaw), numpy.radians(pitch)
    zero = numpy.zeros_like(a)
    right = numpy.stack([numpy.cos(a), zero, -numpy.sin(a)], 1)
    outward = numpy.stack([numpy.sin(a) * numpy.cos(b), numpy.sin(b), numpy.cos(a) * numpy.cos(b)], 1)
    m = numpy.tile(numpy.eye(4), (len(a), 1, 1))
    m[:, :3, 0], m[:, :3, 1], m[:, :3, 2] = right, numpy.cross(-outward, right), -outward
    radius = numpy.linalg.norm(like[:, [3, 7, 11]], axis=1)
    m[:, :3, 3] = outward * radius[:, None]
    return numpy.concatenate([m.reshape(-1, 16), like[:, 16:]], 1)


def opposite(m: numpy.ndarray) -> numpy.ndarray:
    """The face looks to -z."""
    turn = numpy.diag([-1.0, 1.0, -1.0, 1.0])
    return turn @ m


def shear(m: numpy.ndarray) -> numpy.ndarray:
    m[:, :3, 0] += 0.2 * m[:, :3, 1]
    return m


def bottom_lost(m: numpy.ndarray) -> numpy.ndarray:
    return put(m, 0.0, 3)


def fov(degrees: bool) -> Callable[[numpy.ndarray], numpy.ndarray]:
    def change(k: numpy.ndarray) -> numpy.ndarray:
        angle = 2 * numpy.arctan(0.5 / k[:, 0, 0])
        k[:, 0, 0] = k[:, 1, 1] = numpy.degrees(angle) if degrees else angle
        return k

    return change


SCALE = (slice(3), 3)
FOCALS = ([0, 1], [0, 1])
CENTRE = (slice(2), 2)

MISTAKES: dict[str, tuple[Callable[[Labels], Labels], str]] = {
    "world-to-camera given": (matrices(numpy.linalg.inv), "world-to-camera"),
    "OpenGL axes": (matrices(lambda m: m @ FLIP), "OpenGL"),
    "OpenGL view matrix": (matrices(lambda m: numpy.linalg.inv(m @ FLIP)), "world-to-camera"),
    "camera x flipped": (matrices(lambda m: times(m, -1, (slice(3), 0))), "mirrored"),
    "camera y flipped": (matrices(lambda m: times(m, -1, (slice(3), 1))), "mirrored"),
    "camera z flipped": (matrices(lambda m: times(m, -1, (slice(3), 2))), "mirrored"),
    "world x flipped": (matrices(lambda m: times(m, -1, (0,))), "mirrored"),
    "column-major": (matrices(lambda m: m.transpose(0, 2, 1)), "transposed"),
    "rotation transposed": (matrices(transposed_rotation), "transposed"),
    "z up": (matrices(lambda m: Z_UP @ m), "z is up"),
    "Blender's matrix_world": (matrices(lambda m: Z_UP @ m @ FLIP), "OpenGL"),
    "y down": (matrices(lambda m: FLIP @ m), "axes flipped"),
    "rolled half a turn": (matrices(lambda m: m @ numpy.diag([-1.0, -1, 1, 1])), "axes flipped"),
    "scaled rotation": (matrices(lambda m: times(m, 1.7, (slice(3), slice(3)))), "scaled"),
    "sheared": (matrices(shear), "not a rotation"),
    "last row lost": (matrices(bottom_lost), "last row"),
    "angles for a rotation": (matrices(angles), "degrees"),
    "degrees as radians": (degrees_as_radians, "degrees"),
    "radians as degrees": (radians_as_degrees, "radians"),
    "millimetres": (matrices(lambda m: times(m, 640.0, SCALE)), "unit"),
    "centimetres": (matrices(lambda m: times(m, 64.0, SCALE)), "unit"),
    "no translation": (matrices(lambda m: put(m, 0.0, *SCALE)), "no translation"),
    "translation of the inverse": (matrices(world_translation), "disagree"),
    "not finite": (matrices(lambda m: put(m, numpy.nan, 1, 1)), "not finite"),
    "focal in pixels": (intrinsics(lambda k: times(k, 512.0, FOCALS)), "pixels"),
    "all in pixels": (intrinsics(lambda k: times(k, 512.0, (slice(2),))), "pixels"),
    "field of view in degrees": (intrinsics(fov(True)), "degrees"),
    "centre at zero": (intrinsics(lambda k: put(k, 0.0, *CENTRE)), "centre"),
    "intrinsics first": (lambda x: numpy.concatenate([x[:, 16:], x[:, :16]], 1), "intrinsics first"),
    "no intrinsics": (lambda x: x[:, :16], "no intrinsics"),
}
"""The thirty."""

MORE: dict[str, tuple[Callable[[Labels], Labels], str]] = {
    "position negated": (matrices(lambda m: times(m, -1, SCALE)), "disagree"),
    "camera looks backwards": (matrices(lambda m: m @ numpy.diag([-1.0, 1, -1, 1])), "flipped"),
    "field of view in radians": (intrinsics(fov(False)), "radians"),
    "focal in millimetres": (intrinsics(lambda k: times(k, 36.0, FOCALS)), "illimetres"),
    "negative focal": (intrinsics(lambda k: times(k, -1.0, (1, 1))), "negative"),
    "intrinsics transposed": (intrinsics(lambda k: k.transpose(0, 2, 1)), "transposed"),
    "skew": (intrinsics(lambda k: put(k, 0.3, 0, 1)), "skew"),
    "fx and fy differ": (intrinsics(lambda k: times(k, 2.0, (0, 0))), "differ"),
    "face to the back": (matrices(opposite), "turned"),
    "origin at the feet": (matrices(lambda m: times(m, 1, ()) + put(m * 0, 2.4, 1, 3)), "look at"),
    "all zero": (matrices(lambda m: m * 0), "zero"),
    "on its side": (matrices(lambda m: m @ numpy.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
                    "side"),
}  # fmt: skip
