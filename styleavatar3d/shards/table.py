"""The table that goes with a folder of pictures: one row a picture, and everything wrong with it said at once."""

import csv
import difflib
import io
import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from styleavatar3d.camera.cameras import FOCAL, ORBIT_RADIUS
from styleavatar3d.errors import StyleAvatarError

REQUIRED = ("file", "yaw", "pitch")
OPTIONAL = ("radius", "focal", "prompt", "kind", "style", "mask", "licence")
ATTRIBUTE = "attributes."
"""begins the name of a column that states an attribute: attributes.hair"""
UNSTATED = "unstated"
SHOWN = 20
_MOST_BYTES = 256 << 20
_STEEPEST = 89.0
"""degrees of pitch; straight from above there is no yaw"""


class Row(NamedTuple):
    """One picture as the table describes it. `number` counts as a spreadsheet does: the header is row 1."""

    number: int
    file: str
    yaw: float
    pitch: float
    radius: float
    focal: float
    prompt: str
    kind: str
    style: str
    mask: str
    licence: str
    attributes: dict[str, str]


class Problems:
    """What is wrong, row by row, so that a user can mend all of it before the next try."""

    def __init__(self):
        self.found: list[tuple[int, StyleAvatarError]] = []
        self.rows = 0
        """how many rows the table has"""

    @contextmanager
    def at(self, row: int) -> Iterator[None]:
        """Note a StyleAvatarError raised inside as a problem of `row`."""
        try:
            yield
        except StyleAvatarError as error:
            self.found.append((row, error))

    def check(self, table: Path) -> None:
        """Raise one error that shows the first problems, if there is any."""
        if not self.found:
            return
        shown = [textwrap.indent(f"row {row}: {error}", "  ") for row, error in sorted(self.found, key=_row)[:SHOWN]]
        if len(self.found) > SHOWN:
            shown.append(f"  ... and {len(self.found) - SHOWN} more problems")
        bad = len({row for row, _ in self.found})
        head = f"{bad} of {self.rows} rows of {table.name} cannot be used; nothing was written"
        raise StyleAvatarError("\n".join([head, *shown]), remedy="mend these rows and run the same command again")


