"""Pickles read without running anything.

A pickle is a program for a stack machine whose instructions can import and call whatever they name. This machine has
only the instructions that `pickle` itself writes at protocols 2 to 5, and none of them does anything: a global is a
`Name`, a call is a `Record` of what was to be called with what. What the few calls that may be recorded mean is
decided afterwards, by code of ours (`pickled_tensors.py`). Every other global is refused by its name.

What runs once an opcode or a value is `no_type_check`: a checker of types would cost ten times the reading.
"""

from __future__ import annotations

import gc
import pickletools
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NoReturn, no_type_check

from styleavatar3d.errors import StyleAvatarError

MAX_OPCODES = 300_000
"""a training pickle of the largest family has about 170,000; this many take a fifth of a second"""
MAX_DEPTH = 100
MAX_MARKS = 64
MAX_STACK = 4096
"""values between two marks; pickle writes lists and mappings in portions of 1000 items"""
MAX_INTEGER = 1 << 96
_MAX_KEY = 1 << 16

_PLAIN = (str, bytes, int, float, type(None))  # bool is an int


@dataclass(frozen=True)
class Name:
    """A global that a pickle names; it is never looked up."""

    text: str


@dataclass(eq=False, slots=True)
class Record:
    """A call that a pickle asks for and that is never made: `name(*arguments)`, then the state and the entries given
    to its result."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)


class Budget:
    """What may still be read, over a file and every pickle inside it: instructions, and bytes of storages, which
    together cannot be more than the file has."""

    def __init__(self, size: int, opcodes: int = MAX_OPCODES):
        self.bytes_left, self.allowed, self.left = size, opcodes, opcodes


def refuse(why: str, got: Any = None, expected: str | None = None, remedy: str | None = None) -> NoReturn:
    """Raise the error of every pickle that is not read. `got` is shown in ASCII, whatever it holds."""
    raise StyleAvatarError(
        f"this pickle is refused: {why}",
        got=ascii(got) if isinstance(got, str) and not got.isprintable() else got,
        expected=expected,
        remedy=remedy or "import only a training pickle of the named family; nothing in this one was run",
    )


@contextmanager
def without_collection() -> Iterator[None]:
    """No cyclic garbage collection: 300,000 new containers would have it walk the whole heap of the process, which may
    be large, again and again. The budget bounds what it might have freed."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_pickle(
    stream: BytesIO, allows: Callable[[str], bool], budget: Budget, *, persistent: bool = False
) -> tuple[Any, list[Record]]:
    """The value of the pickle at the stream's position, and every record in it; the stream then stands behind it.

    `allows` says of a dotted name whether it may appear; `persistent` admits persistent ids, as records named
    "persistent id". Raises StyleAvatarError for whatever else it holds, cycles and deep nesting included.
    """
    machine, start = _Machine(allows, persistent), stream.tell()
    try:
        for opcode, argument, position in pickletools.genops(stream):
            budget.left -= 1
            if budget.left < 0:
                refuse("it is too long a program", got=f"more than {budget.allowed} opcodes")
            if position == start and opcode.name != "PROTO":
                refuse("it does not say its protocol", got=opcode.name, expected="a pickle of protocol 2 to 5")
            if opcode.name == "STOP":
                break
            step = _STEPS.get(opcode.name)
            if step is None:
                refuse(f"opcode {opcode.name} at byte {position} can call or is never written by pickle")
            step(machine, argument)
            if len(machine.stack) > MAX_STACK:
                refuse("it piles up too many values", expected=f"at most {MAX_STACK} between two marks")
        value = machine.result()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        refuse(f"it is malformed: {ascii(str(error))[:200]}")
    check_nesting(value)
    return value, machine.records


