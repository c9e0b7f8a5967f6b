"""In which order an epoch is read: a permutation that is computed place by place, so that nothing is drawn or stored.

A Feistel network over the smallest even number of bits that holds `count` is a bijection; a value past the end is
encrypted again until it falls inside (cycle walking: J. Black, P. Rogaway, "Ciphers with arbitrary finite domains",
2002), which keeps it one. Place 1,000,000 costs what place 0 costs, and no list grows with the data set.
"""

from collections.abc import Iterator

import numpy
from torch.utils.data import Sampler

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.random import key

_ROUNDS = 8
_AHEAD = 4096
"""places whose order is computed in one go"""


def order(seed: int, epoch: int, count: int, places: numpy.ndarray | None = None) -> numpy.ndarray:
    """Which of `count` samples stand at `places` [n] of an epoch (default: all of it). int64 [n]."""
    wanted = numpy.arange(count) if places is None else numpy.asarray(places)
    half = max(1, -(-(count - 1).bit_length() // 2))
    found = wanted.astype(numpy.uint64)
    outside = numpy.ones(len(found), bool)
    while outside.any():
        found[outside] = _shuffle(found[outside], key(seed, "order", epoch), half)
        outside = found >= count
    return found.astype(numpy.int64)


def stream(seed: int, count: int, start: int, stop: int) -> numpy.ndarray:
    """The samples at the places start..stop-1 of the endless stream: epoch after epoch, each in its own order."""
    places = numpy.arange(start, stop)
    epochs = range(start // count, -(-stop // count))
    parts = (order(seed, epoch, count, places[places // count == epoch] % count) for epoch in epochs)
    return numpy.concatenate([numpy.zeros(0, numpy.int64), *parts])


def indices_at(seed: int, position: int, batch: int, count: int, rank: int = 0, world: int = 1) -> list[int]:
    """What rank `rank` of `world` reads when `position` samples were read by all: its part of the next global `batch`.

    Pure, so any run resumes at any sample, and the global order does not depend on `world`.
    """
    return stream(seed, count, position, position + batch)[rank::world].tolist()


class Batches(Sampler[list[int]]):
    """The batches that one rank reads from `position` on, for a `torch.utils.data.DataLoader(batch_sampler=...)`.

    `batch` counts the samples of all ranks together; `position` those that all of them have read, in any world. Without
    `until` the stream never ends; with it, it ends when `until` samples were read by all.
    """

    def __init__(
        self,
        count: int,
        batch: int,
        seed: int,
        position: int = 0,
        until: int | None = None,
        rank: int = 0,
        world: int = 1,
    ):
        if not (count > 0 and position >= 0 and 0 <= rank < world <= batch):
            raise StyleAvatarError(
                "these samples cannot be shared out",
                got=f"{count} samples, batch {batch}, position {position}, rank {rank} of {world}",
                expected="samples, a position >= 0, and a batch with a part for every rank",
            )
        self.count, self.batch, self.seed, self.position, self.until = count, batch, seed, position, until
        self.rank, self.world = rank, world

    def __iter__(self) -> Iterator[list[int]]:
        ahead = max(1, min(_AHEAD, self.count) // self.batch) * self.batch
        start = self.position
        while self.until is None or start < self.until:
            stop = start + ahead if self.until is None else min(start + ahead, self.until)
            samples = stream(self.seed, self.count, start, stop)
            for first in range(0, len(samples), self.batch):
                if mine := samples[first : first + self.batch][self.rank :: self.world].tolist():
                    yield mine
            start = stop


def _shuffle(values: numpy.ndarray, secret: int, half: int) -> numpy.ndarray:
    """Permute [0, 4**half), keyed by `secret`."""
    mask, width = numpy.uint64((1 << half) - 1), numpy.uint64(half)
    left, right = values >> width, values & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_mix(right, secret + turn * 0x9E3779B97F4A7C15) & mask)
    return (left << width) | right


def _mix(values: numpy.ndarray, salt: int) -> numpy.ndarray:
    """SplitMix64's finaliser (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014)."""
    values = values + numpy.uint64(salt & 0xFFFFFFFFFFFFFFFF)
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))
