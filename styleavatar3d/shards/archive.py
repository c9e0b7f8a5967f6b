"""Where the members of a shard lie in its tar, and whether it is such a tar at all: tars may come from anywhere."""

import mmap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.schema import KEY_DIGITS

BLOCK = 512
ABSENT = -1
_NAME, _SIZE, _CHECKSUM, _KIND, _LINK = slice(0, 100), slice(124, 136), slice(148, 156), 156, slice(157, 257)
_PREFIX = slice(345, 500)


class Layout(NamedTuple):
    """What each sample of a shard consists of. Row i belongs to key `first + i`; an absent part has size `ABSENT`."""

    first: int
    parts: tuple[str, ...]
    sizes: numpy.ndarray
    """int64 [count, parts]: bytes of each member"""
    offsets: numpy.ndarray
    """int64 [count, parts]: where its bytes begin, its header 512 bytes before"""

    def find(self, row: int, part: str) -> tuple[int, int] | None:
        """(offset, size) of a member, or None."""
        if part not in self.parts or not 0 <= row < len(self.sizes):
            return None
        column = self.parts.index(part)
        size = int(self.sizes[row, column])
        return None if size == ABSENT else (int(self.offsets[row, column]), size)


def arrange(first: int, parts: Sequence[str], sizes: Sequence[Sequence[int]]) -> Layout:
    """The layout that follows from the sizes: members stand one after the other, by key and then by name."""
    table = numpy.asarray(sizes, numpy.int64).reshape(len(sizes), len(parts))
    room = numpy.where(table == ABSENT, 0, BLOCK + -(-table // BLOCK) * BLOCK).ravel()
    ends = numpy.cumsum(room)
    return Layout(first, tuple(parts), table, (ends - room + BLOCK).reshape(table.shape))


def scan(tar: bytes | mmap.mmap, name: str, first: int, count: int) -> Layout:
    """The layout of a tar that holds the keys first..first+count-1. Raises StyleAvatarError on any other tar."""
    found: dict[str, int] = {}
    for member, _, size in members(tar, name):
        if member in found:
            raise _refused(name, member, "it is there twice")
        found[member] = size
    if list(found) != sorted(found):
        raise _refused(name, next(iter(found)), "members are not sorted")
    keys = {member.partition(".")[0] for member in found}
    wanted = {f"{index:0{KEY_DIGITS}d}" for index in range(first, first + count)}
    for key in sorted(keys ^ wanted):
        raise _refused(name, key, "the key belongs to another shard" if key in keys else "the key is missing")
    parts = sorted({member.partition(".")[2] for member in found})
    sizes = [[found.get(f"{key}.{part}", ABSENT) for part in parts] for key in sorted(keys)]
    return arrange(first, parts, sizes)


def members(tar: bytes | mmap.mmap, name: str) -> Iterator[tuple[str, int, int]]:
    """(member, offset, size) of a plain ustar archive of regular files. Raises StyleAvatarError where it is none."""
    at = 0
    while at + BLOCK <= len(tar):
        header = tar[at : at + BLOCK]
        if not any(header):
            return
        member, size = parse_header(header, name)
        if at + BLOCK + size > len(tar):
            raise _refused(name, member, f"its {size} bytes reach past the end of the shard")
        yield member, at + BLOCK, size
        at += BLOCK + -(-size // BLOCK) * BLOCK
    raise _refused(name, "the end", "the tar is cut short: it does not end in zeros")


def parse_header(header: bytes, name: str) -> tuple[str, int]:
    """(member, size) of one header block of shard `name`."""
    stated = _octal(header[_CHECKSUM])
    if stated != sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" "):
        raise _refused(name, "a header", "its checksum is wrong")
    member = header[_NAME].rstrip(b"\0").decode("ascii", "replace")
    size = _octal(header[_SIZE])
    if header[_KIND : _KIND + 1] not in (b"0", b"\0") or any(header[_LINK]) or any(header[_PREFIX]):
        raise _refused(name, member, "it is no plain file")
    if size is None:
        raise _refused(name, member, "its size is no number")
    key, _, part = member.partition(".")
    if not (len(key) == KEY_DIGITS and key.isdecimal() and part and part.isprintable() and "/" not in part):
        raise _refused(name, member, f"it is not named as {'0' * KEY_DIGITS}.json is")
    return member, size


def _octal(field: bytes) -> int | None:
    digits = field.strip(b"\0 ")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _refused(name: str, member: str, why: str) -> StyleAvatarError:
    return StyleAvatarError(
        f"{name}, {member}: {why}",
        expected="a tar of plain files KEY.PART, sorted, each there once",
        remedy="run `styleavatar3d dataset validate`, then make the shard again",
    )
