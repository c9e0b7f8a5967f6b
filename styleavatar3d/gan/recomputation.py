"""Time for memory: activations that are computed anew in the backward pass instead of kept (Chen et al. 2016)."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


class Thrifty(nn.Module):
    """A network whose parts may be recomputed; it draws no random numbers, so that they come out the same."""

    checkpointing = False

    def part(self, compute: Callable[..., Result], *inputs: object) -> Result:
        """`compute(*inputs)`, of which only the inputs are kept where `checkpointing` is on."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return compute(*inputs)
        return checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]
