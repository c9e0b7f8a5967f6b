"""The coarse-to-fine view label."""

import pytest
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.gan.labels import LabelConfig, view_labels, view_one_hot

CONFIG = LabelConfig()


def encode(yaw: list[float], draw: float) -> torch.Tensor:
    yaws = torch.tensor(yaw)
    return view_labels(orbit_labels(yaws, torch.zeros_like(yaws)), torch.full_like(yaws, draw), CONFIG)


def test_there_are_46_numbers():
    assert CONFIG.size == 46 and CONFIG.fine_size == 41


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.95])
def test_exactly_one_half_is_kept(draw):
    codes = encode([float(yaw) for yaw in range(-180, 180, 7)], draw)
    fine, coarse = codes[:, :41].sum(1), codes[:, 41:].sum(1)
    assert set(fine.tolist()) <= {0.0, 2.0} and torch.equal(fine + coarse, torch.full_like(fine, 2))
    assert set(codes.unique().tolist()) == {0.0, 1.0}


def test_the_fine_half_is_kept_at_its_stated_rate():
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    for yaw, rate in ((0.0, 0.9), (44.0, 0.9), (46.0, 0.2), (180.0, 0.2)):
        labels = orbit_labels(torch.full((4000,), yaw), torch.zeros(4000))
        kept = (view_labels(labels, draws, CONFIG)[:, :41].sum(1) > 0).float().mean().item()
        assert kept == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize(
    "yaw, column", [(0, 0), (4.99, 0), (5.0, 1), (-5.0, 0), (-5.01, 35), (90, 9), (-180, 18), (179.99, 18)]
)
def test_fine_yaw_bins_are_centred_and_half_open(yaw, column):
    assert view_one_hot(torch.tensor([float(yaw)]), torch.zeros(1), 36, 5, CONFIG)[0, :36].argmax() == column


@pytest.mark.parametrize("yaw, column", [(0, 0), (44.9, 0), (45.0, 1), (-45.0, 0), (-45.1, 3), (135, 2), (-136, 2)])
def test_coarse_bins_are_the_four_sides(yaw, column):
    assert view_one_hot(torch.tensor([float(yaw)]), torch.zeros(1), 4, 1, CONFIG)[0, :4].argmax() == column


@pytest.mark.parametrize("pitch, row", [(-30, 0), (-18.01, 0), (-18, 1), (0, 2), (17.9, 3), (18, 4), (30, 4), (60, 4)])
def test_pitch_bins_have_twelve_degrees(pitch, row):
    assert view_one_hot(torch.zeros(1), torch.tensor([float(pitch)]), 36, 5, CONFIG)[0, 36:].argmax() == row


def test_reals_and_fakes_with_one_camera_and_draw_have_one_label():
    assert torch.equal(encode([33.0], 0.3), encode([33.0], 0.3))
