"""How near two sets of pictures are, from their features: Fréchet and kernel distance, precision and recall.

Every function takes features of any width; which network made them is for the caller to say beside the number. All
sums are float64, and no matrix of all pairs is ever held.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError

NEIGHBOURS = 3
"""Whose distance is the radius of a point, as in the paper of precision and recall."""
_ROWS = 1024
"""Of a matrix of pairs, at a time."""


@dataclass(frozen=True)
class Gaussian:
    """What the Fréchet distance needs to know of a set of features; it grows by merging, part by part.

    The root R of the scatter, R^T R = sum of (x - mean)(x - mean)^T, is kept and not the scatter itself: nothing is
    squared, so directions in which features hardly vary keep all their digits.
    """

    count: int
    mean: Float[Tensor, "width"]
    root: Float[Tensor, "rank width"]

    @classmethod
    def of(cls, features: Float[Tensor, "count width"]) -> "Gaussian":
        """Raises StyleAvatarError for no features, and for features that are no numbers."""
        if not len(features):
            raise StyleAvatarError("no features have no distribution", got=tuple(features.shape))
        if not features.isfinite().all():
            bad = int((~features.isfinite()).any(1).sum())
            raise StyleAvatarError("features are no numbers", got=f"NaN or infinity in {bad} of {len(features)}")
        features = features.double()
        mean = features.mean(0)
        return cls(len(features), mean, _triangle(features - mean))

    @classmethod
    def merged(cls, parts: Iterable[Float[Tensor, "_ width"]]) -> "Gaussian":
        """Of all parts together, one after the other."""
        gaussians = (Gaussian.of(part) for part in parts if len(part))
        first = next(gaussians, None) or Gaussian.of(torch.empty(0, 0))
        return reduce(Gaussian.merge, gaussians, first)

    def merge(self, other: "Gaussian") -> "Gaussian":
        """Of both sets together: the scatter gains what lies between the means (Chan, Golub and LeVeque 1979)."""
        _check_widths(self.mean, other.mean)
        count, away = self.count + other.count, other.mean - self.mean
        between = away * (self.count * other.count / count) ** 0.5
        mean = self.mean + away * (other.count / count)
        return Gaussian(count, mean, _triangle(torch.cat([self.root, other.root, between[None]])))

    @property
    def covariance(self) -> Float[Tensor, "width width"]:
        """Unbiased: over count - 1."""
        return self.root.T @ self.root / (self.count - 1)


def frechet_distance(
    real: Float[Tensor, "reals width"] | Gaussian, fake: Float[Tensor, "fakes width"] | Gaussian
) -> float:
    """Squared Fréchet distance of two Gaussians fitted to the features (FID, arXiv:1706.08500, eq. 6); 0 is best.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2); the last trace is the sum of the singular values of R1 R2^T.
    Raises StyleAvatarError for fewer than two pictures on a side, and for features of different width.
    """
    first, second = (side if isinstance(side, Gaussian) else Gaussian.of(side) for side in (real, fake))
    _check_counts(first.count, second.count, 2)
    _check_widths(first.mean, second.mean)
    root1, root2 = (side.root / (side.count - 1) ** 0.5 for side in (first, second))
    spread = root1.square().sum() + root2.square().sum() - 2 * torch.linalg.svdvals(root1 @ root2.T).sum()
    return ((first.mean - second.mean).square().sum() + spread).clamp(min=0).item()


def kernel_distance(real: Float[Tensor, "reals width"], fake: Float[Tensor, "fakes width"]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / width + 1)^3 (KID, arXiv:1801.01401).

    0 is expected of two samples of one distribution, so that it may fall below; few pictures do not raise it.
    """
    _check_counts(len(real), len(fake), 2)
    _check_widths(real[0], fake[0])
    real, fake = real.double(), fake.double()
    cross = _kernel_sum(real, fake) / (len(real) * len(fake))
    return _mean_of_pairs(real) + _mean_of_pairs(fake) - 2 * cross


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]."""

    precision: float
    """Of the fakes, those that lie among the reals: is what is made any good?"""
    recall: float
    """Of the reals, those that lie among the fakes: is everything made?"""


def precision_recall(
    real: Float[Tensor, "reals width"], fake: Float[Tensor, "fakes width"], neighbours: int = NEIGHBOURS
) -> PrecisionRecall:
    """Improved precision and recall (arXiv:1904.06991): a point lies among others if it is no farther from one of them
    than that one's `neighbours`-th nearest of its own set. Raises StyleAvatarError for too few points."""
    _check_counts(len(real), len(fake), neighbours + 1)
    _check_widths(real[0], fake[0])
    real, fake = real.double(), fake.double()
    return PrecisionRecall(_share_among(fake, real, neighbours), _share_among(real, fake, neighbours))


def top1_retrieval(queries: Float[Tensor, "queries width"], answers: Float[Tensor, "answers width"]) -> float:
    """Share of queries whose most similar answer (cosine) is the one of the same index; chance is 1 / answers."""
    queries, answers = (torch.nn.functional.normalize(x, dim=1) for x in (queries, answers))
    return ((queries @ answers.T).argmax(1) == torch.arange(len(queries))).double().mean().item()


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(((rows @ y.T / x.shape[1] + 1) ** 3).sum().item() for rows in x.split(_ROWS))


def _mean_of_pairs(x: Tensor) -> float:
    """Mean kernel of two different rows."""
    own = ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum().item()
    return (_kernel_sum(x, x) - own) / (len(x) * (len(x) - 1))


def _share_among(points: Tensor, others: Tensor, neighbours: int) -> float:
    radii = torch.cat([rows.kthvalue(neighbours + 1, 1).values for rows in _distances(others, others)])
    inside = torch.cat([(rows <= radii).any(1) for rows in _distances(points, others)])
    return inside.double().mean().item()


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    for rows in x.split(_ROWS):
        yield torch.cdist(rows, y)


def _triangle(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows, mode="r").R


def _check_counts(reals: int, fakes: int, least: int) -> None:
    if min(reals, fakes) < least:
        counts = f"{reals} and {fakes}"
        raise StyleAvatarError("too few pictures to compare", got=counts, expected=f"{least} or more each")


def _check_widths(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        got = f"{len(one)} and {len(other)} numbers a picture"
        raise StyleAvatarError("features of two networks cannot be compared", got=got, expected="one network's")
