"""Several processes that train one model: the only door to accelerate.

Gradients are averaged in one flat reduction after the backward pass, outside any autograd hook. So a module may be
called through any of its methods, in any number of passes, and second derivatives stay right; ranks that start equal
stay equal bit by bit, because each applies the same averaged gradient.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from styleavatar3d.errors import ConfigError


class World:
    """This process among the processes of a run."""

    def __init__(self, accelerator: Any = None):
        self._accelerator = accelerator
        self.rank = accelerator.process_index if accelerator else 0
        self.size = accelerator.num_processes if accelerator else 1
        self.device = accelerator.device if accelerator else default_device()

    @property
    def main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def share(self, batch: int, multiple: int = 1) -> int:
        """This rank's part of a global batch; ConfigError unless every part is a multiple of `multiple`."""
        if batch % (self.size * multiple):
            raise ConfigError(
                "the batch cannot be shared out",
                got=f"batch {batch} over {self.size} processes",
                expected=f"a multiple of {self.size * multiple}",
                remedy="change --train.batch or the number of processes",
            )
        return batch // self.size

    def average(self, tensor: Tensor) -> Tensor:
        """Mean over all processes."""
        return tensor if self.size == 1 else self._accelerator.reduce(tensor, "mean")

    def average_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its mean over all processes; parameters without one must be the same everywhere."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        return flag if self.size == 1 else self.average(torch.tensor([float(flag)], device=self.device)).item() > 0

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()


def connect(threads: int = 0) -> World:
    """Join the processes that `accelerate launch` or `torchrun` started; a process started alone is a world of one.

    `threads` is the number of CPU threads of each process; 0 leaves what OMP_NUM_THREADS or torch chose.
    """
    if threads:
        torch.set_num_threads(threads)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    from accelerate import Accelerator

    return World(Accelerator(cpu=not torch.cuda.is_available()))


def refuse_deepspeed(training: str, reason: str, remedy: str) -> None:
    """Raises ConfigError if `accelerate launch` was told to shard a training by DeepSpeed that cannot be."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in ("1", "true", "yes"):
        raise ConfigError(
            f"{training} does not run under DeepSpeed: {reason}",
            got="a profile with distributed_type: DEEPSPEED",
            expected="MULTI_GPU, as in cluster/accelerate/gpu-8.yaml",
            remedy=remedy,
        )


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def parameter_count(modules: Iterable[nn.Module]) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for module in modules for p in module.parameters())
