"""Rotations by axis times angle."""

import math

import pytest
import torch

from styleavatar3d.camera.rotations import rotate, rotations


def test_a_quarter_turn_about_y_leads_the_front_to_the_left():
    turned = rotate(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, math.pi / 2, 0.0]]))
    assert torch.allclose(turned, torch.tensor([[1.0, 0.0, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-9, 9e-3, 1.1e-2, 1.0, 3.0])
def test_they_are_the_matrix_exponential(size):
    by = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.double), dim=1) * size
    cross = torch.zeros(5, 3, 3, dtype=torch.double)
    for (i, j), value in {(2, 1): by[:, 0], (0, 2): by[:, 1], (1, 0): by[:, 2]}.items():
        cross[:, i, j], cross[:, j, i] = value, -value
    assert torch.allclose(rotations(by), torch.linalg.matrix_exp(cross), atol=1e-12)


def test_no_rotation_is_exact_and_has_its_gradient():
    points, by = torch.randn(4, 3), torch.zeros(4, 3)
    assert torch.equal(rotate(points, by), points)
    still = torch.zeros(4, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: rotate(points.double(), b), still)
    assert torch.autograd.gradgradcheck(lambda b: rotate(points.double(), b), still)
