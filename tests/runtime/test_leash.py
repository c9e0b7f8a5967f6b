"""A leashed program ends with whoever began it: told to, or killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from styleavatar3d.runtime.leash import Leashed

PROGRAM = """
import os, pathlib, signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
BEGIN = """
import os, sys, time
from styleavatar3d.runtime.leash import Leashed
with open(os.devnull, "wb") as log:
    Leashed(sys.argv[1:], log, dict(os.environ))
time.sleep(600)
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")


def pid_in(file: Path) -> int:
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(file.read_text())


def assert_gone(pid: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while Path("/proc", str(pid)).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path):
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "pid")]
    starter = subprocess.Popen([sys.executable, "-c", BEGIN, *program])
    pid = pid_in(tmp_path / "pid")
    starter.kill()
    starter.wait()
    assert_gone(pid)


@pytest.mark.parametrize("manner", ["obedient", "stubborn"])
def test_it_ends_when_told_to(manner: str, tmp_path: Path):
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "pid"), manner]
    with (tmp_path / "log").open("wb") as log:
        one = Leashed(program, log, os.environ, patience=0.5)
    pid = pid_in(tmp_path / "pid")
    assert not one.ended()
    one.end()
    assert one.ended() and not Path("/proc", str(pid)).exists()


def test_its_own_end_is_noticed_and_what_it_said_is_kept(tmp_path: Path):
    with (tmp_path / "log").open("wb") as log:
        one = Leashed([sys.executable, "-c", "print('no port')"], log, os.environ)
    deadline = time.monotonic() + 120
    while not one.ended():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    one.end()
    assert (tmp_path / "log").read_text() == "no port\n"