def read_table(path: Path, licence: str, problems: Problems) -> list[Row]:
    """The rows of a CSV; `licence` is that of pictures whose row states none. Bad cells are noted in `problems`.

    Columns may come in any order and case, separated by commas, semicolons or tabs; UTF-8, with or without a byte
    order mark. Raises StyleAvatarError if this is no such table.
    """
    lines = _lines(path)
    _, header = next(lines, (0, []))
    columns = _columns(path, header)
    if "licence" not in columns:
        check_licence(licence)
    rows = []
    for number, cells in lines:
        problems.rows += 1
        if len(cells) != len(columns):
            with problems.at(number):
                raise StyleAvatarError(
                    "the row has another number of cells than the header",
                    got=f"{len(cells)}: {', '.join(cells)}",
                    expected=f"{len(columns)}: {', '.join(columns)}",
                    remedy='put a cell that holds the separator in double quotes: "a, b"',
                )
            continue
        rows.append(_row_of(number, dict(zip(columns, cells, strict=True)), licence, problems))
    if not problems.rows:
        raise StyleAvatarError("the table has a header and no rows", got=str(path), expected="one row a picture")
    return rows


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(row number, cells) of all rows that are not blank, the header first."""
    text = _text(path)
    first = text.lstrip().partition("\n")[0]
    separator = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for number, cells in enumerate(reader, 1):
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield number, [_point(cell) for cell in cells] if separator == ";" else cells
    except csv.Error as error:
        raise StyleAvatarError(f"{path} is no CSV: {error}", got=f"line {reader.line_num}") from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise StyleAvatarError("there is no such table", got=str(path), expected="a CSV file")
    if path.stat().st_size > _MOST_BYTES:
        raise StyleAvatarError("the table is too large", got=f"{path.stat().st_size} bytes", expected="at most 256 MiB")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StyleAvatarError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}",
            remedy='save it again as "CSV UTF-8"',
        ) from None


def _point(cell: str) -> str:
    """Where semicolons separate, a comma is a decimal one."""
    whole, comma, rest = cell.partition(",")
    return f"{whole}.{rest}" if comma and whole.lstrip("+-").isdecimal() and rest.isdecimal() else cell


def _columns(path: Path, header: list[str]) -> list[str]:
    columns = [name.lower() for name in header]
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise StyleAvatarError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}",
            got=", ".join(header) or "no header",
            expected=f"{', '.join(REQUIRED)}; and, if you like, {', '.join(OPTIONAL)}, {ATTRIBUTE}NAME",
            remedy="name the columns in the first row, separated by commas, semicolons or tabs",
        )
    for column in columns:
        if columns.count(column) > 1:
            raise StyleAvatarError(f"{path} has the column '{column}' twice", got=", ".join(header))
        if column not in REQUIRED + OPTIONAL and column.removeprefix(ATTRIBUTE) == column:
            close = difflib.get_close_matches(column, REQUIRED + OPTIONAL, n=1)
            raise StyleAvatarError(
                f"{path} has an unknown column '{column}'",
                expected=", ".join(REQUIRED + OPTIONAL),
                remedy=f"did you mean '{close[0]}'?" if close else f"call it {ATTRIBUTE}{column}, or remove it",
            )
    return columns


def _row_of(number: int, cells: dict[str, str], licence: str, problems: Problems) -> Row:
    """The row; what cannot be read is noted and stands as zero or as nothing."""
    numbers = {"yaw": 0.0, "pitch": 0.0, "radius": ORBIT_RADIUS, "focal": FOCAL}
    for name in numbers:
        if cells.get(name) or name in REQUIRED:
            with problems.at(number):
                numbers[name] = _number(name, cells[name])
    with problems.at(number):
        licence = check_licence(cells.get("licence") or licence)
    attributes = {name.removeprefix(ATTRIBUTE): text for name, text in cells.items() if name.startswith(ATTRIBUTE)}
    return Row(
        number=number,
        file=cells["file"],
        **numbers,
        prompt=cells.get("prompt", ""),
        kind=cells.get("kind") or UNSTATED,
        style=cells.get("style") or UNSTATED,
        mask=cells.get("mask", ""),
        licence=licence,
        attributes={name: text for name, text in attributes.items() if text},
    )


_RANGES = {
    "yaw": ("degrees in [-180, 180), positive where the figure's left ear is seen", lambda x: -180 <= x < 180),
    "pitch": ("degrees in [-89, 89], positive where the camera is above", lambda x: abs(x) <= _STEEPEST),
    "radius": ("distance from camera to head in world units, 0.64 m each, in [0.5, 100]", lambda x: 0.5 <= x <= 100),
    "focal": ("focal length over picture width, in [0.2, 49]", lambda x: 0.2 <= x <= 49),
}


def _number(name: str, text: str) -> float:
    expected, fits = _RANGES[name]
    try:
        value = float(text)
    except ValueError:
        raise StyleAvatarError(f"{name} is no number", got=text or "an empty cell", expected=expected) from None
    if fits(value):
        return value
    turned = (value + 180) % 360 - 180
    same = name == "yaw" and math.isfinite(value)
    raise StyleAvatarError(
        f"{name} is out of range",
        got=text,
        expected=expected,
        remedy=f"the same direction is {turned:g}, if the table counts as docs/cameras.md does" if same else None,
    )


def check_licence(text: str) -> str:
    """The licence, if it is a short line of text. Raises StyleAvatarError otherwise."""
    if text and text.isprintable() and len(text) <= 200:
        return text
    raise StyleAvatarError(
        "pictures need a licence" if not text else "the licence is no short line of text",
        got=text or None,
        expected="a name such as CC0-1.0, CC-BY-4.0 or 'own work': it travels into the generator's card",
        remedy="fill the column 'licence', or give --licence TEXT for all rows that state none",
    )


def _row(problem: tuple[int, StyleAvatarError]) -> int:
    return problem[0]