@no_type_check
class _Machine:
    """Stack, marks and memo. An `IndexError` of theirs means a malformed pickle."""

    def __init__(self, allows: Callable[[str], bool], persistent: bool):
        self.allows, self.persistent = allows, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under a mark
        self.memo: list[Any] = []
        self.records: list[Record] = []
        self.protocol: int | None = None

    def result(self) -> Any:
        if self.below or len(self.stack) != 1:
            refuse("it is malformed: it does not end with one value")
        return self.stack[0]

    # --- stack and memo ---

    def proto(self, version: int) -> None:
        if self.protocol is not None or not 2 <= version <= 5:
            refuse("its protocol is not known here", got=version, expected="2 to 5, said once")
        self.protocol = version

    def integer(self, value: int) -> None:
        if abs(value) >= MAX_INTEGER:
            refuse("it holds a huge integer", got=f"{value.bit_length()} bits")
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        if len(self.below) == MAX_MARKS:
            refuse("it nests too deeply", got=f"more than {MAX_MARKS} marks")
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, index: int | None) -> None:
        if index not in (None, len(self.memo)):
            refuse("it does not number what it remembers as pickle does", got=index, expected=str(len(self.memo)))
        self.memo.append(self.stack[-1])

    # --- containers ---

    def tuple_of(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def marked_tuple(self, _: Any) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def marked_set(self, _: Any) -> None:
        items = self.marked()
        self.stack.append(frozenset(map(_key, items)))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            refuse("it appends to what is no list", got=_kind(target))
        target += items

    def add(self, _: Any) -> None:
        items, target = self.marked(), self.stack[-1]
        if not isinstance(target, set):
            refuse("it adds to what is no set", got=_kind(target))
        target.update(map(_key, items))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Record) else target
        if not isinstance(entries, dict) or len(items) % 2:
            refuse("it sets items of what is no mapping", got=_kind(target))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if _key(key) in entries:
                refuse("it sets a key twice", got=key)
            entries[key] = value

    # --- what would import and call ---

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            refuse("it names a global by what is no text", got=f"{_kind(module)}, {_kind(name)}")
        dotted = f"{module}.{name}"
        if not self.allows(dotted):
            refuse(
                "it needs a global that is not allowed",
                got=dotted,
                remedy="if it is a class whose state may be ignored, admit its bare name with --stand-in; "
                "it is never imported",
            )
        self.stack.append(Name(dotted))

    def record(self, callee: Any, arguments: Any) -> None:
        if not isinstance(callee, Name) or not isinstance(arguments, tuple):
            refuse("it calls what is no named global", got=f"{_kind(callee)} with {_kind(arguments)}")
        self.records.append(Record(callee.text, arguments))
        self.stack.append(self.records[-1])

    def call(self, _: Any) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        self.record(callee, arguments)

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Record) or target.state is not None:
            refuse("it gives state to what takes none", got=_kind(target))
        target.state = state

    def persistent_id(self, _: Any) -> None:
        if not self.persistent:
            refuse("it refers to something outside by a persistent id")
        self.record(Name("persistent id"), (self.stack.pop(),))


_PUSH = (
    *("BININT", "BININT1", "BININT2", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.proto,
    "FRAME": lambda machine, _: None,
    **dict.fromkeys(_PUSH, lambda machine, value: machine.stack.append(value)),
    "LONG1": _Machine.integer,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(set()),
    "MARK": _Machine.mark,
    "TUPLE": _Machine.marked_tuple,
    "TUPLE1": lambda machine, _: machine.stack.append((machine.stack.pop(),)),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "FROZENSET": _Machine.marked_set,
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.marked()),
    "ADDITEMS": _Machine.add,
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, index: machine.stack.append(machine.memo[index])),
    "GLOBAL": lambda machine, pair: machine.name(*pair.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*[machine.stack.pop(), machine.stack.pop()][::-1]),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_id,
}


def check_nesting(root: Any) -> None:
    """Refuse a value that contains itself or is nested deeper than MAX_DEPTH. Linear in its size, and no recursion."""
    heights: dict[int, int] = {}
    parts = _children(root)
    path, open_ids = [(root, parts, iter(parts))], {id(root)}
    while path:
        value, parts, rest = path[-1]
        child = next(rest, None)
        if child is None:
            path.pop()
            open_ids.discard(id(value))
            height = heights[id(value)] = 1 + max([heights[id(part)] for part in parts], default=0)
        elif id(child) in heights:
            continue
        elif id(child) in open_ids:
            refuse("it holds a value that contains itself")
        elif inner := _children(child):
            path.append((child, inner, iter(inner)))
            open_ids.add(id(child))
            height = len(path)
        else:
            height = heights[id(child)] = 1
        if height > MAX_DEPTH:
            refuse("it nests too deeply", expected=f"at most {MAX_DEPTH} levels")


@no_type_check
def _children(value: Any) -> Iterable[Any]:
    """What a value holds that can hold more."""
    if isinstance(value, Record):
        parts = (value.arguments, value.state, value.entries)
    else:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [part for part in parts if not isinstance(part, _PLAIN)]


@no_type_check
def _key(value: Any) -> Any:
    """A key or set member: what nobody can choose to be slow to hash (nested tuples) or to collide (large numbers)."""
    if not isinstance(value, (str, bytes, type(None))) and not (isinstance(value, int) and abs(value) <= _MAX_KEY):
        refuse("it uses as a key what is neither text nor a small integer", got=_kind(value))
    return value


def _kind(value: Any) -> str:
    return value.name if isinstance(value, Record) else type(value).__name__
