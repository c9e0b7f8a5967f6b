"""The worker's side of a fleet, the same in a process of this machine and in a Ray actor."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from styleavatar3d.errors import StyleAvatarError

Work = Callable[[int], Any]
Setup = Callable[[], Work]
Task = int | Literal["greet", "set up"]
"""a unit, or what a worker is told before its first: to say that it is there, then to load what it needs"""


class Lost(str):
    """Why a worker is no more: nothing is known about what it had in hand."""


class Answer(NamedTuple):
    """What became of the task that `worker` had in hand. A StyleAvatarError is one that the work raised."""

    worker: int
    error: str | StyleAvatarError | None
    result: Any = None


class Worker:
    """Does one task after the other."""

    def __init__(self, setup: Setup):
        self.setup: Setup = setup
        self.work: Work | None = None

    def do(self, task: Task) -> tuple[str | StyleAvatarError | None, Any]:
        """(error or None, result)."""
        try:
            if task == "greet":
                return None, None
            if self.work is None:
                self.work = self.setup()
            return None, None if task == "set up" else self.work(task)
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums are taken in another order by more threads, which changes the last bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
