"""Faults on purpose, and a run that must not notice: a stand-in model, storages that fail, a plan of what goes wrong.

Nothing of this is known to the library: a faulty storage is a subclass that the tests hand in, and processes are hit by
signals from the unit of work itself, so that every planned fault happens exactly once at an exact place. A fault is
marked by an exclusively created file just before it strikes; counting the files tells what was injected.
"""

import errno
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import s3fs as s3fs  # now, and not in every worker
import torch
from botocore.exceptions import ClientError
from shards.samples import make_sample

from styleavatar3d.errors import Stopped
from styleavatar3d.runtime.fleet import FleetConfig, Work
from styleavatar3d.runtime.s3 import S3Storage
from styleavatar3d.runtime.storage import LocalStorage, Storage
from styleavatar3d.shards.manifest import Entry, Plan, commit
from styleavatar3d.shards.production import produce
from styleavatar3d.shards.writer import Sample, encode_png

KINDS = ("kill", "hang", "error", "cut", "driver")
COUNTS = {"kill": 18, "hang": 4, "error": 13, "cut": 13, "driver": 2}
"""of 50 faults; hangs take their time, and what a driver that starts anew forks from imports torch"""
PLACES = {
    "kill": ("draw", "record", "after"),
    "hang": ("draw", "record", "after"),
    "error": ("draw", "write"),
    "cut": ("write",),
    "driver": ("draw", "record", "after"),
}
"""where a unit is hit: while it draws, in writing the shard, between shard and record, after the record"""
WORKERS = 3
MODEL_SECONDS = 0.001


class Fault(NamedTuple):
    kind: str
    place: str


def plan_of(samples: int = 2000, shards: int = 100) -> Plan:
    return Plan(count=samples, shard_size=samples // shards, resolution=16, config_hash="0" * 12, licences=["CC0-1.0"])


def plan_faults(seed: int, shards: int, counts: dict[str, int]) -> dict[int, list[Fault]]:
    """Faults by shard, at most two a shard. What strikes after the record is the shard's last: it is not made again."""
    draw = random.Random(seed)
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    hit = draw.sample([*range(shards), *range(shards)], len(kinds))
    plan: dict[int, list[Fault]] = {}
    for kind, shard in zip(kinds, hit, strict=True):
        before = plan.setdefault(shard, [])
        taken = any(fault.place == "after" for fault in before)
        before.append(Fault(kind, draw.choice([place for place in PLACES[kind] if not (taken and place == "after")])))
    return plan


@dataclass
class Injector:
    """Strikes whoever passes a place for which a fault is due. `shard` is what the process has in hand."""

    folder: Path
    faults: dict[int, list[Fault]]
    driver: int
    shard: int = -1

    def due(self, place: str) -> Fault | None:
        """The fault that is to strike here, marked as injected."""
        for number, fault in enumerate(self.faults.get(self.shard, [])):
            if fault.place == place and self._mark(f"{self.shard}-{number}-{fault.kind}"):
                return fault
        return None

    def strike(self, place: str) -> None:
        fault = self.due(place)
        if fault is None:
            return
        if fault.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.kind == "driver":
            os.kill(self.driver, signal.SIGKILL)
        if fault.kind == "error":
            raise RuntimeError("injected: the model failed")
        time.sleep(3600)

    def begin(self, shard: int) -> None:
        self.shard = shard
        with (self.folder / "begun").open("a") as file:
            file.write("x")

    def _mark(self, name: str) -> bool:
        try:
            (self.folder / "injected" / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class _Faulty(Storage):
    """Strikes around the creation of a record."""

    injector: Injector

    def create(self, name: str, data: bytes) -> bool:
        self.injector.strike("record")
        won = super().create(name, data)
        self.injector.strike("after")
        return won


class FaultyDisk(_Faulty, LocalStorage):
    """A disk whose writes are cut short without a word, or fail."""

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        fault = self.injector.due("write")
        if fault is not None and fault.kind == "error":
            raise OSError(errno.EIO, "injected: the disk failed")
        with super()._temporary(data[: len(data) // 2] if fault else data) as path:
            yield path


class FaultyServer(_Faulty, S3Storage):
    """A server that keeps half of what it is given, or is too busy."""

    def _put(self, name: str, data: bytes, **conditions: str) -> None:
        fault = self.injector.due("write") if name.startswith("shards/") else None
        if fault is not None and fault.kind == "error":
            busy = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(busy, "PutObject")
        super()._put(name, data[: len(data) // 2] if fault else data, **conditions)


def faulty(url: str, injector: Injector) -> Storage:
    storage = FaultyServer(url.removeprefix("s3://")) if url.startswith("s3://") else FaultyDisk(Path(url))
    storage.injector = injector
    return storage


# --- the stand-in model and its driver -----------------------------------------------------------------------------


def stand_in(storage: Storage, plan: Plan, shade: int = 0) -> Work:
    """A worker: every picture takes a millisecond. `shade` makes the pixels of one machine differ from another's."""
    torch.set_num_threads(1)
    storage.exists("dataset.json")  # a client takes longer to make than a shard
    return partial(make_shard, storage, plan, shade)


def make_shard(storage: Storage, plan: Plan, shade: int, shard: int) -> int:
    if isinstance(storage, _Faulty):
        storage.injector.begin(shard)
        storage.injector.strike("draw")
    samples = []
    for index in plan.indices(shard):
        time.sleep(MODEL_SECONDS)
        samples.append(_picture(index, shade))
    commit(storage, shard, samples)
    return shard


def _picture(index: int, shade: int) -> Sample:
    sample = make_sample(index)
    grey = encode_png(torch.from_numpy(numpy.full((3, 4, 4), (index * 7 + shade) % 256, numpy.uint8)))
    return Sample(sample.record, grey, grey, {})


def drive(url: str, folder: Path, faults: dict[int, list[Fault]], plan: Plan, lease: float) -> None:
    """A driver process: works until the data set is complete, or it is told to stop, or killed."""
    storage = faulty(url, Injector(folder, faults, os.getpid()))
    try:
        produce(storage, plan, FleetConfig(workers=WORKERS, lease=lease), partial(stand_in, storage, plan))
    except Stopped as stopped:
        os._exit(stopped.exit_code)


def drive_quietly(url: str, plan: Plan, shade: int = 0, uneven: float = 0.0) -> list[Entry]:
    """One worker that is this process, and nothing goes wrong. `uneven`: seconds that a shard may take longer."""
    storage = Storage.open(url)
    work = partial(_pausing, stand_in, uneven) if uneven else stand_in
    return produce(storage, plan, FleetConfig(kind="inline"), partial(work, storage, plan, shade))


def _pausing(make: Callable[..., Work], most: float, *given: Any) -> Work:
    work = make(*given)

    def paused(shard: int) -> Any:
        time.sleep(most * random.random())
        return work(shard)

    return paused


def start(function: Any, *given: Any) -> Any:
    """A process of its own, forked from one that has imported this module and in which nothing has happened."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_with_environment, args=(dict(os.environ), function, given))
    process.start()
    return process


def _with_environment(environment: dict[str, str], function: Any, given: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    function(*given)


def wait_until(true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.03)
