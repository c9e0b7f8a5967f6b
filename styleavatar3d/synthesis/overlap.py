"""One batch is encoded while the networks draw the next."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from styleavatar3d.shards.schema import Coding
from styleavatar3d.shards.writer import PNG, Sample, encode_jpeg, encode_png

Batch = TypeVar("Batch")
Made = TypeVar("Made")
Finished = TypeVar("Finished")


def overlapped(
    batches: Iterable[Batch], make: Callable[[Batch], Made], finish: Callable[[Made], Finished]
) -> Iterator[Finished]:
    """`finish(make(batch))` of every batch, in order; each is finished in a thread while the next is made.

    That thread computes with as many threads as the caller. Never more than two batches are held: one that is made, one
    that is finished. An error of either is raised here.
    """
    with ThreadPoolExecutor(1, "finish", torch.set_num_threads, (torch.get_num_threads(),)) as thread:
        waiting: Future[Finished] | None = None
        for batch in batches:
            made = make(batch)
            if waiting is not None:
                yield waiting.result()
            waiting = thread.submit(finish, made)
        if waiting is not None:
            yield waiting.result()


def encoded(samples: Iterable[Sample], coding: Coding = PNG) -> list[Sample]:
    """The samples with their pictures as files, as a shard holds them."""
    code = partial(encode_jpeg, quality=coding.quality) if coding.image == "jpeg" else encode_png
    return [
        sample._replace(
            image=_file(sample.image, code),
            mask=_file(sample.mask, encode_png),
            guidance={kind: _file(picture, encode_png) for kind, picture in sample.guidance.items()},
        )
        for sample in samples
    ]


def _file(picture: Tensor | bytes, code: Callable[[Tensor], bytes]) -> bytes:
    return picture if isinstance(picture, bytes) else code(picture)
