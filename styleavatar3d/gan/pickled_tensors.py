"""What the calls recorded from a pickle mean: tensors, numbers and mappings, rebuilt from their bytes by hand."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleavatar3d.gan.restricted_pickle import Budget, Name, Record, read_pickle, refuse

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
STORAGE = "torch.storage._load_from_bytes"
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
SCALAR, ARRAY = [tuple(f"{module}.{name}" for module in _NUMPY) for name in ("scalar", "_reconstruct")]
DTYPE = "numpy.dtype"
MAPPINGS = ("collections.OrderedDict", "dnnlib.util.EasyDict")
SETS = ("builtins.set", "__builtin__.set")
VALUES = {TENSOR, PARAMETER, STORAGE, *SCALAR, *ARRAY, DTYPE, "_codecs.encode", "numpy.ndarray", *MAPPINGS, *SETS}
"""every global that stands for a value"""

_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_PARTS, _MAX_LENGTH = 10_000, 4096


class Storages:
    """The storages of a pickle. All are checked at once, those of networks that are not imported too."""

    def __init__(self, records: Iterable[Record], budget: Budget):
        self._data = {id(record): read_storage(record, budget) for record in records if record.name == STORAGE}
        self._flat: dict[int, Tensor] = {}

    def tensor(self, value: Any) -> Tensor:
        """The tensor or parameter that a record stands for, a view of its storage."""
        if isinstance(value, Record) and value.name == PARAMETER and len(value.arguments) == 3:
            value = value.arguments[0]
        if not isinstance(value, Record) or value.name != TENSOR or not 6 <= len(value.arguments) <= 7:
            refuse("it holds something else where a tensor is expected", got=describe(value))
        storage, offset, size, stride = value.arguments[:4]
        if not isinstance(storage, Record) or id(storage) not in self._data:
            refuse("it holds a tensor without a storage", got=describe(storage))
        flat = self._flatten(storage)
        _check_view(flat.numel(), offset, size, stride)
        return flat.as_strided(size, stride, offset)

    def _flatten(self, storage: Record) -> Tensor:
        if id(storage) not in self._flat:
            dtype, data = self._data[id(storage)]
            flat = torch.frombuffer(bytearray(data), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
            self._flat[id(storage)] = flat
        return self._flat[id(storage)]


def read_storage(record: Record, budget: Budget) -> tuple[torch.dtype, memoryview]:
    """Number format and bytes of a storage as `torch.save` writes it in its legacy form: four small pickles, a list
    of keys, a count and the numbers. (`_load_from_bytes` never holds the zip form, and here it is refused.)"""
    content = _bytes(record.arguments[0], budget.bytes_left) if len(record.arguments) == 1 else None
    if content is None:
        refuse("it holds a storage that is no bytes, or more of them than the file", got=describe(record.arguments))
    budget.bytes_left -= len(content)
    stream = io.BytesIO(content)

    def part() -> Any:
        return read_pickle(stream, STORAGES.__contains__, budget, persistent=True)[0]

    magic, version, system, reference, keys = part(), part(), part(), part(), part()
    if (magic, version) != (_LEGACY_MAGIC, _LEGACY_VERSION):
        refuse("it holds a storage in a form that is not known here", got=describe((magic, version)))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        refuse("it holds a storage of a big-endian machine")
    identifier = reference.arguments[0] if isinstance(reference, Record) else None
    match identifier:
        case ("storage", Name(kind), str(key), str(), int(count), None) if kind in STORAGES and keys == [key]:
            dtype = STORAGES[kind]
        case _:
            refuse("it holds a storage that refers to something else", got=describe(identifier))
    stored, data = int.from_bytes(stream.read(8), "little"), memoryview(content)[stream.tell() :]
    if stored != count or len(data) != count * dtype.itemsize:
        refuse("it holds a storage of another length than it says", got=f"{len(data)} bytes for {count} of {dtype}")
    return dtype, data


def _bytes(value: Any, limit: int) -> bytes | None:
    """Bytes as they are, or as the call on text that protocol 2 writes for them; None for anything else or longer."""
    match value:
        case bytes() if len(value) <= limit:
            return value
        case Record(name="_codecs.encode", arguments=(str(text), "latin1")) if len(text) <= limit:
            return text.encode("latin1", "replace")
    return None


def _check_view(count: int, offset: Any, size: Any, stride: Any) -> None:
    numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
    if not all(type(number) is int and number >= 0 for number in numbers) or not len(size) == len(stride) <= 8:
        refuse("it holds a tensor with a strange shape", got=describe((offset, size, stride)))
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    empty = 0 in size
    if math.prod(size) > count or (not empty and last >= count):
        refuse("it holds a tensor that reaches beyond its storage", got=f"{size} of {count} numbers")


class Plain:
    """Settings as plain data. A shared part is counted each time it is met, so that sharing cannot multiply."""

    def __init__(self) -> None:
        self.left = _MAX_PARTS

    def __call__(self, value: Any) -> Any:
        """Numbers, text, lists and mappings as they are; numpy's from their bytes; a global as its name."""
        self.left -= 1
        if self.left < 0:
            refuse("its settings are too many", expected=f"at most {_MAX_PARTS} values")
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str) and len(value) <= _MAX_LENGTH:
            return value
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self(part) for part in value]
        if isinstance(value, Name):
            return value.text
        if isinstance(value, Record) and value.name in SCALAR and len(value.arguments) == 2:
            return _numbers(value.arguments[1], value.arguments[0], ()).item()
        if isinstance(value, Record) and value.name in ARRAY:
            return _array(value).tolist()
        return {str(key): self(part) for key, part in mapping(value).items()}


