"""Penalties and regularisers against mathematics, and the penalty in two real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gan.two_judges import penalty_gradients
from safetensors.torch import load_file

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.discriminator import Discriminator, DiscriminatorConfig, pictures_for
from styleavatar3d.gan.losses import (
    PenaltyShares,
    batch_mean_penalty,
    density_variation,
    discriminator_loss,
    gradient_penalty,
    penalty_weight,
    pose_loss,
    split_penalty,
    squared_gradients,
    wrong_camera_loss,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIG = DiscriminatorConfig(
    resolution=16, entry_resolution=16, widths=(4, 8, 8), label_size=6, label_width=8, precision="parameter", raw=True
)


def parts() -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(0)
    sizes = {"image": (3, 16), "raw": (3, 8), "mask": (1, 8)}
    return {
        name: torch.randn(4, maps, size, size, generator=numbers, dtype=torch.double)
        for name, (maps, size) in sizes.items()
    }


def judge() -> tuple[Discriminator, object]:
    torch.manual_seed(0)
    discriminator, labels = Discriminator(CONFIG).double(), torch.eye(6, dtype=torch.double)[:4]

    def look(image, raw, mask):
        return discriminator(pictures_for(image, mask, mask[:, :0], raw), labels, precise=True)

    return discriminator, look


def test_each_part_has_its_own_strength():
    discriminator, look = judge()
    shares = {"image": 1.0, "raw": 0.5, "mask": 5.0}
    total, seen = split_penalty(discriminator, look, parts(), PenaltyShares(**shares))
    wanted = sum(share * seen[f"penalty_{name}"] for name, share in shares.items())
    assert total.item() == pytest.approx(wanted, rel=1e-12) and len(seen) == 3 and min(seen.values()) > 0


def test_the_penalty_is_the_square_of_finite_differences():
    discriminator, look = judge()
    squares = squared_gradients(look, parts())
    for name in squares:
        total, step = 0.0, 1e-6
        flat = parts()[name].flatten(1)
        for index in range(0, flat.shape[1], 7):
            up, down = flat.clone(), flat.clone()
            up[:, index] += step
            down[:, index] -= step
            high, low = (look(**parts() | {name: x.view_as(parts()[name])}) for x in (up, down))
            # samples touch each other through minibatch statistics: the penalty differentiates their sum
            total += ((high.sum() - low.sum()) / (2 * step)).item()
        gradient = torch.autograd.grad(look(**parts() | {name: (x := parts()[name].requires_grad_())}).sum(), x)[0]
        assert gradient.flatten(1)[:, ::7].sum().item() == pytest.approx(total, rel=1e-5, abs=1e-9)
        assert squares[name].item() == pytest.approx(gradient.square().sum((1, 2, 3)).mean().item(), rel=1e-12)


def test_a_part_of_no_share_costs_nothing_and_changes_nothing():
    discriminator, look = judge()
    total, seen = split_penalty(discriminator, look, parts(), PenaltyShares(raw=0, mask=0))
    assert list(seen) == ["penalty_image"] and total.item() == pytest.approx(seen["penalty_image"])
    nothing, seen = split_penalty(discriminator, look, parts(), PenaltyShares(image=0, raw=0, mask=0))
    assert nothing.item() == 0 and not seen
    with pytest.raises(StyleAvatarError, match="no penalty has been set for"):
        split_penalty(discriminator, look, parts() | {"noise": torch.zeros(1)}, PenaltyShares())


def test_second_derivatives_of_the_split_penalty_are_right():
    discriminator, look = judge()
    shares = PenaltyShares(image=1, raw=0.5, mask=2)
    total, _ = split_penalty(discriminator, look, parts(), shares)
    weight, step = discriminator.flat.weight, 1e-6
    (gradient,) = torch.autograd.grad(total, weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    with torch.no_grad():
        weight += step * direction
    high = split_penalty(discriminator, look, parts(), shares)[0].item()
    with torch.no_grad():
        weight -= 2 * step * direction
    low = split_penalty(discriminator, look, parts(), shares)[0].item()
    assert (gradient * direction).sum().item() == pytest.approx((high - low) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("pose", [False, True])
def test_the_penalty_alone_reaches_every_parameter(pose):
    discriminator = Discriminator(CONFIG.model_copy(update={"pose": pose}))
    gradient_penalty(discriminator, torch.randn(4, 7, 16, 16), torch.randn(4, 6)).backward()
    assert [name for name, p in discriminator.named_parameters() if p.grad is None] == []


def test_the_lazy_penalty_weighs_as_much_as_the_steps_that_it_stands_for():
    weights = [penalty_weight(seen, 8, 16) for seen in range(0, 8 * 32, 8)]
    assert weights == ([16] + [0] * 15) * 2
    assert [penalty_weight(seen, 8, 1) for seen in (0, 8)] == [1, 1]


def test_two_processes_take_the_penalty_of_the_whole_batch(tmp_path):
    """Through data-parallel hooks on gloo; and without `reach` the ranks drift apart, which is why it is there."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(ROOT / "tests/gan/two_judges.py"), str(tmp_path)]
    result = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    first, second = (load_file(tmp_path / name) for name in "01")
    for name, gradient in penalty_gradients().items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], gradient, rtol=0, atol=1e-12), name
    apart = [name for name in first if name.startswith("unreached.") and not torch.equal(first[name], second[name])]
    assert apart
    assert first["passes"].tolist() == second["passes"].tolist() == [1, 0, 0, 1]
    assert first["skipped"].tolist() == second["skipped"].tolist() == [2, 0]


def test_wrong_cameras_count_as_fakes_where_they_are_wrong():
    logits, wrong = torch.tensor([0.0, 50.0, -50.0, 3.0]), torch.tensor([True, True, True, False])
    assert wrong_camera_loss(logits, wrong).item() == pytest.approx((0.693147 + 50) / 4, rel=1e-5)
    assert wrong_camera_loss(logits, torch.zeros(4, dtype=torch.bool)).item() == 0
    assert discriminator_loss(logits, logits).isfinite()


def test_density_variation_of_a_slope_is_the_slope():
    places = torch.rand(2, 4000, 3, generator=torch.Generator().manual_seed(0))
    steps = torch.randn(2, 4000, 3, generator=torch.Generator().manual_seed(1))
    seen = []

    def slope(points):
        seen.append(points)
        return 10 * points[..., 0]

    variation = density_variation(slope, places, steps, box=0.8)
    assert variation.item() == pytest.approx(10 * 0.004 * 0.8 * (2 / torch.pi) ** 0.5, rel=0.03)
    here, there = seen[0].chunk(2, 1)
    assert here.abs().max() <= 0.4 and (there - here).std().item() == pytest.approx(0.0032, rel=0.03)
    assert density_variation(lambda points: points[..., 0] * 0, places, steps, box=0.8).item() == 0


def test_the_mean_of_corrections_is_held_not_each_of_them():
    offsets = torch.tensor([[0.3, 0.0], [-0.3, 0.0]])
    assert batch_mean_penalty(offsets).item() == 0 and batch_mean_penalty(offsets + 0.5).item() == pytest.approx(0.5)


def test_guesses_learn_from_poses_and_not_the_other_way_round():
    guessed, used = torch.ones(2, 6, requires_grad=True), torch.zeros(2, 6, requires_grad=True)
    loss = pose_loss(guessed, used)
    loss.backward()
    assert loss.item() == 6 and used.grad is None and torch.equal(guessed.grad, torch.ones(2, 6))
