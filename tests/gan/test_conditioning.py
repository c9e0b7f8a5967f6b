"""The generator's camera conditioning."""

import pytest
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.gan.conditioning import CameraEmbedding, swapped
from styleavatar3d.gan.fades import PUBLISHED


def views(start: float, count: int = 4000) -> torch.Tensor:
    return orbit_labels(torch.linspace(start, start + 90, count), torch.zeros(count))


@pytest.mark.parametrize("seen, probability", [(0, 1.0), (500_000, 0.85), (1_000_000, 0.7)])
def test_cameras_are_swapped_at_the_rate_of_the_schedule(seen, probability):
    labels, others = views(0.0), views(-180.0)
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    told = swapped(labels, others, draws, PUBLISHED.swap.at(seen))
    other = (told == others).all(1)
    assert other.float().mean().item() == pytest.approx(probability, abs=0.02)
    assert torch.equal(told[~other], labels[~other])


def test_no_probability_never_swaps():
    labels = views(0.0, 8)
    assert torch.equal(swapped(labels, labels.flip(0), torch.zeros(8), 0.0), labels)


def test_latent_and_camera_are_of_one_size():
    torch.manual_seed(0)
    both = CameraEmbedding(16)(torch.randn(6, 8) * 30, views(0.0, 6))
    assert both.shape == (6, 24)
    for part in both.split([8, 16], 1):
        assert torch.allclose(part.square().mean(1), torch.ones(6), atol=1e-4)


def test_another_camera_is_another_embedding():
    embed, z = CameraEmbedding(16), torch.randn(1, 8)
    front, side = (embed(z, orbit_labels(torch.tensor([yaw]), torch.zeros(1))) for yaw in (0.0, 90.0))
    assert torch.equal(front[:, :8], side[:, :8]) and not torch.allclose(front[:, 8:], side[:, 8:])
