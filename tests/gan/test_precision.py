"""Half precision: near full precision where it is used, absent where it must be, and guarded."""

import pytest
import torch
from gan.one_step import BF16, CPU, FP16, FP32, LARGER, losses, step, tiny
from torch import Tensor

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.config import ConfigError
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.discriminator import Convolution, Discriminator, DiscriminatorConfig
from styleavatar3d.gan.guard import bad_gradient
from styleavatar3d.gan.precision import LIMIT, PrecisionConfig
from styleavatar3d.gan.state import TrainState


def cosine(one: Tensor, other: Tensor) -> float:
    return torch.cosine_similarity(one.double(), other.double(), 0).item()


Step = dict[str, tuple[Tensor, Tensor]]


def assert_near(half: Step, full: Step) -> None:
    for name, (loss, gradient) in full.items():
        assert half[name][0].item() == pytest.approx(loss.item(), rel=2e-2), name
        assert cosine(half[name][1], gradient) > 0.99, name
    assert not torch.equal(half["generator"][1], full["generator"][1])


@pytest.mark.parametrize("size", [(), LARGER])
def test_a_step_in_bfloat16_is_near_one_in_float32(size):
    assert_near(step(*BF16, *size), step(*FP32, *size))


def test_so_is_one_in_float16(monkeypatch):
    """Slowly computed by a CPU, which training refuses."""
    monkeypatch.setattr(PrecisionConfig, "check", lambda *_: None)
    assert_near(step(*FP16, *LARGER), step(*FP32, *LARGER))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("half", [BF16, FP16])
def test_on_cuda_too(half):
    device = torch.device("cuda")
    assert_near(step(*half, *LARGER, device=device), step(*FP32, *LARGER, device=device))


def test_the_penalty_and_every_loss_stay_in_float32():
    config = tiny(*BF16)
    found = losses(TrainState.fresh(config, CPU), config)
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    assert torch.equal(found["penalty"], step(*FP32)["penalty"][0])


def test_each_part_computes_in_its_own_format():
    state = TrainState.fresh(tiny("--train.precision", "{backbone: bf16, discriminator: fp32}", *LARGER), CPU)
    generator, seen = state.generator, {}
    parts = {
        "backbone": generator.synthesis.blocks[0].refine,
        "super_resolution": generator.super_resolution.refine,
        "discriminator": state.discriminator.blocks["16"].halve,
    }
    for name, part in parts.items():
        part.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output.dtype}))
    generator.precision = generator.precision.model_copy(update={"super_resolution": "fp32"})
    view = generator(torch.randn(4, 16), orbit_labels(torch.zeros(4), torch.zeros(4)))
    state.discriminator.features(torch.zeros(4, 7, 16, 16))
    assert seen == {"backbone": torch.bfloat16, "super_resolution": torch.float32, "discriminator": torch.float32}
    assert {part.dtype for part in view} == {torch.float32}  # sums, and what rays accumulate


@pytest.mark.parametrize(
    "change, reason",
    [("{backbon: bf16}", "did you mean 'backbone'"), ("{mapping: bf16}", "mapping"), ("{renderer: fp16}", "renderer")],
)
def test_parts_that_are_never_halved_are_refused(change, reason):
    with pytest.raises(ConfigError, match=reason):
        tiny("--train.precision", change)


def test_a_cpu_refuses_float16():
    with pytest.raises(StyleAvatarError, match="cpu cannot train in float16") as raised:
        TrainState.fresh(tiny("--train.precision", "{discriminator: fp16}"), CPU)
    assert "train.precision.discriminator fp16" in str(raised.value) and "use bf16" in str(raised.value)


def test_activations_in_float16_are_bounded():
    torch.manual_seed(0)
    layer, x = Convolution(3, 4, 1), torch.full((1, 3, 2, 2), 3e3)
    assert layer(x).abs().max() > LIMIT
    assert layer(x.half()).abs().max() == LIMIT


def test_what_overflows_float16_is_left_to_the_guard():
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig(resolution=8, entry_resolution=8, widths=(4, 4), label_size=2))
    judge.precision = PrecisionConfig(discriminator="fp16")
    (judge(torch.randn(4, 4, 8, 8), torch.randn(4, 2)).sum()).backward()
    assert bad_gradient(judge) is None
    (judge(torch.randn(4, 4, 8, 8), torch.randn(4, 2)).sum() * 1e8).backward()
    assert str(bad_gradient(judge)).startswith("gradient of entries.8")
