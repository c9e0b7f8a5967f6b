"""Who measures what: the parts of every store are shared among processes, and a killed run goes on from those there."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch

from styleavatar3d.bench.held_out import tell
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics.store import FeatureStore, Measured
from styleavatar3d.runtime.distributed import World


@runtime_checkable
class Work(Protocol):
    """Something to measure: a class made from its job, which are plain values that can be sent to other processes."""

    job: Any

    def __init__(self, job: Any) -> None: ...

    def stores(self) -> Iterator[tuple[str, FeatureStore, Callable[[range], Measured]]]:
        """Name, store, and what measures the pictures of one of its parts."""
        ...


def fill(work: Work, world: World, workers: int = 1) -> None:
    """Measure everything that is not in the stores yet, in all processes of the world, with `workers` each.

    Returns when the stores are complete. Raises StyleAvatarError if a worker fails.
    """
    rank, size = world.rank * workers, world.size * workers
    threads = max(torch.get_num_threads() // workers, 1)
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_work, args=(type(work), work.job, rank + i, size, threads), daemon=True)
        for i in range(1, workers)
    ]
    for other in others:
        other.start()
    _fill_share(work, rank, size)
    for other in others:
        other.join()
    if failed := [other.exitcode for other in others if other.exitcode]:
        raise StyleAvatarError("a worker failed", got=f"exit codes {failed}", remedy="the same command goes on")
    world.wait()


def _work(kind: type[Work], job: Any, rank: int, size: int, threads: int) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _fill_share(kind(job), rank, size)


def _leave_with_parent() -> None:
    """A parent that is killed does not end its children itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _fill_share(work: Work, rank: int, size: int) -> None:
    for name, store, measure in work.stores():

        def report(done: int, count: int, name: str = name) -> None:
            if rank == 0:
                tell(f"{name}, parts", done, count)

        store.fill(measure, rank, size, report)
