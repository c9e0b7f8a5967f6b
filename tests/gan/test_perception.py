"""What a trained network sees in pictures, as a difference and as a discriminator."""

import pytest
import torch

from styleavatar3d.assets import assets
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.gan.losses import discriminator_loss, squared_gradients
from styleavatar3d.gan.perception import Heads, Perception, perceptual_distance
from styleavatar3d.miniature.renders import render_views
from styleavatar3d.runtime.random import normal


@pytest.fixture(scope="module")
def perception() -> Perception:
    return Perception.from_pretrained("data/miniature/estimators", torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Eight little-world figures from the front, on mid grey."""
    return torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_features_are_normal_and_come_in_four_sizes(perception, pictures):
    levels = perception(pictures)
    assert [level.shape[-1] for level in levels] == [32, 16, 8, 4]
    assert [level.shape[1] for level in levels] == list(perception.widths)
    for level in levels:
        torch.testing.assert_close(level.mean((1, 2, 3)), torch.zeros(8), atol=1e-3, rtol=0)
        torch.testing.assert_close(level.var((1, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)
