"""What can be asked of `AvatarPipeline`: one request, checked, and requests from a table."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from styleavatar3d.avatar.pictures import Picture
from styleavatar3d.config import suggest
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.miniature.stated import stated_attributes
from styleavatar3d.stylespace.attributes import checked
from styleavatar3d.stylespace.diffusion import Guidance

SEED_TRUNCATION = 0.7
"""of plain draws"""
GUIDANCE, TRUNCATION, _MANY_WORDS = (1.5, 2.25, 3.0), (1.0, 0.9, 0.9), 6
"""Of one word, of as many as these, and of what follows a picture, an avatar or words that nobody knows.

Insisting makes avatars of different seeds alike. Measured on the prior before this one: of one word they were 0.71 as
far apart as random ones with 1.5 and 1.0, 0.43 with 3 and 0.9, and the word showed as often. Of 54 prompts that say it
all 0.66 showed with 3, 0.67 with 2.25 and, of 24 of them, 0.63 with 5."""
_NUMBERS = {
    "seed": int, "number": int, "candidates": int, "steps": int, "truncation": float, "strength": float,
    "guidance": float,
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One avatar, or `number` of them from the seeds `seed`, `seed + 1` and so on.

    Of prompt, image and attributes any may be given, and all are followed together. With none of them it is a plain
    draw of `seed` from the generator.
    """

    prompt: Any = None
    """a text"""
    image: Picture | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    """words of `figures.looks.WORDS`; they overrule what the prompt says"""
    negative: str = ""
    """what it should not look like"""
    start: Any = None
    """an Avatar: what is asked for is changed, and everything else stays"""
    strength: float = 0.6
    """with `start`: how far from its code a change in words may lead, at most; towards a picture, 1 forgets it"""
    seed: Any = None
    """a whole number; 0 where there is something else to go by"""
    number: int = 1
    truncation: float | None = None
    """pulls codes towards the mean: 1 varied, 0 the mean avatar; by default 0.7 of seeds, and from 1.0 where little is
    asked for to 0.9"""
    guidance: Guidance | None = None
    """of the style prior: 1 follows what is asked as trained, more insists on it; or one for each of image, text and
    attributes, e.g. {"image": 1.5, "text": 3}; by default 1.5 for one word to 2.25 for six, 3 for a picture"""
    candidates: int = 48
    """codes drawn for each avatar; the one whose front view is nearest to what was asked for is kept"""
    steps: int = 8
    """from pure noise to a code; more of them take longer"""

    def __post_init__(self):
        checked(self.attributes)
        if self.prompt is not None and not isinstance(self.prompt, str):
            raise StyleAvatarError("this is no prompt", got=type(self.prompt).__name__, expected="a text")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise StyleAvatarError("this is no seed", got=self.seed, expected="a whole number")
        if not self.conditional and self.seed is None:
            raise StyleAvatarError(
                "nothing was asked for", got="nothing", expected="a prompt, an image, attributes or a seed"
            )
        if not self.conditional and (self.start is not None or self.negative):
            got = "start" if self.start is not None else "negative"
            raise StyleAvatarError(
                "a plain draw has nothing to go by", got=got, expected="it beside a prompt, an image or attributes"
            )
        truncation = 1.0 if self.truncation is None else self.truncation
        fits = 0 <= truncation <= 2 and 1 <= self.candidates <= 256 and 1 <= self.number <= 256
        if not fits or not 0 < self.strength <= 1 or not 1 <= self.steps <= 1000:
            raise StyleAvatarError(
                "these settings are out of range",
                got=f"truncation {truncation}, candidates {self.candidates}, number {self.number}, "
                f"strength {self.strength}, steps {self.steps}",
                expected="truncation in [0, 2], candidates and number in [1, 256], strength in (0, 1], "
                "steps in [1, 1000]",
            )

    @property
    def conditional(self) -> bool:
        """Whether it goes through the style prior."""
        return self.prompt is not None or self.image is not None or bool(self.attributes)

    def told(self) -> dict[str, Any]:
        """The request as its provenance tells it: what was given, and the settings that matter."""
        if not self.conditional:
            return {"seed": self.seed, "truncation": self.pull}
        about: dict[str, Any] = {}
        if self.prompt is not None:
            about["prompt"] = self.prompt
        if self.image is not None:
            about["image"] = str(self.image) if isinstance(self.image, (str, Path)) else type(self.image).__name__
        about |= {name: value for name in ("attributes", "negative") if (value := getattr(self, name))}
        if self.start is not None:
            about |= {"start": self.start.provenance.get("request", {}), "strength": self.strength}
        else:
            about["truncation"] = self.pull
        guidance = dict(self.scale) if isinstance(self.scale, Mapping) else self.scale
        settings = {"guidance": guidance, "candidates": self.candidates, "steps": self.steps}
        return about | settings | {"seed": self.seed or 0}

    @property
    def words(self) -> dict[str, str]:
        """The attributes that prompt and attributes ask for."""
        return (stated_attributes(self.prompt) if self.prompt else {}) | dict(self.attributes)

    @property
    def pull(self) -> float:
        """The truncation, decided."""
        if self.truncation is not None:
            return self.truncation
        return self._decided(TRUNCATION) if self.conditional else SEED_TRUNCATION

    @property
    def scale(self) -> Guidance:
        """The guidance, decided."""
        return self._decided(GUIDANCE) if self.guidance is None else self.guidance

    def _decided(self, between: tuple[float, float, float]) -> float:
        """From the first to the second, the more words ask for; the third where not words alone are followed."""
        said, (loose, strict, close) = len(self.words), between
        if self.image is not None or self.start is not None or not said:
            return close
        return round(loose + min((said - 1) / (_MANY_WORDS - 1), 1.0) * (strict - loose), 3)


