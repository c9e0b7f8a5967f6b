"""How near two sets of pictures are, from their features: Fréchet distance and kernel distance."""

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError


def frechet_distance(real: Float[Tensor, "reals width"], fake: Float[Tensor, "fakes width"]) -> float:
    """Squared Fréchet distance of two Gaussians fitted to the features (arXiv:1706.08500, eq. 6), in float64.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2); the last trace is the sum of the singular values of C1^1/2 C2^1/2.
    Raises StyleAvatarError for fewer than two pictures on a side.
    """
    _check_counts(real, fake)
    mean_real, root_real = _gaussian(real)
    mean_fake, root_fake = _gaussian(fake)
    spread = (root_real**2).sum() + (root_fake**2).sum() - 2 * torch.linalg.svdvals(root_real @ root_fake.T).sum()
    return ((mean_real - mean_fake).square().sum() + spread).clamp(min=0).item()


def _check_counts(real: Tensor, fake: Tensor) -> None:
    if min(len(real), len(fake)) < 2:
        counts = f"{len(real)} and {len(fake)}"
        raise StyleAvatarError("too few pictures to compare", got=counts, expected="2 or more each")


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and a matrix R with R^T R = covariance, so that the singular values of R1 R2^T are those wanted."""
    features = features.double()
    mean = features.mean(0)
    return mean, torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R


def kernel_distance(real: Float[Tensor, "reals width"], fake: Float[Tensor, "fakes width"]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / width + 1)^3 (KID, arXiv:1801.01401)."""
    _check_counts(real, fake)
    real, fake = real.double(), fake.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def off_diagonal_mean(x: Tensor) -> Tensor:
        matrix = kernel(x, x)
        return (matrix.sum() - matrix.trace()) / (len(x) * (len(x) - 1))

    return (off_diagonal_mean(real) + off_diagonal_mean(fake) - 2 * kernel(real, fake).mean()).item()


def top1_retrieval(queries: Float[Tensor, "count width"], answers: Float[Tensor, "count width"]) -> float:
    """Share of queries whose most similar answer (cosine) is the one of the same index; chance is 1 / count."""
    queries, answers = (torch.nn.functional.normalize(x, dim=1) for x in (queries, answers))
    return ((queries @ answers.T).argmax(1) == torch.arange(len(queries))).double().mean().item()
