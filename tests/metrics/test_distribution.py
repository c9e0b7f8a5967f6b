"""Distances against their closed forms."""

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics.distribution import frechet_distance, kernel_distance, top1_retrieval


def gaussian(mean: torch.Tensor, covariance: torch.Tensor, count: int = 400) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly these."""
    points = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points -= points.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(points.T)), points.T, upper=False).T
    return whitened @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_two_gaussians() -> None:
    draw = torch.Generator().manual_seed(1)
    factors = [torch.randn(5, 5, dtype=torch.float64, generator=draw) for _ in range(2)]
    first, second = (factor @ factor.T + torch.eye(5, dtype=torch.float64) for factor in factors)
    means = torch.randn(2, 5, dtype=torch.float64, generator=draw)
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ values.sqrt().diag() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second @ root).sqrt().sum()
    expected = (means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * cross
    found = frechet_distance(gaussian(means[0], first), gaussian(means[1], second))
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_the_same_pictures_is_zero() -> None:
    features = torch.randn(50, 8)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_with_fewer_pictures_than_features() -> None:
    features = torch.randn(10, 32)
    assert frechet_distance(features, features + 1) == pytest.approx(32, rel=1e-5)


def test_kernel_distance_is_unbiased() -> None:
    draw = torch.Generator().manual_seed(0)
    distances = [
        kernel_distance(torch.randn(20, 4, generator=draw), torch.randn(20, 4, generator=draw)) for _ in range(100)
    ]
    mean, error = torch.tensor(distances).mean().item(), (torch.tensor(distances).std() / 10).item()
    assert abs(mean) < 3 * error
    assert kernel_distance(torch.randn(50, 4), torch.randn(50, 4) + 2) > 1


def test_one_picture_has_no_distribution() -> None:
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(StyleAvatarError, match="too few"):
            distance(torch.randn(1, 4), torch.randn(5, 4))


def test_retrieval_finds_its_own() -> None:
    answers = torch.eye(10)
    assert top1_retrieval(answers * 3, answers) == 1
    assert top1_retrieval(answers.roll(1, 0), answers) == 0
