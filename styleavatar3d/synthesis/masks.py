"""Where the figure is in a synthesised picture: known roughly from the guidance's silhouette, found in the pixels.

No network is asked, so no licence is added. Both functions compare pixels with the background, which is known beyond
the silhouette: `refine_masks` moves the silhouette's edge to the picture's, as a chroma key would, and `figure_masks`
finds the figure anywhere, so that gates can see whether it fills its silhouette. A learned matting model takes the
place of `refine_masks`: anything of the same signature, chosen in code together with the licence of its weights.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

REACH = 0.04
"""How far the edge may move, over the size of the picture."""
_FAINT = 0.08
"""A difference of colour (0..1, Euclidean) that tells figure from background as well as not."""
_LARGEST = 128
"""Side of the pictures in which figures are found: the question is where they are, not how their hair falls."""
_NOISES, _LEAST = 4.0, 0.06


def refine_masks(
    images: UInt8[Tensor, "batch 3 height width"], silhouettes: UInt8[Tensor, "batch 1 height width"]
) -> UInt8[Tensor, "batch 1 height width"]:
    """Coverage 0..255 with the edges of the picture, within `REACH` of those of the silhouette.

    A pixel of a mixed colour is as far from the background as it is covered: alpha = |I - B| / |F - B| (Porter and
    Duff's "over", solved), with B and |F - B| averaged over what is certainly background and figure near by. Where the
    two are of one colour nothing can be seen, and the silhouette stays.
    """
    colors, shares = images.float() / 255, silhouettes.float() / 255
    reach = max(1, round(REACH * images.shape[-1]))
    inside, outside = 1 - _grown(1 - (shares > 0.5).float(), reach), 1 - _grown((shares > 0.5).float(), reach)
    behind = _near(colors, outside, reach)
    away = (colors - behind).square().sum(1, keepdim=True).sqrt()
    noise = _near(away, outside, reach)
    contrast = (_near(away, inside, reach) - noise).clamp(min=0)
    seen = ((away - noise) / contrast.clamp(min=1e-6)).clamp(0, 1)
    seen = _closed(seen, max(1, reach // 5))
    sure = contrast.square() / (contrast.square() + _FAINT**2)
    refined = torch.lerp(shares, seen, sure)
    refined = torch.where(inside + outside > 0, shares, refined)
    return (255 * refined).round().to(torch.uint8)


def figure_masks(
    images: UInt8[Tensor, "batch 3 height width"], silhouettes: UInt8[Tensor, "batch 1 height width"]
) -> tuple[Bool[Tensor, "batch rows columns"], Bool[Tensor, "batch rows columns"]]:
    """Where a figure is painted, and where it was to be, at up to 128 x 128.

    The background is a quadratic surface a channel, fitted beyond the silhouette: plain colours and the gradients of
    a studio. What differs from it by more than its own roughness, and what this encloses, is figure.
    """
    scale = min(1.0, _LARGEST / images.shape[-1])
    colors, shares = (_scaled(one, scale) for one in (images, silhouettes))
    asked = shares[:, 0] > 0.5
    outside = 1 - _grown(asked[:, None].float(), max(1, round(REACH * asked.shape[-1])))
    away = (colors - _surface(colors, outside)).square().sum(1).sqrt()
    weight = outside[:, 0] / outside.sum((2, 3)).clamp(min=1)[..., None]
    rough = (weight * away.square()).sum((1, 2), keepdim=True).sqrt()
    differs = away > (_NOISES * rough).clamp(min=_LEAST)
    return _filled(differs, asked), asked


def _surface(
    colors: Float[Tensor, "batch 3 rows columns"], weight: Float[Tensor, "batch 1 rows columns"]
) -> Float[Tensor, "batch 3 rows columns"]:
    """Least squares of 1, x, y, xx, xy, yy, twice: the second time what lies far off counts little."""
    rows, columns = colors.shape[2:]
    down, across = (torch.linspace(-1, 1, count, device=colors.device) for count in (rows, columns))
    y, x = (grid.flatten() for grid in torch.meshgrid(down, across, indexing="ij"))
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    flat, weights = colors.flatten(2).transpose(1, 2), weight.flatten(1)
    fitted = flat
    for _ in range(2):
        normal = torch.einsum("bp,pi,pj->bij", weights, terms, terms) + 1e-4 * torch.eye(6, device=colors.device)
        fitted = terms @ torch.linalg.solve(normal, torch.einsum("bp,pi,bpc->bic", weights, terms, flat))
        off = (flat - fitted).square().sum(2)
        weights = weight.flatten(1) / (1 + off / _FAINT**2).square()
    return fitted.transpose(1, 2).unflatten(2, (rows, columns))


def _filled(
    differs: Bool[Tensor, "batch rows columns"], asked: Bool[Tensor, "batch rows columns"]
) -> Bool[Tensor, "batch rows columns"]:
    """All that cannot be reached over pixels of the background from the border, where no figure was asked for."""
    free = (~differs).float()[:, None]
    border = torch.ones_like(free)
    border[:, :, 1:-1, 1:-1] = 0
    reached = border * free * (~asked[:, None]).float()
    before = -1.0
    while (now := reached.sum().item()) > before:
        before = now
        for _ in range(8):
            reached = F.max_pool2d(reached, 3, 1, 1) * free
    return reached[:, 0] == 0


def _near(
    values: Float[Tensor, "batch channel height width"], weight: Float[Tensor, "batch 1 height width"], reach: int
) -> Float[Tensor, "batch channel height width"]:
    """The mean of `values` over a Gaussian of twice the reach and `weight`; over all of that where it finds none."""
    soft = _blurred(torch.cat([values * weight, weight], 1), 2.0 * reach)
    overall = (values * weight).sum((2, 3), keepdim=True) / weight.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(soft[:, -1:] > 1e-4, soft[:, :-1] / soft[:, -1:].clamp(min=1e-4), overall)


def _blurred(
    values: Float[Tensor, "batch channel height width"], sigma: float
) -> Float[Tensor, "batch channel height width"]:
    radius = round(2.5 * sigma)
    at = torch.arange(-radius, radius + 1, device=values.device)
    kernel = torch.exp(-0.5 * (at / sigma).square())
    kernel = (kernel / kernel.sum()).to(values)
    count = values.shape[1]
    rows = F.conv2d(values, kernel.view(1, 1, 1, -1).expand(count, 1, 1, -1), padding=(0, radius), groups=count)
    return F.conv2d(rows, kernel.view(1, 1, -1, 1).expand(count, 1, -1, 1), padding=(radius, 0), groups=count)


def _grown(mask: Float[Tensor, "batch 1 height width"], reach: int) -> Float[Tensor, "batch 1 height width"]:
    return F.max_pool2d(mask, 2 * reach + 1, 1, reach)


def _closed(mask: Float[Tensor, "batch 1 height width"], reach: int) -> Float[Tensor, "batch 1 height width"]:
    """Without the specks that have the background's colour by chance."""
    return 1 - _grown(1 - _grown(mask, reach), reach)


def _scaled(images: UInt8[Tensor, "batch channel height width"], scale: float) -> Tensor:
    colors = images.float() / 255
    return colors if scale == 1 else F.interpolate(colors, scale_factor=scale, mode="bilinear", antialias=True)
