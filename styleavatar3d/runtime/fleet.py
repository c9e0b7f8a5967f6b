"""A fleet: workers that come and go, each with one unit in hand and a lease on it; of this machine, or of Ray.

A unit of work is a number. `setup()` runs once in each worker and returns the function that does units; both must be
importable. Units are idempotent and commit by a conditional create, so that doing one twice is waste and never harm:
whatever happens to a worker, its unit is simply given to another, and a result that comes late changes nothing.

Why a pool of our own and not `ray.data.map_batches` with its checkpoints, which was measured (Ray 2.60):
- it commits what a block holds. By default a run's small inputs are merged into one block, so that three runs killed at
  26 of 32 batches had committed nothing and the fourth began anew; blocks small enough to help must be forced by size;
- a resumed run loads every id and reads every input again; our manifest is a listing;
- a single exception ends the job unless errors are dropped, uncounted; nothing replaces an actor that hangs;
- its sinks write files of their own. Two drivers on one output, which we promise to be harmless, would both write;
- it exists under Ray only. Here the same unit, leases and faults run on a laptop without Ray, and are tested there.
What it does better is streaming between stages on unlike machines. A shard's stages fit one worker: there is none.
"""

import itertools
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.worker import Answer, Lost, Setup, Task, Work

__all__ = ["Fleet", "FleetConfig", "Setup", "Work"]

GRACE = 7.0
"""seconds for units in hand once a stop is asked for; they are abandoned before ten have passed"""
NOTICE = 60.0
"""seconds between two words about a cluster that has no room"""
BREAKER = 20
"""units, besides two a worker, that may fail one after the other until it cannot be their fault"""


