"""What keeps one bad batch from spoiling a network: numbers that are none never reach weights.

A step whose data, loss or gradient holds NaN or infinity is left out, on every process alike, counted and reported;
too many in a row end the run. What a step left out are its own changes only, so a checkpoint never holds such numbers.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.distributed import World

log = logging.getLogger(__name__)
IN_A_ROW = 10


class Guard(nn.Module):
    """Counts the steps that were left out. Its two numbers, all of them and the latest in a row, are saved with a run.

    A step asks `passes` before each change of a network, and ends with `close`.
    """

    counts: Tensor

    def __init__(self, in_a_row: int = IN_A_ROW):
        super().__init__()
        self.in_a_row = in_a_row
        self._cause = ""
        self.register_buffer("counts", torch.zeros(2, dtype=torch.long))

    @property
    def skipped(self) -> int:
        """Steps left out since the run began."""
        return int(self.counts[0])

    def passes(self, part: str, values: Mapping[str, Tensor | None], network: nn.Module | None, world: World) -> bool:
        """Whether every value, and every gradient of `network`, is finite on all processes.

        Ask after gradients have been averaged and before the optimizer's step. `part` names the change for the report,
        such as "discriminator"; values are named too, such as "data" and "loss". Every process has to ask.
        """
        cause = first_bad(values) or (bad_gradient(network) if network is not None else None)
        if not world.any(cause is not None):
            return True
        self._cause = self._cause or f"{cause or 'another process'} of the {part}"
        return False

    def close(self, seen: int) -> bool:
        """End the step at `seen` images; returns whether something was left out.

        Raises StyleAvatarError when this was the last of `in_a_row` such steps.
        """
        cause, self._cause = self._cause, ""
        if not cause:
            self.counts[1] = 0
            return False
        self.counts += 1
        row = int(self.counts[1])
        log.warning("at image %d the %s is no finite number: step left out (%d in a row)", seen, cause, row)
        if row >= self.in_a_row:
            raise StyleAvatarError(
                f"training stopped: {row} steps in a row brought numbers that are none",
                got=f"the {cause}, at image {seen}; {self.skipped} steps left out in all",
                expected="finite data, losses and gradients",
                remedy="if it is the data, run `styleavatar3d dataset validate`; else lower the learning rates or set "
                "train.precision to fp32; the latest checkpoint is sound, the same command goes on from there",
            )
        return True


def first_bad(values: Mapping[str, Tensor | None]) -> str | None:
    """Name of the first value that holds NaN or infinity."""
    return next((name for name, x in values.items() if x is not None and not bool(torch.isfinite(x).all())), None)


def bad_gradient(network: nn.Module) -> str | None:
    """Name of the first parameter whose gradient holds NaN or infinity, as "gradient of NAME"."""
    named = [(name, p.grad) for name, p in network.named_parameters() if p.grad is not None]
    if not named or bool(torch.isfinite(torch.stack(torch._foreach_norm([g for _, g in named]))).all()):
        return None
    return next((f"gradient of {name}" for name, g in named if not bool(torch.isfinite(g).all())), None)


_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")


@contextmanager
def memory_advice(doing: str, size: str) -> Iterator[None]:
    """Turn running out of memory into an error that says what to lower.

    `doing` names the work, `size` what it was asked for, such as "batch 32 at 512 px". Other errors pass through.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error).lower() for words in _NO_MEMORY):
            raise
        raise StyleAvatarError(
            f"out of memory while {doing}",
            got=size,
            expected="less than the memory of this device",
            remedy="lower --train.batch or --train.micro_batch (smallest: discriminator.group), the rendered samples "
            "or resolution (--train.schedule.samples, --model.generator.resolution), or the widths; "
            "`styleavatar3d plan gan` tells what a config needs",
        ) from error
