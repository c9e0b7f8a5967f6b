"""Activations that are recomputed: the same gradients for less memory, whatever else a step does."""

import pytest
import torch
from gan.one_step import CPU, FP32, LARGER, losses, step, tiny
from gan.two_steps import EVERYTHING
from gan.two_steps import run as two_steps
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from styleavatar3d.gan.state import TrainState

THRIFTY = ("--train.checkpointing", "true")
TURNED = ("--model.correction.kind", "full", "--model.discriminator.pose", "true")
"""cameras and poses that learn take the plain renderer"""


@pytest.mark.parametrize("size", [LARGER, TURNED])
def test_gradients_are_those_of_a_step_that_keeps_everything(size):
    kept, recomputed = step(*FP32, *size), step(*FP32, *size, *THRIFTY)
    for name, (loss, gradient) in kept.items():
        torch.testing.assert_close(recomputed[name][0], loss, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(recomputed[name][1], gradient, rtol=1e-5, atol=1e-6)


def test_whole_steps_in_pieces_with_the_penalty_end_at_the_same_weights():
    kept, recomputed = two_steps(*EVERYTHING), two_steps(*EVERYTHING, *THRIFTY, "--train.micro_batch", "4")
    for name, tensor in kept.items():
        assert torch.allclose(recomputed[name], tensor, rtol=0, atol=1e-9), name


def kept_bytes(*more: str) -> int:
    """Bytes that a step holds for its backward passes, each tensor once."""
    config = tiny(*FP32, "--model.perception", "null", *more)
    state, kept = TrainState.fresh(config, CPU), dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = losses(state, config)
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del graph
    return found


@pytest.mark.parametrize("size, share", [(LARGER, 0.7), (TURNED, 0.3)])
def test_a_step_holds_less_memory(size, share):
    assert kept_bytes(*size, *THRIFTY) < share * kept_bytes(*size)