class FleetConfig(Strict):
    """Who works: `local` processes or `ray` actors (`address` empty: the cluster of this job, or a new local one).

    `inline` works in this process, for debuggers: there nothing can be taken from a unit that hangs or will not stop.
    """

    kind: Literal["inline", "local", "ray"] = "local"
    workers: int = Field(default=1, ge=1)
    """at most; Ray starts them as the cluster has, or grows to have, room"""
    min_workers: int = Field(default=1, ge=0)
    """kept when there are fewer units than workers; the others go after `idle` seconds"""
    idle: float = Field(default=60, ge=0)
    address: str = ""
    gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for each worker; may be a fraction"""
    lease: float = Field(default=3600, gt=0)
    """seconds that a unit, or setting up a worker, may take before the worker is replaced: several times the usual"""
    attempts: int = Field(default=3, ge=1)
    """how often a unit may fail before it is set aside"""
    losses: int = Field(default=5, ge=1)
    """how often a worker may die or hang over a unit before the unit is set aside"""

    @model_validator(mode="after")
    def _check_bounds(self) -> "FleetConfig":
        if self.min_workers > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) is more than workers ({self.workers})")
        return self


@dataclass
class Member:
    """A worker as the driver sees it; `since` is when its state began."""

    state: Literal["coming", "setting up", "idle", "busy"] = "coming"
    unit: int = -1
    since: float = field(default_factory=time.monotonic)
    failed: int = 0
    """units, one after the other"""
    done: int = 0
    worked: float = 0.0
    """seconds that the units it has done took"""

    def become(self, state: Literal["setting up", "idle", "busy"], unit: int = -1) -> None:
        self.state, self.unit, self.since = state, unit, time.monotonic()

    def age(self) -> float:
        return time.monotonic() - self.since


class Fleet(ABC):
    """A context manager; `run` yields (unit, result) as units finish, in any order.

    After it, `quarantined` holds the units that were set aside, with their last error, and `tally` counts what
    happened: hired, done, failed, lost, overdue.
    """

    def __init__(self, config: FleetConfig, setup: Setup):
        self.config, self.setup = config, setup
        self.quarantined: dict[int, str] = {}
        self.tally: Counter[str] = Counter()
        self._limit = config.workers
        self._members: dict[int, Member] = {}
        self._numbers = itertools.count()
        self._blame: dict[int, Counter[str]] = {}
        self._fruitless: set[int] = set()
        self._setups_failed = 0
        self._noticed = time.monotonic()

    @staticmethod
    def open(config: FleetConfig, setup: Setup) -> "Fleet":
        """The fleet that `config` asks for."""
        if config.kind == "ray":
            from styleavatar3d.runtime.ray_fleet import RayFleet

            return RayFleet(config, setup)
        from styleavatar3d.runtime.local_fleet import InlineFleet, LocalFleet

        return LocalFleet(config, setup) if config.kind == "local" else InlineFleet(config, setup)

    def resize(self, workers: int) -> None:
        """Have at most `workers` (one or more) from now on, while running too: those too many first end their unit."""
        if workers < 1:
            raise StyleAvatarError("a fleet needs a worker", got=workers, expected="1 or more")
        self._limit = workers

    def rates(self) -> dict[int, float]:
        """Units an hour of each worker that is here and has done one, by its number."""
        return {worker: 3600 * one.done / one.worked for worker, one in self._members.items() if one.worked}

    def run(self, units: Iterable[int], stopping: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, Any]]:
        """Do all units but those that fail too often, which end in `quarantined`.

        Once `stopping()` is true no unit is begun, and those in hand have `GRACE` seconds to end. Raises
        StyleAvatarError if workers cannot be set up, or if unit after unit fails: then it is not the units.
        """
        queue, deadline = deque(units), float("inf")
        while queue or self._busy():
            if stopping():
                queue.clear()
                deadline = min(deadline, time.monotonic() + GRACE)
                if not self._busy() or time.monotonic() > deadline:
                    return
            self._keep_pool(len(queue))
            self._assign(queue)
            for answer in self._answers():
                unit = self._settle(answer, queue)
                if unit is not None:
                    yield unit, answer.result
            for answer in self._overdue():
                self._settle(answer, queue)

    def _busy(self) -> int:
        return sum(member.state == "busy" for member in self._members.values())

    def _keep_pool(self, waiting: int) -> None:
        """Hire while there is more to do than workers, let go of those beyond the limit or without work for long."""
        useful = min(self._limit, waiting + self._busy())
        while len(self._members) < useful:
            worker = next(self._numbers)
            self._members[worker] = Member()
            self.tally["hired"] += 1
            self._hire(worker)
            self._tell(worker, "greet")
        for worker, member in sorted(self._members.items(), key=lambda pair: pair[1].state == "idle"):
            too_many = len(self._members) > self._limit
            useless = len(self._members) > max(useful, self.config.min_workers) and member.age() > self.config.idle
            if member.state != "busy" and (too_many or useless):
                self._let_go(worker)
        self._say_who_is_missing()

    def _assign(self, queue: deque[int]) -> None:
        for worker, member in self._members.items():
            if queue and member.state == "idle":
                member.become("busy", queue.popleft())
                self._tell(worker, member.unit)

    def _settle(self, answer: Answer, queue: deque[int]) -> int | None:
        """Note what became of a task. The unit, if it was one and is done."""
        member = self._members.get(answer.worker)
        if member is None:  # let go a moment ago
            return None
        state, unit, took = member.state, member.unit, member.age()
        if isinstance(answer.error, Lost):
            self._let_go(answer.worker)
        elif state == "coming":
            member.become("setting up")
            self._tell(answer.worker, "set up")
        else:
            member.become("idle")
        if state in ("coming", "setting up"):
            self._count_set_up(answer, ready=state == "setting up")
        if state != "busy":
            return None
        if answer.error is not None:
            self._count_failure(answer, unit, queue)
            return None
        self.tally["done"] += 1
        self._fruitless.clear()
        member.failed, member.done, member.worked = 0, member.done + 1, member.worked + took
        return unit

    def _count_set_up(self, answer: Answer, ready: bool) -> None:
        """A StyleAvatarError in setting up concerns every worker: it ends the run with its own words."""
        if isinstance(answer.error, StyleAvatarError):
            raise answer.error
        if answer.error is None:
            self._setups_failed = 0 if ready else self._setups_failed
            return
        self._let_go(answer.worker)
        self._setups_failed += 1
        print(f"worker {answer.worker} could not be set up: {answer.error}", file=sys.stderr, flush=True)
        if self._setups_failed >= self.config.attempts * self._limit:
            raise StyleAvatarError(
                f"workers cannot be set up, {self._setups_failed} failed one after the other",
                got=_last_line(answer.error),
                remedy="mend the cause and run the same command again; what is committed is kept",
            )

    def _count_failure(self, answer: Answer, unit: int, queue: deque[int]) -> None:
        kind = "lost" if isinstance(answer.error, Lost) else "failed"
        allowed = self.config.losses if kind == "lost" else self.config.attempts
        blame = self._blame.setdefault(unit, Counter())
        blame[kind] += 1
        self.tally[kind] += 1
        error = str(answer.error)
        print(f"unit {unit} {kind}, {blame[kind]} of {allowed}: {error}", file=sys.stderr, flush=True)
        if blame[kind] >= allowed:
            self.quarantined[unit] = error
        else:
            queue.append(unit)
        self._fruitless.add(unit)
        if len(self._fruitless) > BREAKER + 2 * self._limit:
            raise StyleAvatarError(
                f"{len(self._fruitless)} units failed one after the other; what is committed is kept",
                got=_last_line(error),
                remedy="mend the cause and run the same command again",
            )
        self._replace_if_broken(answer.worker)

    def _replace_if_broken(self, worker: int) -> None:
        """A GPU may be left unusable by one unit, and its worker would fail all the others, faster than anyone."""
        member = self._members.get(worker)
        if member is not None:
            member.failed += 1
            if member.failed >= 2:
                self._let_go(worker)

    def _overdue(self) -> list[Answer]:
        late = [
            worker
            for worker, member in self._members.items()
            if member.state in ("setting up", "busy") and member.age() > self.config.lease
        ]
        self.tally["overdue"] += len(late)
        return [Answer(worker, Lost(f"no end after {self.config.lease:g} s, its lease")) for worker in late]

    def _let_go(self, worker: int) -> None:
        if self._members.pop(worker, None) is not None:
            self._fire(worker)

    def _say_who_is_missing(self) -> None:
        nobody = all(member.state == "coming" for member in self._members.values())
        if not nobody:
            self._noticed = time.monotonic()
        elif time.monotonic() - self._noticed > NOTICE:
            self._noticed = time.monotonic()
            print(f"none of {len(self._members)} workers has found room and begun", file=sys.stderr, flush=True)

    @abstractmethod
    def _hire(self, worker: int) -> None:
        """Begin to start a worker of this number."""

    @abstractmethod
    def _tell(self, worker: int, task: Task) -> None:
        """Give the worker a task; it has no other. Does not wait."""

    @abstractmethod
    def _answers(self) -> list[Answer]:
        """Wait a little; what workers answered, and a Lost for each that died."""

    @abstractmethod
    def _fire(self, worker: int) -> None:
        """End the worker at once, whatever it is doing, without waiting for long."""

    @abstractmethod
    def __enter__(self) -> "Fleet": ...

    def __exit__(self, *_: object) -> None:
        """End the workers; what they have in hand is abandoned."""
        for worker in list(self._members):
            self._let_go(worker)


def _last_line(error: str) -> str:
    return error.strip().splitlines()[-1]
