"""Workers: processes of this machine, or Ray actors when asked. One interface, at most one unit in flight per worker.

A unit of work is a number. `setup()` runs once in each worker and returns the function that does units; both must be
importable. Units are idempotent, so a unit whose worker dies is simply done again elsewhere.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from pydantic import Field

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError

Work = Callable[[int], Any]
Setup = Callable[[], Work]

GRACE = 20.0
"""seconds; a spot machine is taken back 30 after its notice"""


class FleetConfig(Strict):
    """Who works: `local` processes or `ray` actors (`address` empty: the cluster of this job, or a new local one)."""

    kind: Literal["local", "ray"] = "local"
    workers: int = Field(default=1, ge=1)
    address: str = ""
    gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for each worker; may be a fraction"""
    attempts: int = Field(default=3, ge=1)
    """how often a unit is tried before the run gives up"""


class Fleet(ABC):
    """A context manager; `run` yields (unit, result) as units finish, in any order."""

    def __init__(self, config: FleetConfig, setup: Setup):
        self.config, self.setup = config, setup
        self._failures: dict[int, int] = {}

    @staticmethod
    def open(config: FleetConfig, setup: Setup) -> "Fleet":
        """The fleet that `config` asks for; one local worker is this process itself."""
        if config.kind == "ray":
            from styleavatar3d.runtime.ray_fleet import RayFleet

            return RayFleet(config, setup)
        return LocalFleet(config, setup) if config.workers > 1 else InlineFleet(config, setup)

    def run(self, units: Iterable[int], stopping: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, Any]]:
        """Do all units. A unit that fails `attempts` times ends the run; a StyleAvatarError ends it at once.

        Once `stopping()` is true no unit is begun, and those in hand have `GRACE` seconds to end.
        """
        queue, idle = deque(units), deque(range(self.config.workers))
        busy: dict[int, int] = {}
        deadline = float("inf")
        while queue or busy:
            if stopping():
                queue.clear()
                deadline = min(deadline, time.monotonic() + GRACE)
                if not busy or time.monotonic() > deadline:
                    return
            while queue and idle:
                worker, unit = idle.popleft(), queue.popleft()
                self._start(worker, unit)
                busy[worker] = unit
            for worker, error, result in self._finished():
                unit = busy.pop(worker)
                idle.append(worker)
                if error is None:
                    yield unit, result
                else:
                    self._count_failure(unit, error)
                    queue.append(unit)

    def _count_failure(self, unit: int, error: str | StyleAvatarError) -> None:
        if isinstance(error, StyleAvatarError):
            raise error
        self._failures[unit] = self._failures.get(unit, 0) + 1
        print(f"unit {unit} failed, try {self._failures[unit]} of {self.config.attempts}: {error}", file=sys.stderr)
        if self._failures[unit] >= self.config.attempts:
            raise StyleAvatarError(
                f"unit {unit} failed {self.config.attempts} times; what is committed is kept",
                got=error.strip().splitlines()[-1],
                remedy="mend the cause and run the same command again",
            )

    @abstractmethod
    def _start(self, worker: int, unit: int) -> None:
        """Give `unit` to the idle `worker`."""

    @abstractmethod
    def _finished(self) -> list[tuple[int, str | StyleAvatarError | None, Any]]:
        """Wait a little for workers; (worker, error or None, result) of those that are done."""

    @abstractmethod
    def __enter__(self) -> "Fleet": ...

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Stop the workers; what they have in hand is abandoned."""


class InlineFleet(Fleet):
    """One worker that is this process: nothing to start, and a debugger steps into it."""

    def __enter__(self) -> "InlineFleet":
        self._worker = Worker(self.setup)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _start(self, worker: int, unit: int) -> None:
        self._unit = unit

    def _finished(self) -> list[tuple[int, str | StyleAvatarError | None, Any]]:
        return [(0, *self._worker.do(self._unit))]


class LocalFleet(Fleet):
    """Spawned processes with one thread each, talking through pipes: each end notices the death of the other."""

    def __enter__(self) -> "LocalFleet":
        self._processes: dict[int, BaseProcess] = {}
        self._pipes: dict[int, Connection] = {}
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes.values():
            pipe.close()
        deadline = time.monotonic() + 2  # idle workers leave by themselves
        for process in self._processes.values():
            process.join(max(deadline - time.monotonic(), 0))
            process.kill()
            process.join()

    def _start(self, worker: int, unit: int) -> None:
        if worker not in self._processes:
            self._spawn(worker)
        with suppress(BrokenPipeError):  # it died while idle: the pipe's end is noticed next
            self._pipes[worker].send(unit)

    def _spawn(self, worker: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes[worker], theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.setup), name=f"worker-{worker}", daemon=True)
        with _single_threaded_children():
            process.start()
        theirs.close()
        self._processes[worker] = process

    def _finished(self) -> list[tuple[int, str | StyleAvatarError | None, Any]]:
        ready = wait(list(self._pipes.values()), timeout=0.5)
        return [self._receive(worker) for worker, pipe in list(self._pipes.items()) if pipe in ready]

    def _receive(self, worker: int) -> tuple[int, str | StyleAvatarError | None, Any]:
        try:
            error, result = self._pipes[worker].recv()
            return worker, error, result
        except (EOFError, OSError):
            process = self._processes.pop(worker)
            self._pipes.pop(worker).close()
            process.join()
            return worker, f"its worker died (exit code {process.exitcode}; -9 is often lack of memory)", None


def _serve(pipe: Connection, setup: Setup) -> None:
    """A local worker: read units, answer (error, result), end when the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker = Worker(setup)
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(worker.do(pipe.recv()))


class Worker:
    """Sets itself up at its first unit, so that a failing set-up is reported like a failing unit."""

    def __init__(self, setup: Setup):
        self.setup: Setup = setup
        self.work: Work | None = None

    def do(self, unit: int) -> tuple[str | StyleAvatarError | None, Any]:
        try:
            self.work = self.work or self.setup()
            return None, self.work(unit)
        except StyleAvatarError as error:
            return CarriedError(error), None
        except Exception:
            return traceback.format_exc(), None


class CarriedError(StyleAvatarError):
    """A StyleAvatarError that crosses processes: the text is already complete."""

    def __init__(self, error: StyleAvatarError | str):
        super().__init__(str(error))

    def __reduce__(self) -> tuple[Any, ...]:
        return CarriedError, (str(self),)


class _single_threaded_children:
    """Children read the number of threads when they import torch; more than one per worker only makes them wait."""

    def __enter__(self) -> None:
        self._before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"

    def __exit__(self, *_: object) -> None:
        del os.environ["OMP_NUM_THREADS"]
        if self._before is not None:
            os.environ["OMP_NUM_THREADS"] = self._before