def mapping(value: Any) -> dict[Any, Any]:
    """A dictionary, or the entries of one of its recorded relatives."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Record) and value.name in MAPPINGS and not any(value.arguments) and value.state is None:
        return value.entries
    refuse("it holds something else where a mapping is expected", got=describe(value))


def describe(value: Any) -> str:
    """A value in a few words, whatever it holds."""
    if isinstance(value, Record):
        return f"the result of {value.name}"
    if isinstance(value, tuple):
        return f"({', '.join(describe(part) if not isinstance(part, tuple) else '...' for part in value[:8])})"
    return ascii(value)[:60] if isinstance(value, (str, int, float, Name, type(None))) else type(value).__name__


def _array(record: Record) -> np.ndarray:
    """numpy's state of an array: version, shape, dtype, Fortran order, bytes."""
    match record.state:
        case (1, tuple(shape), dtype, bool(fortran), data):
            numbers = _numbers(data, dtype, shape[::-1] if fortran else shape)
            return numbers.T if fortran else numbers
    refuse("it holds a numpy array in a form that is not known here", got=describe(record.state))


def _numbers(data: Any, dtype: Any, shape: tuple[Any, ...]) -> np.ndarray:
    data, kind = _bytes(data, _MAX_LENGTH), _dtype(dtype)
    if data is None or not all(type(side) is int and side >= 0 for side in shape[:9]):
        refuse("it holds numpy numbers in a form that is not known here", got=describe(data))
    if len(shape) > 8 or len(data) != kind.itemsize * math.prod(shape):
        refuse("it holds numpy numbers of another length than it says", got=f"{len(data)} bytes for {shape} of {kind}")
    return np.frombuffer(data, kind).reshape(shape)


def _dtype(value: Any) -> np.dtype:
    code = value.arguments[0] if isinstance(value, Record) and value.name == DTYPE and value.arguments else None
    order = value.state[1] if isinstance(value, Record) and isinstance(value.state, tuple) and value.state[1:] else "|"
    if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code) or order not in ("<", ">", "|"):
        refuse("it holds numpy numbers of a kind that is not known here", got=describe(value))
    return np.dtype(code).newbyteorder(order)
