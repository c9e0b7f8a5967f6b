"""Mistakes in intrinsics: focal length and centre that are no pinhole's, or show no head, by the unit they are in."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from styleavatar3d.camera.cameras import FOCAL, ORBIT_RADIUS

RIGID = 1e-3
"""how far numbers may be from those of a rotation"""
FRAMING = FOCAL / ORBIT_RADIUS
"""focal over distance: how large a head of the usual size is in the picture"""


class Mistake(NamedTuple):
    """`name` is one of a fixed vocabulary; `rows` are the labels it was seen in.

    A suspicion is about a set that is possible and yet unlikely, such as one without any face.
    """

    name: str
    what: str
    remedy: str
    rows: list[int]
    suspicion: bool = False


class Found:
    """Collects rows by mistake, in the order in which mistakes were met."""

    def __init__(self) -> None:
        self.mistakes: dict[tuple[str, str, str], list[int]] = {}

    def add(self, name: str, what: str, remedy: str, rows: Sequence[int] | numpy.ndarray) -> None:
        if len(rows):
            self.mistakes.setdefault((name, what, remedy), []).extend(int(row) for row in rows)

    def list(self) -> list[Mistake]:
        return [Mistake(*key, rows) for key, rows in self.mistakes.items()]


def check_intrinsics(table: numpy.ndarray, size: int | None) -> list[Mistake]:
    """3x3 matrices that are not intrinsics over image size."""
    found, rows = Found(), numpy.arange(len(table))
    k = table[:, 16:].reshape(-1, 3, 3)
    left = numpy.ones(len(table), bool)

    def add(name: str, what: str, remedy: str, bad: Any) -> None:
        found.add(name, what, remedy, rows[left & bad])
        left[bad] = False

    focal, centre = k[:, [0, 1], [0, 1]], k[:, :2, 2]
    add("no intrinsics", "the 3x3 is zero", "give focal length and centre over image size", ~k.any((1, 2)))
    add("intrinsics transposed", "the 3x3 is written column by column", "transpose it",
        (numpy.abs(k[:, 2, :2]).max(1) > RIGID) & (numpy.abs(centre).max(1) < RIGID))  # fmt: skip
    last = numpy.abs(k[:, 2] - [0, 0, 1]).max(1) > RIGID
    add("intrinsics", "the last row of the 3x3 is not 0 0 1", "divide the 3x3 by its last number", last)
    add("negative focal", "a focal length is negative, as where y points up", "make both positive", (focal < 0).any(1))
    add("no focal", "a focal length is zero", "give it over image size", (focal == 0).any(1))
    pixels = (centre > 2).any(1)
    both = pixels & (focal > 12).all(1)
    add("pixels", "focal length and centre are in pixels", "divide both by the picture's size", both)
    add("centre in pixels", "the principal point is in pixels", "divide it by the picture's size", pixels)
    add("centre", "the principal point is counted from the middle or in [-1, 1]", "0.5 is the middle",
        (numpy.abs(centre) < 0.05).all(1) | (numpy.abs(centre - 1) < 0.05).all(1))  # fmt: skip
    add("centre", "the principal point is far from the middle of the picture", "0.5 is the middle",
        (numpy.abs(centre - 0.5) > 0.3).any(1))  # fmt: skip
    ratio = focal.max(1) / numpy.maximum(focal.min(1), 1e-12)
    add("focal lengths differ", "fx and fy differ: they were divided by different sizes, or pictures are not square",
        "divide both by the side of the square that is left", ratio > 1.05)  # fmt: skip
    add("skew", "the 3x3 has a skew", "undistort the pictures", numpy.abs(k[:, [0, 1], [1, 0]]).max(1) > 0.01)
    return found.list()


def check_framing(table: numpy.ndarray, size: int | None) -> list[Mistake]:
    """Focal lengths and distances that do not show a head, by the unit in which they would."""
    found, rows = Found(), numpy.arange(len(table))
    radius = numpy.linalg.norm(table[:, [3, 7, 11]], axis=1)
    for row in rows.tolist():
        if named := _unit(float(table[row, 16]), float(radius[row]), size):
            found.add(*named, [row])
    usual = numpy.median(radius)
    if not found.mistakes and len(table) >= 3:
        odd = (radius > 3 * usual) | (radius < usual / 3)
        found.add(
            "radius", f"the camera is not where the others are, {usual:.2f} units away", "leave it out", rows[odd]
        )
    return [mistake._replace(suspicion=True) for mistake in found.list()]


_LENGTHS = {"metres": 0.64, "feet": 2.0997, "inches": 25.197, "centimetres": 64.0, "millimetres": 640.0}


def _unit(focal: float, radius: float, size: int | None) -> tuple[str, str, str] | None:
    """(name, what, remedy) if focal and radius, as they stand, show no head of the usual size."""
    known = min(abs(focal / FOCAL - 1), abs(focal / 6.5104 - 1)) < 0.02
    for unit, length in _LENGTHS.items():
        if abs(focal / FOCAL - 1) < 0.02 and abs(radius / length / ORBIT_RADIUS - 1) < 0.03:
            return ("unit", f"positions are in {unit}", f"divide them by {length:g}: a unit is 0.64 m")
    if _shows_a_head(focal / radius):
        return None
    doubtful = not known and (focal > 12 or focal < 0.9 or abs(radius / ORBIT_RADIUS - 1) < 0.1)
    if doubtful and (named := _focal_unit(focal, radius, size)):
        return named
    expected = focal / FRAMING
    unit = min(_LENGTHS, key=lambda name: abs(math.log(radius / expected / _LENGTHS[name])))
    if radius > expected and abs(math.log(radius / expected / _LENGTHS[unit])) < math.log(1.3):
        return ("unit", f"positions are in {unit}", f"divide them by {_LENGTHS[unit]:g}: a unit is 0.64 m")
    what = "with this focal length and distance a head is much smaller or larger than the picture"
    return ("radius", what, "positions are in units of 0.64 m; a head is 0.36 of them high")


def _shows_a_head(framing: float) -> bool:
    """Whether a head fills between a fifth of the picture and all of it."""
    return 1 / 3 < framing / FRAMING < 1.75


def _focal_unit(focal: float, radius: float, size: int | None) -> tuple[str, str, str] | None:
    """In which unit this focal length would show a head of the usual size."""
    angle, divide = "a field of view in {} stands for the focal length", "divide it by the width of picture or sensor"
    readings = {"millimetres": focal / 36}
    readings |= {f"pixels, {side} a side": focal / side for side in ([size] if size else (64, 128, 256, 512, 1024))}
    if focal < 120:
        readings["degrees"] = 0.5 / math.tan(math.radians(focal) / 2)
    if focal < 2:
        readings["radians"] = 0.5 / math.tan(focal / 2)
    fitting = [name for name, value in readings.items() if _shows_a_head(value / radius)]
    best = min(fitting, key=lambda name: abs(math.log(readings[name] / radius / FRAMING)), default="")
    if best in ("degrees", "radians"):
        return best, angle.format(best), "give 0.5 / tan(fov / 2)"
    if "millimetres" in fitting and (best == "millimetres" or not size):
        return "pixels", "the focal length is in millimetres or pixels", divide
    if best or focal > 12:
        return "pixels", f"the focal length is in {best or 'pixels or millimetres'}", divide
    return None
