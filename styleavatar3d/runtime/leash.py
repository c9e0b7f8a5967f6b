"""A program that ends when the process that began it does, however that ended: `kill -9` leaves nothing behind.

Nothing goes through the program's standard input but its end, which the system sees to. A small process of this module
stands between and tells the program to end, so that it works on every system and for programs that know nothing of it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO


class Leashed:
    """A started program. `end` ends it, and so does the end of this process; it is killed `patience` seconds later."""

    def __init__(self, command: Sequence[str], log: IO[bytes], environment: Mapping[str, str], patience: float = 30.0):
        between = [sys.executable, "-m", __name__, str(patience), *command]
        self._process = subprocess.Popen(between, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """Tell the program to end, and wait for it."""
        self._process.communicate()


def hold(patience: float, command: Sequence[str]) -> int:
    """Run `command` until it ends or standard input does. Returns its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody; who began us decides
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_input, args=(program, patience), daemon=True).start()
    return program.wait()


def _end_with_input(program: "subprocess.Popen[bytes]", patience: float) -> None:
    os.read(sys.stdin.fileno(), 1)
    program.terminate()
    try:
        program.wait(patience)
    except subprocess.TimeoutExpired:
        program.kill()


if __name__ == "__main__":
    sys.exit(hold(float(sys.argv[1]), sys.argv[2:]))
