"""Random numbers that only some recipes need, drawn where they are needed; and batches in pieces.

Every number belongs to an image of the run, so that pieces, processes and a resume change nothing.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.runtime.random import normal, uniform

Batch = TypeVar("Batch", bound=tuple)


class Chance(NamedTuple):
    """The draws of `count` images from `first` on; `purpose` keeps those of reals and fakes apart."""

    seed: int
    purpose: str
    first: int
    count: int

    def uniform(self, about: str, numbers: int) -> Float[Tensor, "batch number"]:
        """Numbers in [0, 1), on the CPU."""
        indices = range(self.first, self.first + self.count)
        return torch.stack([uniform(self.seed, f"{self.purpose} {about}", index, numbers) for index in indices])

    def normal(self, about: str, *shape: int) -> Float[Tensor, "batch ..."]:
        """Standard normal numbers, on the CPU."""
        return normal(self.seed, f"{self.purpose} {about}", self.first, (self.count, *shape))

    def piece(self, start: int, end: int) -> "Chance":
        """The draws of some of these images."""
        return self._replace(first=self.first + start, count=min(end, self.count) - start)


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    """`batch`, a named tuple of tensors or of further such tuples, in runs of at most `size` images."""
    count = _count(batch)
    if size >= count:
        yield batch
        return
    for start in range(0, count, size):
        yield _piece(batch, start, start + size)


def _count(batch: Any) -> int:
    first = batch[0]
    return _count(first) if isinstance(first, tuple) else len(first)


def _piece(part: Any, start: int, end: int) -> Any:
    if isinstance(part, Tensor):
        return part[start:end]
    if isinstance(part, Chance):
        return part.piece(start, end)
    return type(part)(*(_piece(inner, start, end) for inner in part))
