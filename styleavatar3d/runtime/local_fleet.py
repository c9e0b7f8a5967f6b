"""Workers on this machine: processes that talk through pipes, or this process itself."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from styleavatar3d.runtime.fleet import Fleet, FleetConfig, Setup
from styleavatar3d.runtime.worker import Answer, Lost, Task, Worker

POLL = 0.5
"""seconds"""


class InlineFleet(Fleet):
    """One worker that is this process: nothing to start, and a debugger steps into it."""

    def __init__(self, config: FleetConfig, setup: Setup):
        super().__init__(config.model_copy(update={"workers": 1}), setup)

    def __enter__(self) -> "InlineFleet":
        return self

    def _hire(self, worker: int) -> None:
        self._worker, self._said = Worker(self.setup), list[Answer]()

    def _tell(self, worker: int, task: Task) -> None:
        self._said.append(Answer(worker, *self._worker.do(task)))

    def _answers(self) -> list[Answer]:
        said, self._said = self._said, []
        return said

    def _fire(self, worker: int) -> None:
        pass


class _Process(NamedTuple):
    process: BaseProcess
    pipe: Connection
    leash: Connection
    """nothing goes through it: the worker leaves when our end closes, whatever it is doing"""


class LocalFleet(Fleet):
    """Processes with one thread each. A killed worker is replaced in no time: they are forked from a process that has
    imported what they need and has done nothing else, above all not touched a GPU.
    """

    def __enter__(self) -> "LocalFleet":
        self._processes: dict[int, _Process] = {}
        methods = multiprocessing.get_all_start_methods()
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        self._context.set_forkserver_preload([_module(self.setup)])
        return self

    def __exit__(self, *_: object) -> None:
        ending = list(self._processes.values())
        super().__exit__()
        deadline = time.monotonic() + 1
        for one in ending:
            one.process.join(max(deadline - time.monotonic(), 0))

    def _hire(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        held, leash = self._context.Pipe()
        with _one_thread_a_child():
            given = (theirs, leash, self.setup, dict(os.environ))
            process = self._context.Process(target=_serve, args=given, name=f"worker-{worker}", daemon=True)
            process.start()
        theirs.close()
        leash.close()
        self._processes[worker] = _Process(process, ours, held)

    def _tell(self, worker: int, task: Task) -> None:
        with suppress(BrokenPipeError):  # it died while idle: the pipe's end is noticed next
            self._processes[worker].pipe.send(task)

    def _answers(self) -> list[Answer]:
        ready = wait([one.pipe for one in self._processes.values()], timeout=POLL)
        return [self._receive(worker, one) for worker, one in list(self._processes.items()) if one.pipe in ready]

    def _receive(self, worker: int, one: _Process) -> Answer:
        try:
            return Answer(worker, *one.pipe.recv())
        except (EOFError, OSError):
            one.process.join(1)
            why = f"its worker died (exit code {one.process.exitcode}; -9 is often lack of memory)"
            return Answer(worker, Lost(why))

    def _fire(self, worker: int) -> None:
        one = self._processes.pop(worker)
        one.process.kill()
        one.pipe.close()
        one.leash.close()


def _serve(pipe: Connection, leash: Connection, setup: Setup, environment: dict[str, str]) -> None:
    """A local worker: read tasks, answer (error, result), end when the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_leave_with, args=(leash,), daemon=True).start()
    worker = Worker(setup)
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(worker.do(pipe.recv()))


def _leave_with(leash: Connection) -> None:
    """A unit that its driver has left is worth nothing, and may hold a GPU that the next driver needs."""
    with suppress(EOFError, OSError):
        leash.recv()
    os._exit(1)


def _module(setup: Setup) -> str:
    return setup.func.__module__ if isinstance(setup, partial) else setup.__module__


@contextmanager
def _one_thread_a_child() -> Iterator[None]:
    """Children read the number of threads when they import torch; more than one per worker only makes them wait."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
