"""Learned camera corrections against the cameras they should give."""

import math

import pytest
import torch

from styleavatar3d.camera.cameras import check_labels, mirror_labels, orbit_labels, yaw_pitch
from styleavatar3d.gan.camera_correction import (
    CameraCorrection,
    CorrectionConfig,
    corrected,
    mirror_correction,
)

YAWS, PITCHES = torch.tensor([0.0, 70.0, -120.0, 179.0]), torch.tensor([0.0, 20.0, -25.0, 5.0])
LABELS = orbit_labels(YAWS, PITCHES)


def residual(*numbers: float) -> torch.Tensor:
    return torch.tensor([[float(number) for number in numbers]] * len(YAWS))


@pytest.mark.parametrize("size", [3, 4])
def test_no_correction_is_no_change(size):
    assert torch.equal(corrected(LABELS, torch.zeros(4, size)), LABELS)


def test_yaw_and_pitch_lead_the_camera_along_its_orbit():
    led = corrected(LABELS, residual(math.radians(12), 0, 0, 0))
    assert torch.allclose(led, orbit_labels(YAWS + 12, PITCHES), atol=1e-5)
    raised = corrected(LABELS, residual(0, math.radians(-7), 0, 0))
    assert torch.allclose(raised, orbit_labels(YAWS, PITCHES - 7), atol=1e-5)
    both = corrected(LABELS, residual(math.radians(12), math.radians(8), 0, 0))
    assert torch.allclose(both, orbit_labels(YAWS + 12, PITCHES + 8), atol=1e-5)


def test_roll_turns_the_picture_anticlockwise_about_its_middle():
    rolled = corrected(LABELS, residual(0, 0, math.radians(90), 0))
    assert torch.allclose(torch.stack(yaw_pitch(rolled)), torch.stack(yaw_pitch(LABELS)), atol=1e-3)
    pose, before = (x[:, :16].unflatten(1, (4, 4)) for x in (rolled, LABELS))
    assert torch.allclose(pose[:, :3, 0], before[:, :3, 1], atol=1e-6)  # what was below is now on the right
    assert torch.equal(pose[:, :, 3], before[:, :, 3])


def test_scale_enlarges_about_the_principal_point():
    larger = corrected(LABELS, residual(0, 0, 0, 1))
    wanted = LABELS.clone()
    wanted[:, [16, 20]] *= 2
    assert torch.allclose(larger, wanted)


def test_a_shift_moves_the_camera_alone():
    moved = corrected(LABELS, residual(0.1, -0.2, 0.3))
    difference = (moved - LABELS)[:, [3, 7, 11]]
    assert torch.allclose(difference, residual(0.1, -0.2, 0.3), atol=1e-6)
    assert (moved != LABELS).sum() == 12


def test_corrected_cameras_are_cameras():
    torch.manual_seed(0)
    check_labels(corrected(LABELS, torch.randn(4, 4)))


@pytest.mark.parametrize("size", [3, 4])
def test_mirrored_cameras_take_mirrored_corrections(size):
    torch.manual_seed(1)
    correction = torch.randn(4, size) * 0.2
    one = mirror_labels(corrected(LABELS, correction))
    assert torch.allclose(one, corrected(mirror_labels(LABELS), mirror_correction(correction)), atol=1e-6)


@pytest.mark.parametrize("size", [3, 4])
def test_gradients_reach_every_number(size):
    torch.manual_seed(0)
    for start in (torch.zeros(4, size), torch.randn(4, size) * 0.3):
        correction = start.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda c: corrected(LABELS.double(), c), correction, fast_mode=True)


@pytest.mark.parametrize("kind, size", [("shift", 3), ("full", 4)])
def test_an_untrained_network_corrects_nothing_and_learns(kind, size):
    network = CameraCorrection(8, CorrectionConfig(kind=kind))
    correction = network(torch.randn(4, 8), LABELS)
    assert torch.equal(correction, torch.zeros(4, size))
    correction.sum().backward()
    assert network.out.weight.grad.abs().sum() > 0
    torch.nn.init.normal_(network.out.weight, std=100)
    limits = torch.tensor(network.config.limits())
    assert (network(torch.randn(64, 8), LABELS.repeat(16, 1)).abs() <= limits * 1.0001).all()


def test_it_finds_a_camera_that_is_off():
    """From labels 10 degrees wrong to where the pictures were taken, by gradients through the label alone."""
    torch.manual_seed(0)
    network = CameraCorrection(4, CorrectionConfig(kind="full"))
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    wanted, z = orbit_labels(YAWS + 10, PITCHES - 4), torch.randn(4, 4)
    for _ in range(60):
        loss = (corrected(LABELS, network(z, LABELS)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(corrected(LABELS, network(z, LABELS)), wanted, atol=0.03)
