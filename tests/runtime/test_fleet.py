"""Fleets: every unit once, whatever dies or hangs; what cannot be done is set aside; stopping is prompt."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from styleavatar3d.config import validate
from styleavatar3d.errors import ConfigError, StyleAvatarError
from styleavatar3d.runtime.fleet import Fleet, FleetConfig, Work
from styleavatar3d.runtime.ray_fleet import ray_token

LOCAL = FleetConfig(workers=2)
KINDS = pytest.mark.parametrize("kind", ["inline", "local"])
SQUARES = [(unit, unit * unit) for unit in range(7)]


def squares(folder: str = "", hang: bool = False) -> Work:
    if hang:
        time.sleep(3600)
    return partial(square, folder)


def square(folder: str, unit: int) -> int:
    """Counts its tries in `folder`; unit 3 kills its process once, unit 4 fails once, unit 5 hangs once."""
    if folder:
        tries = Path(folder, str(unit))
        with tries.open("a") as file:
            file.write("x")
        first = tries.stat().st_size == 1
        if unit == 3 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == 4 and first:
            raise RuntimeError("a passing trouble")
        if unit == 5 and first and Path(folder, "hang").exists():
            time.sleep(3600)
    return unit * unit


def poisoned(poison: frozenset[int], kind: str) -> Work:
    return partial(_poisoned, poison, kind)


def _poisoned(poison: frozenset[int], kind: str, unit: int) -> int:
    if unit in poison and kind == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if unit in poison:
        raise StyleAvatarError("no such word") if kind == "is refused" else RuntimeError("no such word")
    return unit


def hopeless() -> Work:
    raise RuntimeError("no such weights")


def bad_input() -> Work:
    raise StyleAvatarError("the folder is wrong", got="x", expected="y", remedy="give y")


def sleepy() -> Work:
    return time.sleep


def who() -> Work:
    return _who


def _who(unit: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def broken_after_two(folder: str) -> Work:
    return partial(_broken_after, folder, [])


def _broken_after(folder: str, done: list[int], unit: int) -> int:
    """The first process of all is left unusable by its third unit."""
    mine = Path(folder, "broken")
    if len(done) == 2 and (not mine.exists() or mine.read_text() == str(os.getpid())):
        mine.write_text(str(os.getpid()))
        raise RuntimeError("an illegal memory access was encountered")
    done.append(unit)
    return unit


@KINDS
def test_every_unit_is_done_once(kind: str):
    with Fleet.open(FleetConfig(kind=kind, workers=2), squares) as fleet:
        assert sorted(fleet.run(range(7))) == SQUARES
        assert 0 < len(fleet.rates()) <= 2 and all(rate > 0 for rate in fleet.rates().values())
    assert fleet.tally["done"] == 7 and not fleet.quarantined


def test_units_survive_the_death_of_their_worker(tmp_path: Path, capfd: pytest.CaptureFixture):
    with Fleet.open(LOCAL, partial(squares, str(tmp_path))) as fleet:
        assert sorted(fleet.run(range(7))) == SQUARES
    tries = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert tries == {**dict.fromkeys("01256", 1), "3": 2, "4": 2}
    assert "unit 3 lost, 1 of 5: its worker died (exit code -9" in capfd.readouterr().err


def test_a_unit_that_hangs_past_its_lease_is_given_to_another(tmp_path: Path, capfd: pytest.CaptureFixture):
    (tmp_path / "hang").touch()
    config = FleetConfig(workers=2, lease=5)
    with Fleet.open(config, partial(squares, str(tmp_path))) as fleet:
        assert sorted(fleet.run([0, 1, 2, 5, 6])) == [SQUARES[unit] for unit in (0, 1, 2, 5, 6)]
    assert (tmp_path / "5").stat().st_size == 2 and fleet.tally["overdue"] == 1
    assert "unit 5 lost, 1 of 5: no end after 5 s, its lease" in capfd.readouterr().err


def test_a_set_up_that_hangs_is_said():
    config = FleetConfig(lease=0.5, attempts=2)
    with (
        pytest.raises(StyleAvatarError, match=r"workers cannot be set up, 2 failed(.|\n)*no end after 0.5 s"),
        Fleet.open(config, partial(squares, "", True)) as fleet,
    ):
        list(fleet.run(range(2)))


@pytest.mark.parametrize("how", ["fails", "is refused", "dies"])
def test_units_that_never_work_are_set_aside_and_the_others_are_done(how: str):
    config = FleetConfig(workers=2, attempts=2, losses=2)
    with Fleet.open(config, partial(poisoned, frozenset({0, 5}), how)) as fleet:
        assert sorted(unit for unit, _ in fleet.run(range(9))) == [1, 2, 3, 4, 6, 7, 8]
    assert sorted(fleet.quarantined) == [0, 5]
    assert ("exit code -9" if how == "dies" else "no such word") in fleet.quarantined[5]


def test_when_everything_fails_it_is_not_the_units():
    config = FleetConfig(kind="inline")
    with (
        pytest.raises(StyleAvatarError, match=r"units failed one after the other(.|\n)*no such word"),
        Fleet.open(config, partial(poisoned, frozenset(range(10_000)), "fails")) as fleet,
    ):
        list(fleet.run(range(10_000)))
    assert not fleet.quarantined


def test_a_worker_left_broken_is_replaced_and_costs_no_unit(tmp_path: Path):
    with Fleet.open(FleetConfig(), partial(broken_after_two, str(tmp_path))) as fleet:
        assert sorted(unit for unit, _ in fleet.run(range(8))) == list(range(8))
    assert fleet.tally["hired"] == 2 and fleet.tally["failed"] == 2 and not fleet.quarantined


@KINDS
def test_workers_that_cannot_be_set_up_end_the_run(kind: str):
    config = FleetConfig(kind=kind, attempts=2)
    with (
        pytest.raises(StyleAvatarError, match=r"2 failed one after the other(.|\n)*no such weights"),
        Fleet.open(config, hopeless) as fleet,
    ):
        list(fleet.run(range(3)))


@KINDS
def test_bad_input_ends_the_run_at_once_with_its_own_words(kind: str):
    with pytest.raises(StyleAvatarError) as caught, Fleet.open(FleetConfig(kind=kind), bad_input) as fleet:
        list(fleet.run(range(3)))
    assert str(caught.value) == str(StyleAvatarError("the folder is wrong", got="x", expected="y", remedy="give y"))


def test_a_fleet_grows_and_shrinks_while_it_runs():
    seen: list[int] = []
    deadline = time.monotonic() + 200
    with Fleet.open(FleetConfig(), who) as fleet:
        for number, (_, pid) in enumerate(
            fleet.run(range(10_000), lambda: shrunk(seen) or time.monotonic() > deadline)
        ):
            seen.append(pid)
            if number == 5:
                assert len(set(seen)) == 1
                fleet.resize(4)
            if len(set(seen)) == 4:
                fleet.resize(2)
        assert shrunk(seen) and len(fleet._members) == 2
    with pytest.raises(StyleAvatarError, match="a fleet needs a worker"):
        fleet.resize(0)


def shrunk(seen: list[int]) -> bool:
    """Four have worked, and only two of them of late."""
    return len(set(seen)) == 4 and len(set(seen[-30:])) == 2


def test_workers_without_work_are_let_go():
    with Fleet.open(FleetConfig(workers=3, idle=0.5), sleepy) as fleet:
        assert sorted(unit for unit, _ in fleet.run([0, 0, 3])) == [0, 0, 3]
        assert len(fleet._members) == 1


def test_bounds_of_the_pool_are_checked():
    with pytest.raises(ConfigError, match=r"min_workers \(3\) is more than workers \(2\)"):
        validate(FleetConfig, {"workers": 2, "min_workers": 3})


@KINDS
def test_stopping_ends_one_worker_between_units(kind: str):
    done: list[int] = []
    with Fleet.open(FleetConfig(kind=kind), squares) as fleet:
        for unit, _ in fleet.run(range(5), lambda: len(done) == 2):
            done.append(unit)
    assert done == [0, 1]


def test_stopping_begins_nothing_new_and_abandons_what_takes_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("styleavatar3d.runtime.fleet.GRACE", 0.5)
    done: list[int] = []
    with Fleet.open(LOCAL, sleepy) as fleet:
        for unit, _ in fleet.run([0, 600, 600, 0], lambda: bool(done)):
            done.append(unit)
        workers = [one.process for one in fleet._processes.values()]
        began = time.monotonic()
    assert done == [0] and time.monotonic() - began < 5
    assert len(workers) == 2 and not any(process.is_alive() for process in workers)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_workers_leave_when_their_driver_is_killed_whatever_they_do(tmp_path: Path):
    import multiprocessing

    driver = multiprocessing.get_context("forkserver").Process(target=_drive_one_that_hangs, args=(str(tmp_path),))
    driver.start()
    _wait_until(lambda: (tmp_path / "5").exists() and (tmp_path / "pid").exists())
    worker = int((tmp_path / "pid").read_text())
    assert driver.pid is not None
    os.kill(driver.pid, signal.SIGKILL)
    _wait_until(lambda: not Path("/proc", str(worker)).exists())
    driver.join()


def _drive_one_that_hangs(folder: str) -> None:
    Path(folder, "hang").touch()
    with Fleet.open(FleetConfig(), partial(_hanging, folder)) as fleet:
        list(fleet.run([5]))


def _hanging(folder: str) -> Work:
    Path(folder, "pid").write_text(str(os.getpid()))
    return partial(square, folder)


def _wait_until(true: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, sys._getframe(1).f_code.co_name
        time.sleep(0.02)


def test_the_ray_token_is_secret_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    path = tmp_path / "folder" / "token"
    assert ray_token(path) == ray_token(path) == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    assert len(path.read_text()) == 64 and path.stat().st_mode & 0o777 == 0o600
