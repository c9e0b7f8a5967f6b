"""Fleets: every unit once, whatever dies; bad input ends a run at once; stopping is prompt."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.fleet import Fleet, FleetConfig, Work
from styleavatar3d.runtime.ray_fleet import ray_token

LOCAL = FleetConfig(workers=2)


def squares(folder: str = "") -> Work:
    return partial(square, folder)


def square(folder: str, unit: int) -> int:
    """Counts its tries in `folder`; unit 3 kills its process once, unit 4 fails once."""
    if folder:
        tries = Path(folder, str(unit))
        with tries.open("a") as file:
            file.write("x")
        first = tries.stat().st_size == 1
        if unit == 3 and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == 4 and first:
            raise RuntimeError("a passing trouble")
    return unit * unit


def hopeless() -> Work:
    raise RuntimeError("no such weights")


def bad_input() -> Work:
    raise StyleAvatarError("the folder is wrong", got="x", expected="y", remedy="give y")


def sleepy() -> Work:
    return time.sleep


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unit_is_done_once(workers: int):
    with Fleet.open(FleetConfig(workers=workers), squares) as fleet:
        assert sorted(fleet.run(range(7))) == [(unit, unit * unit) for unit in range(7)]


def test_units_survive_the_death_of_their_worker(tmp_path: Path, capfd: pytest.CaptureFixture):
    with Fleet.open(LOCAL, partial(squares, str(tmp_path))) as fleet:
        assert sorted(fleet.run(range(7))) == [(unit, unit * unit) for unit in range(7)]
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        **dict.fromkeys("01256", 1),
        "3": 2,
        "4": 2,
    }
    assert "unit 3 failed, try 1 of 3: its worker died (exit code -9" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unit_that_never_works_ends_the_run(workers: int):
    with (
        pytest.raises(StyleAvatarError, match=r"failed 2 times(.|\n)*no such weights"),
        Fleet.open(FleetConfig(workers=workers, attempts=2), hopeless) as fleet,
    ):
        list(fleet.run(range(3)))


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_input_ends_the_run_at_once_with_its_own_words(workers: int):
    with pytest.raises(StyleAvatarError) as caught, Fleet.open(FleetConfig(workers=workers), bad_input) as fleet:
        list(fleet.run(range(3)))
    assert str(caught.value) == str(StyleAvatarError("the folder is wrong", got="x", expected="y", remedy="give y"))


def test_stopping_ends_one_worker_between_units():
    done: list[int] = []
    with Fleet.open(FleetConfig(workers=1), squares) as fleet:
        for unit, _ in fleet.run(range(5), lambda: len(done) == 2):
            done.append(unit)
    assert done == [0, 1]


def test_stopping_begins_nothing_new_and_abandons_what_takes_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("styleavatar3d.runtime.fleet.GRACE", 0.5)
    began = time.monotonic()
    with Fleet.open(LOCAL, sleepy) as fleet:
        done = [unit for unit, _ in fleet.run([0, 600, 600, 0], lambda: time.monotonic() > began + 2)]
        processes = list(fleet._processes.values())
    assert done == [0] and time.monotonic() - began < 20
    assert not any(process.is_alive() for process in processes)


def test_the_ray_token_is_secret_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    path = tmp_path / "folder" / "token"
    assert ray_token(path) == ray_token(path) == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    assert len(path.read_text()) == 64 and path.stat().st_mode & 0o777 == 0o600
