"""Faults: whatever dies, hangs, fails or is cut short, the manifest is that of the quiet run, and little is made twice.

Twelve faults in 24 shards on a disk and on S3 here; fifty in a hundred, driver kills and split brains are `slow`. All
of it is run by `tests/proofs/proof_fleet.py`, and `tests/proofs/fleet.jsonl` holds what came of it.
"""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from runtime import faults, scenarios
from runtime.faults import COUNTS, WORKERS, Fault, drive_quietly, plan_faults, plan_of, wait_until
from runtime.scenarios import Quiet

from styleavatar3d.errors import Stopped
from styleavatar3d.runtime.fleet import FleetConfig, Work
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.manifest import Plan, committed, manifest_hash, read_manifest
from styleavatar3d.shards.production import QUARANTINE, produce

PLAN = plan_of()
FEW, FEW_COUNTS = plan_of(480, 24), {"kill": 4, "hang": 1, "error": 3, "cut": 3, "driver": 1}
CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    return scenarios.run_quietly(str(tmp_path_factory.mktemp("quiet") / "set"), PLAN)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that others are forked from import the stand-in once."""
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}")


@pytest.fixture(params=["disk", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "set") if request.param == "disk" else request.getfixturevalue("s3_server") + "/set"


def check_faults(url: str, folder: Path, seed: int, plan: Plan, counts: dict[str, int], quiet: Quiet) -> None:
    lease = quiet.lease * (3 if url.startswith("s3://") else 1)
    outcome = scenarios.suffer(url, folder, plan_faults(seed, plan.shards, counts), plan, lease)
    assert outcome.hash == quiet.hash
    assert outcome.injected == counts
    assert 2 <= outcome.drivers <= counts["driver"] + 1
    assert outcome.begun <= 1.5 * plan.shards


def test_faults_are_planned_as_said():
    for seed in range(10):
        plan = plan_faults(seed, PLAN.shards, COUNTS)
        kinds = [fault.kind for hits in plan.values() for fault in hits]
        assert {kind: kinds.count(kind) for kind in faults.KINDS} == COUNTS
        assert all(sum(fault.place == "after" for fault in hits) <= 1 for hits in plan.values())
    assert plan_faults(1, 100, COUNTS) == plan_faults(1, 100, COUNTS) != plan_faults(2, 100, COUNTS)


@pytest.mark.timeout(600)
def test_faults_leave_the_manifest_of_the_quiet_run(url: str, tmp_path: Path):
    quiet = scenarios.run_quietly(str(tmp_path / "quiet"), FEW)
    check_faults(url, tmp_path / "log", 0, FEW, FEW_COUNTS, quiet)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1])
def test_fifty_faults_leave_the_manifest_of_the_quiet_run(url: str, seed: int, tmp_path: Path, quiet: Quiet):
    assert sum(COUNTS.values()) == 50
    check_faults(url, tmp_path / "log", seed, PLAN, COUNTS, quiet)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_driver_kills_redo_at_most_what_was_in_flight(tmp_path: Path, quiet: Quiet):
    counted = scenarios.kill_drivers(str(tmp_path / "set"), tmp_path / "log", PLAN, 20, quiet.lease)
    assert counted["hash"] == quiet.hash and counted["most_redone"] <= WORKERS


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_drivers_on_one_output_are_harmless(url: str):
    counted = scenarios.split_brains(url, 50)
    assert counted["agreed"] == 50 and counted["shared"] >= 10


def test_a_shard_that_always_fails_is_set_aside_said_and_tried_again(tmp_path: Path):
    storage, plan = Storage.open(tmp_path / "set"), plan_of(20, 10)
    config = FleetConfig(kind="inline")
    with pytest.raises(Stopped) as stopped:
        produce(storage, plan, config, partial(poisoned, storage, frozenset({3, 7})))
    assert stopped.value.exit_code == 3
    assert "8 of 10 shards committed" in str(stopped.value) and "2 set aside in all" in str(stopped.value)
    assert "shard 3 (pictures 6-7) was set aside: RuntimeError: no word for this prompt" in str(stopped.value)
    report = json.loads(storage.read(QUARANTINE))["shards"]
    assert set(report) == {"3", "7"} and "no word for this prompt" in report["7"]
    with pytest.raises(Stopped, match="9 of 10"):
        produce(storage, plan, config, partial(poisoned, storage, frozenset({7})))
    made: list[int] = []
    produce(storage, plan, config, partial(poisoned, storage, frozenset()), lambda shard, _: made.append(shard))
    assert made == [7]
    scenarios.check_samples(storage, plan)


def poisoned(storage: Storage, poison: frozenset[int]) -> Work:
    return partial(_poisoned, storage, poison)


def _poisoned(storage: Storage, poison: frozenset[int], shard: int) -> int:
    if shard in poison:
        raise RuntimeError("no word for this prompt")
    return faults.make_shard(storage, plan_of(20, 10), 0, shard)


def test_a_result_that_comes_late_changes_nothing(tmp_path: Path):
    storage, plan = Storage.open(tmp_path / "set"), plan_of(20, 5)
    before = manifest_hash(drive_quietly(storage.url, plan))
    scenarios.late_results(storage.url, plan)
    assert manifest_hash(read_manifest(storage)) == before
    scenarios.check_samples(storage, plan)


def test_bytes_without_a_record_are_removed_when_the_data_set_is_complete(tmp_path: Path):
    storage, plan = Storage.open(tmp_path / "set"), plan_of(20, 5)
    storage.publish("shards/000002-0123456789abcdef.tar", b"of a writer that was killed before its record")
    drive_quietly(storage.url, plan)
    scenarios.check_samples(storage, plan)


@pytest.mark.timeout(600)
def test_a_terminated_driver_leaves_within_ten_seconds_although_units_hang(tmp_path: Path):
    plan, storage = plan_of(40, 20), Storage.open(tmp_path / "set")
    injected = tmp_path / "log" / "injected"
    injected.mkdir(parents=True)
    hanging = {shard: [Fault("hang", "draw")] for shard in (5, 6, 7)}
    driver = faults.start(faults.drive, storage.url, tmp_path / "log", hanging, plan, 3600.0)
    wait_until(lambda: len(list(injected.iterdir())) == 3)
    began = time.monotonic()
    os.kill(driver.pid, signal.SIGTERM)
    driver.join(60)
    assert driver.exitcode == 3 and time.monotonic() - began < 10
    assert 0 < len(committed(storage)) < plan.shards and not (tmp_path / "set" / "tmp").exists()
