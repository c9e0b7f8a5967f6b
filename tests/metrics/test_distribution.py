"""Distances against their closed forms."""

from itertools import permutations, product

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics import distribution
from styleavatar3d.metrics.distribution import (
    Gaussian,
    frechet_distance,
    kernel_distance,
    precision_recall,
    top1_retrieval,
)


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


def test_frechet_distance_of_parts_is_that_of_the_whole() -> None:
    draw = torch.Generator().manual_seed(3)
    real, fake = torch.randn(90, 6, generator=draw), torch.randn(70, 6, generator=draw) * 2 + 1
    expected = frechet_distance(real, fake)
    merged = Gaussian.merged(real.split([1, 40, 0, 49]))
    assert merged.count == 90
    assert torch.allclose(merged.covariance, torch.cov(real.double().T), rtol=0, atol=1e-13)
    assert frechet_distance(merged, Gaussian.merged(fake.split(7))) == pytest.approx(expected, rel=1e-12)
    backwards = Gaussian.of(real[50:]).merge(Gaussian.of(real[:50]))
    assert frechet_distance(backwards, fake) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_large_mean_costs_no_digits(offset: float) -> None:
    points = gaussian(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 1e-6)
    moved = points.mul(2) + offset  # a spread twice as large: three times 1e-6
    distance = frechet_distance(Gaussian.merged((points + offset).split(100)), Gaussian.merged(moved.split(130)))
    assert distance == pytest.approx(3e-6, rel=1e-3)


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(StyleAvatarError, match="features of two networks"):
        frechet_distance(Gaussian.of(torch.randn(5, 3)), Gaussian.of(torch.randn(5, 4)))
    with pytest.raises(StyleAvatarError, match="NaN or infinity in 1 of 5"):
        Gaussian.of(torch.full((5, 2), 1.0).index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(StyleAvatarError, match="no features"):
        Gaussian.merged([])
    with pytest.raises(StyleAvatarError, match="4 or more"):
        precision_recall(torch.randn(3, 2), torch.randn(9, 2))


def test_kernel_distance_by_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "_ROWS", 4)  # rows that do not divide the sets
    draw = torch.Generator().manual_seed(2)
    real, fake = (torch.randn(count, 5, generator=draw, dtype=torch.float64) for count in (11, 7))

    def mean(pairs) -> float:
        kernels = [(x @ y / 5 + 1) ** 3 for x, y in pairs]
        return (sum(kernels) / len(kernels)).item()

    expected = mean(permutations(real, 2)) + mean(permutations(fake, 2)) - 2 * mean(product(real, fake))
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_of_constructed_sets() -> None:
    draw = torch.Generator().manual_seed(5)
    left, right = torch.rand(60, 2, generator=draw), torch.rand(60, 2, generator=draw) + 10
    both = torch.cat([left, right])
    assert precision_recall(both, both) == (1, 1)
    assert precision_recall(left, right) == (0, 0)
    assert precision_recall(both, left) == (1, 0.5)  # good, and one half is never made
    assert precision_recall(left, both) == (0.5, 1)


def test_a_point_lies_among_others_up_to_the_radius() -> None:
    line = torch.arange(6.0)[:, None].double()  # radii to the third neighbour: 3 2 2 2 2 3
    inside, outside = torch.tensor([[-3.0], [8.0], [1.5], [2.5]]), torch.tensor([[-3.01], [8.01], [9.0], [-9.0]])
    assert precision_recall(line, inside.double()).precision == 1
    assert precision_recall(line, outside.double()).precision == 0
