"""How much an avatar's depth is that of a head: the nearest of some parametric figures, and its correlation."""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import mean_depth
from styleavatar3d.figures.heads import Figure
from styleavatar3d.figures.looks import Look
from styleavatar3d.figures.rasterize import rasterize


def figure_depth(figure: Figure, labels: Float[Tensor, "views 25"], size: int) -> Float[Tensor, "views size size"]:
    """Distance along unit rays, world units; inf outside."""
    buffer = rasterize(figure.vertices, figure.faces, labels, 2 * size, figure.closed)
    return mean_depth(buffer, 2)


def fit_head(
    looks: Sequence[Look],
    depth: Float[Tensor, "views size size"],
    mask: Bool[Tensor, "views size size"],
    labels: Float[Tensor, "views 25"],
) -> tuple[Look, float]:
    """Which of these looks has the depth maps most like these, and the mean correlation over the views.

    Both live in the same world and are seen by the same cameras, so nothing is moved or scaled to fit; a correlation
    would not see a change of scale along the rays anyway. Only pixels that both cover count.
    """
    fits = []
    for look in looks:
        head = figure_depth(build_figure(look), labels, depth.shape[-1])
        views = zip(depth, head, mask & head.isfinite(), strict=True)
        fits.append(sum(pearson(ours[both], theirs[both]) for ours, theirs, both in views) / len(depth))
    best = max(range(len(looks)), key=fits.__getitem__)
    return looks[best], fits[best]


def pearson(x: Float[Tensor, "count"], y: Float[Tensor, "count"]) -> float:
    """Correlation of two lists of numbers; 0 if either does not vary, or of fewer than two."""
    if len(x) < 2:
        return 0.0
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    spread = (x.square().sum() * y.square().sum()).sqrt()
    return float((x * y).sum() / spread) if spread > 1e-12 else 0.0
