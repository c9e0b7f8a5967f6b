"""What a record says: everything about one synthesised picture, and where it came from."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError

SCHEMA = 1
KEY_DIGITS = 9
_RIGID = 1e-3
_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}


class Coding(Strict):
    """How the picture of a sample is kept. Masks and guidance are always PNG: their edges and values are exact."""

    image: Literal["png", "jpeg"] = "png"
    quality: int = Field(default=95, ge=1, le=95)

    @staticmethod
    def choose(image: Literal["auto", "png", "jpeg"], resolution: int, quality: int = 95) -> "Coding":
        """ "auto" is JPEG from 256 pixels on, where it saves three quarters of the bytes, and PNG below."""
        if image == "auto":
            image = "jpeg" if resolution >= 256 else "png"
        return Coding(image=image, quality=quality)


class Guidance(Strict):
    """One ControlNet input and how strongly, and for which part of the sampling, it was applied."""

    kind: str
    scale: float
    start: float = 0.0
    end: float = 1.0


class Model(Strict):
    """One network that took part."""

    id: str
    revision: str
    sha256: str
    licence: str


class Figure(Strict):
    """The 3D figure that gave the pose."""

    id: str
    source: str
    licence: str


class Record(Strict):
    """One picture. `camera` is the 25-number label; `yaw` and `pitch` are true degrees, yaw in [-180, 180)."""

    schema_version: Literal[1] = SCHEMA
    index: int = Field(ge=0)
    attempt: int = Field(ge=0)
    seed: int
    camera: list[float] = Field(min_length=25, max_length=25)
    yaw: float = Field(ge=-180, lt=180)
    pitch: float = Field(ge=-90, le=90)
    prompt: str
    negative: str
    kind: str
    style: str
    view: str
    attributes: dict[str, str]
    guidance: list[Guidance]
    models: list[Model]
    figure: Figure
    gates: dict[str, float]
    verdict: Literal["accepted", "rejected"]
    refusals: list[list[str]] = []
    """For each attempt that was refused, in order, the gates that it failed."""
    safety: dict[str, str] = {}
    """What the policy says of "prompt" and "picture": allowed, refused and why, not asked."""
    config_hash: str

    @field_validator("camera")
    @classmethod
    def _camera(cls, camera: list[float]) -> list[float]:
        if not is_camera(camera):
            raise ValueError("this is not a camera")
        return camera

    @property
    def key(self) -> str:
        """The name of the record inside its shard."""
        return f"{self.index:0{KEY_DIGITS}d}"

    def to_json(self) -> bytes:
        """Canonical JSON: the same record is the same bytes."""
        return canonical_json(self.model_dump())

    @staticmethod
    def from_json(data: bytes) -> "Record":
        """Parse and check; StyleAvatarError names what is wrong."""
        return Record.from_tree(parse_json(data))

    @staticmethod
    def from_tree(tree: Any) -> "Record":
        """Check what was read as JSON; StyleAvatarError names what is wrong."""
        try:
            return Record.model_validate(tree, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            field = ".".join(str(part) for part in problem["loc"]) or "record"
            raise StyleAvatarError(
                f"a record's {field} is wrong: {problem['msg']}",
                got=problem.get("input"),
                expected=f"a record of schema {SCHEMA}",
            ) from None


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, plain UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def parse_json(data: bytes) -> Any:
    """JSON in which no name stands twice and every number is one. Raises StyleAvatarError on anything else."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:  # both, UnicodeDecodeError too
        raise StyleAvatarError(f"this is not JSON as it should be: {error}", got=repr(data[:80])) from None


def is_camera(label: Sequence[float]) -> bool:
    """Whether 25 numbers are a rigid `world_from_camera` and intrinsics over image size (see `check_labels`)."""
    if len(label) != 25 or not all(map(is_finite, label)):
        return False
    (a, b, c), (d, e, f), (g, h, i) = rows = label[0:3], label[4:7], label[8:11]
    for first, row in enumerate(rows):
        for second in range(first, 3):
            product = sum(map(float.__mul__, map(float, row), map(float, rows[second])))
            if abs(product - (first == second)) > _RIGID:
                return False
    upright = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) > 0
    return upright and tuple(label[12:16]) == (0, 0, 0, 1) and all(0.1 < focal < 50 for focal in (label[16], label[20]))


def is_finite(value: Any) -> bool:
    """Whether this is a number that a float can hold."""
    return isinstance(value, int | float) and abs(value) < 1e300


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return tree


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value


def mirror_words(text: str) -> str:
    """Swap the words left and right: the prompt of the mirrored picture."""
    return re.sub(r"\b(left|right)\b", lambda match: _SIDES.get(match[0], match[0]), text, flags=re.IGNORECASE)
