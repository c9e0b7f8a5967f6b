"""NaN never reaches weights; running out of memory says what to lower."""

import pytest
import torch
from torch import nn

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.guard import Guard, bad_gradient, first_bad, memory_advice
from styleavatar3d.runtime.distributed import World


def network() -> tuple[nn.Module, torch.optim.Adam]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 1))
    return layers, torch.optim.Adam(layers.parameters(), 0.01, betas=(0.0, 0.99))


def step(layers: nn.Module, optimizer: torch.optim.Adam, guard: Guard, data: torch.Tensor, poison: str = "") -> bool:
    """One step as training makes it; returns whether it was taken."""
    if poison == "data":
        data = data.index_fill(0, torch.tensor([1]), torch.nan)
    loss = layers(data).square().mean() * (torch.inf if poison == "loss" else 1.0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if poison == "gradient":
        layers[0].weight.grad[1, 2] = torch.nan
    taken = guard.passes("judge", {"data": data, "loss": loss}, layers, World())
    if taken:
        optimizer.step()
    guard.close(0)
    return taken


def finite(layers: nn.Module, optimizer: torch.optim.Adam) -> bool:
    numbers = [*layers.state_dict().values(), *(t for s in optimizer.state.values() for t in s.values())]
    return all(bool(torch.isfinite(t).all()) for t in numbers)


def test_a_hundred_injected_are_each_left_out_and_counted():
    """200 steps, every other one spoilt: the end is that of the 100 sound steps alone, bit by bit."""
    (layers, optimizer), guard = network(), Guard()
    (alone, other), calm = network(), Guard()
    numbers = torch.Generator().manual_seed(1)
    for index in range(200):
        data = torch.randn(4, 3, generator=numbers)
        poison = ("data", "loss", "gradient")[index // 2 % 3] if index % 2 else ""
        assert step(layers, optimizer, guard, data, poison) == (not poison)
        assert finite(layers, optimizer)
        if not poison:
            step(alone, other, calm, data)
    assert guard.skipped == 100 and calm.skipped == 0
    assert all(
        torch.equal(a, b) for a, b in zip(layers.state_dict().values(), alone.state_dict().values(), strict=True)
    )


def test_ten_in_a_row_stop_the_run():
    (layers, optimizer), guard = network(), Guard()
    data = torch.randn(4, 3)
    for _ in range(9):
        step(layers, optimizer, guard, data, "data")
    step(layers, optimizer, guard, data)  # a sound one begins a new row
    with pytest.raises(StyleAvatarError) as raised:
        for _ in range(10):
            step(layers, optimizer, guard, data, "gradient")
    assert guard.skipped == 19 and finite(layers, optimizer)
    text = str(raised.value)
    assert "10 steps in a row" in text and "gradient of 0.weight of the judge" in text and "remedy" in text


def test_the_first_cause_is_named():
    layers, _ = network()
    good, bad = torch.zeros(3), torch.tensor([0.0, torch.inf])
    assert first_bad({"data": good, "mask": None, "loss": bad}) == "loss" and first_bad({"data": good}) is None
    assert bad_gradient(layers) is None
    for parameter in layers.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert bad_gradient(layers) is None
    layers[2].bias.grad[0] = torch.nan
    assert bad_gradient(layers) == "gradient of 2.bias"


def test_huge_but_finite_gradients_pass():
    layers, _ = network()
    for parameter in layers.parameters():
        parameter.grad = torch.full_like(parameter, 3e38)
    assert bad_gradient(layers) is None


def test_counts_are_saved():
    guard, again = Guard(), Guard()
    guard.passes("judge", {"data": torch.tensor([torch.nan])}, None, World())
    assert guard.close(8) and not guard.close(16)
    again.load_state_dict(guard.state_dict())
    assert again.skipped == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_to_lower(error):
    with pytest.raises(StyleAvatarError) as raised, memory_advice("training", "batch 32 at 512 px"):
        raise error
    text = str(raised.value)
    assert "out of memory while training" in text and "batch 32 at 512 px" in text and "lower --train.batch" in text


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(StyleAvatarError, match="out of memory"), memory_advice("training", "far too much"):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes"), memory_advice("training", "batch 8"):
        raise RuntimeError("shapes do not fit")
