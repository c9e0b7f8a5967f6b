"""What a record says: everything about one synthesised picture, and where it came from."""

import json
import re
from typing import Any, Literal

from pydantic import Field, ValidationError

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError

SCHEMA = 1
KEY_DIGITS = 9
_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left", "LEFT": "RIGHT", "RIGHT": "LEFT"}


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
    config_hash: str

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
        try:
            return Record.model_validate_json(data)
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


def mirror_words(text: str) -> str:
    """Swap the words left and right: the prompt of the mirrored picture."""
    return re.sub(r"\b(left|right)\b", lambda match: _SIDES.get(match[0], match[0]), text, flags=re.IGNORECASE)