def spread(given: Mapping[str, Any]) -> tuple[list[Request], bool]:
    """One request for each element of the arguments that are lists, and whether any was.

    Lists must be of one length; what is no list belongs to every request.
    """
    lists = {name: list(value) for name, value in given.items() if _several(value)}
    lengths = {len(value) for value in lists.values()}
    if len(lengths) > 1:
        got = ", ".join(f"{name}: {len(value)}" for name, value in lists.items())
        raise StyleAvatarError(
            "lists of different lengths cannot be asked for together", got=got, expected="one length"
        )
    count = lengths.pop() if lengths else 1
    return [Request(**(dict(given) | {name: value[i] for name, value in lists.items()})) for i in range(count)], bool(
        lists
    )


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """The requests of a CSV file, a row each, as keyword arguments of `Request`.

    Columns are named as its fields; `start` is an avatar file, `image` a picture file (both relative to the table),
    `attributes` reads `hair=long; glasses=none`. Empty cells are not given. A column `name` names the results.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StyleAvatarError(
            "this table cannot be read", got=f"{path} ({error})", expected="a CSV file in UTF-8"
        ) from None
    known = ["name", *(each.name for each in fields(Request))]
    reader = csv.DictReader(io.StringIO(text))
    for column in reader.fieldnames or []:
        if column not in known:
            expected = ", ".join(known)
            raise StyleAvatarError(
                "the table has an unknown column", got=column, expected=expected, remedy=suggest(column, known)
            )
    rows = [_row(row, number, Path(path).parent) for number, row in enumerate(reader, 2)]
    if not rows:
        raise StyleAvatarError(
            "the table has no rows", got=str(path), expected=f"a header of {', '.join(known)}, and rows"
        )
    return rows


def parse_attributes(text: str) -> dict[str, str]:
    """'hair=long; glasses=none' -> {"hair": "long", "glasses": "none"}."""
    pairs = [part.partition("=") for part in text.replace(",", ";").split(";") if part.strip()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise StyleAvatarError("these are no attributes", got=wrong[0].strip(), expected="e.g. hair=long; glasses=none")
    return checked({name.strip(): value.strip() for name, _, value in pairs})


def _row(row: dict[str, str], line: int, folder: Path) -> dict[str, Any]:
    try:
        if None in row:
            raise StyleAvatarError("more cells than columns", expected="quotes around texts with commas")
        given: dict[str, Any] = {name: cell.strip() for name, cell in row.items() if cell and cell.strip()}
        for name, kind in _NUMBERS.items():
            if name in given:
                given[name] = _number(name, given[name], kind)
        for name in ("image", "start"):
            if name in given:
                given[name] = str(folder / given[name])
        if "attributes" in given:
            given["attributes"] = parse_attributes(given["attributes"])
        return given
    except StyleAvatarError as error:
        raise StyleAvatarError(f"line {line} of the table: {error}") from None


def _number(name: str, text: str, kind: type) -> Any:
    try:
        return json.loads(text) if name == "guidance" and text.startswith("{") else kind(text)
    except ValueError:
        raise StyleAvatarError(f"'{name}' is no number", got=text, expected=kind.__name__) from None


def _several(value: Any) -> bool:
    pictures = (str, Path, Image.Image, np.ndarray, Tensor)
    return isinstance(value, (list, tuple, range)) and not isinstance(value, pictures)
