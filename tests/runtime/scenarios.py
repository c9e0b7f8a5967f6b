"""What is done to a fleet, and what must hold afterwards. Each returns what it counted."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from runtime.faults import WORKERS, Fault, Plan, drive, drive_quietly, make_shard, plan_of, start, wait_until

from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.archive import members
from styleavatar3d.shards.manifest import committed, manifest_hash, read_manifest

OTHER_SHADE = 100
FOREVER = 3600.0
"""seconds; a lease that nothing outlasts"""


class Outcome(NamedTuple):
    hash: dict[str, str]
    drivers: int
    begun: int
    """units, over all drivers"""
    injected: Counter[str]


class Quiet(NamedTuple):
    hash: dict[str, str]
    lease: float
    """seconds; fifty times what a shard takes now: the machine may be busy"""


def suffer(url: str, folder: Path, faults: dict[int, list[Fault]], plan: Plan, lease: float) -> Outcome:
    """Make the data set under faults, with a new driver whenever one is killed."""

    def once() -> int:
        driver = start(drive, url, folder, faults, plan, lease)
        driver.join(1800)
        return driver.exitcode

    return _outlive(once, url, folder, plan)


def suffer_with_real_model(
    kind: str, url: str, folder: Path, faults: dict[int, list[Fault]], plan: Plan, lease: float
) -> Outcome:
    """The same with the shipped diffusion model and a fleet of this kind."""
    words = [kind, url, str(folder), str(plan.shards), str(lease), json.dumps(faults)]
    command = [sys.executable, "-m", "runtime.real_model", *words]
    return _outlive(lambda: subprocess.run(command, stderr=sys.stderr).returncode, url, folder, plan)


def _outlive(once: Callable[[], int], url: str, folder: Path, plan: Plan) -> Outcome:
    (folder / "injected").mkdir(parents=True)
    drivers, code = 0, -signal.SIGKILL
    while code != 0:
        drivers += 1
        code = once()
        assert code in (0, -signal.SIGKILL) and drivers < 100, f"driver {drivers} left with {code}"
    storage = Storage.open(url)
    check_samples(storage, plan)
    injected = Counter(path.name.rpartition("-")[2] for path in (folder / "injected").iterdir())
    return Outcome(manifest_hash(read_manifest(storage)), drivers, _begun(folder), injected)


def check_samples(storage: Storage, plan: Plan) -> None:
    """0 lost, 0 doubled, nothing besides: in the manifest, in the tars and among the blobs."""
    entries = read_manifest(storage)
    assert [entry.shard for entry in entries] == list(range(plan.shards))
    keys: list[str] = []
    for entry in entries:
        tar = storage.read(entry.name)
        assert len(tar) == entry.bytes
        keys += [member.partition(".")[0] for member, _, _ in members(tar, entry.name) if member.endswith(".json")]
    assert keys == [f"{index:09d}" for index in range(plan.count)]
    records = [f"manifest/{shard:06d}.json" for shard in range(plan.shards)]
    assert storage.list() == sorted(["dataset.json", *records, *(entry.name for entry in entries)])


def run_quietly(url: str, plan: Plan) -> Quiet:
    """A run in which nothing happens: its hash, and from its speed a lease that only hangs outlast."""
    driver = start(drive_quietly, url, plan)
    wait_until(lambda: Storage.open(url).exists("dataset.json"))
    began = time.monotonic()
    driver.join(1800)
    assert driver.exitcode == 0
    lease = max(6.0, 50 * (time.monotonic() - began) / plan.shards)
    return Quiet(manifest_hash(read_manifest(Storage.open(url))), lease)


def kill_drivers(url: str, folder: Path, plan: Plan, kills: int, lease: float) -> dict[str, object]:
    """Kill driver after driver at moments drawn with a seed. What of the work was done again, and the hash.

    Each may go on to its share of the shards, where the model begins to hang, so that no kill comes after the end.
    """
    draw, storage = random.Random(0), Storage.open(url)
    (folder / "injected").mkdir(parents=True)
    kept: dict[str, int] = {}
    again = []
    for number in range(kills + 1):
        last, share = number == kills, (number + 1) * plan.shards // (kills + 1)
        done, begun = len(committed(storage)), _begun(folder)
        hangs = {shard: [Fault("hang", "draw")] for shard in range(share, plan.shards)}
        driver = start(drive, url, folder, hangs, plan, lease if last else FOREVER)
        if not last:
            wanted = draw.randint(done + 1, share)
            wait_until(lambda enough=wanted: len(committed(storage)) >= enough)
            time.sleep(0.1 * draw.random())
            os.kill(driver.pid, signal.SIGKILL)
        driver.join(1800)
        assert driver.exitcode == (0 if last else -signal.SIGKILL)
        wait_until(lambda: _is_still(folder))
        again.append(_begun(folder) - begun - (len(committed(storage)) - done))
        times = {name: _written(storage, name) for name in storage.list("manifest")}
        assert kept.items() <= times.items(), "a record was written again"
        kept = times
    check_samples(storage, plan)
    most = max(again)
    return {"kills": kills, "most_redone": most, "hash": manifest_hash(read_manifest(storage)), "in_flight": WORKERS}


def split_brains(url: str, trials: int) -> dict[str, int]:
    """Two drivers, whose pixels differ, make the same data set at the same moment, again and again.

    Before each shard both pause, for up to twice as long as a shard takes there: else one would win them all.
    `agreed`: trials in which both saw the same manifest, one sound record a shard. `shared`: in which both won shards.
    """
    plan, meeting, began = plan_of(16, 4), Storage.open(url), time.monotonic()
    alone = {shade: _alone(f"{url}/alone-{shade}", plan, shade) for shade in (0, OTHER_SHADE)}
    pause = 2 * (time.monotonic() - began) / (len(alone) * plan.shards)
    drivers = [start(_half_brain, url, trials, shade, plan, pause) for shade in alone]
    [driver.join(3000) for driver in drivers]
    assert [driver.exitcode for driver in drivers] == [0, 0]
    agreed = shared = 0
    for trial in range(trials):
        storage = Storage.open(f"{url}/{trial}")
        check_samples(storage, plan)
        winners = {entry.sha256 for entry in read_manifest(storage)}
        shared += all(winners & alone[shade] for shade in alone)
        agreed += meeting.read(f"said-{trial}-0") == meeting.read(f"said-{trial}-{OTHER_SHADE}")
    return {"trials": trials, "agreed": agreed, "shared": shared}


def _half_brain(url: str, trials: int, shade: int, plan: Plan, pause: float) -> None:
    """One of the two: waits for the other before each trial."""
    meeting = Storage.open(url)
    for trial in range(trials):
        meeting.create(f"here-{trial}-{shade}", b"")
        wait_until(lambda now=trial: meeting.exists(f"here-{now}-{OTHER_SHADE - shade}"))
        entries = drive_quietly(f"{url}/{trial}", plan, shade, uneven=pause)
        meeting.publish(f"said-{trial}-{shade}", json.dumps(manifest_hash(entries)).encode())


def _alone(url: str, plan: Plan, shade: int) -> set[str]:
    storage = Storage.open(url)
    drive_quietly(url, plan, shade)
    return {entry.sha256 for entry in read_manifest(storage)}


def late_results(url: str, plan: Plan) -> None:
    """Make every shard of a complete data set once more, as on another kind of GPU."""
    for shard in range(plan.shards):
        make_shard(Storage.open(url), plan, OTHER_SHADE, shard)


def _written(storage: Storage, name: str) -> int:
    path = storage.local_path(name)
    assert path is not None
    return path.stat().st_mtime_ns


def _begun(folder: Path) -> int:
    return (folder / "begun").stat().st_size if (folder / "begun").exists() else 0


def _is_still(folder: Path) -> bool:
    """Workers leave when their driver is gone; until none begins anything for a while."""
    before = _begun(folder)
    time.sleep(0.3)
    return _begun(folder) == before
