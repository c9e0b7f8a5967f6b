"""The ancestors' rendering through the fused operator: same numbers as `classic_renderer.render_rays`, sooner.

The operator takes texels `[batch, height, width, slices, channel]` and effective decoder weights, and hands no gradient
to rays; it knows neither culling nor grids of one slice. Where one of these is wanted, the plain twin renders.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.gan.classic_config import ClassicConfig
from styleavatar3d.gan.classic_renderer import Level, RayMaps, stratified_depths
from styleavatar3d.gan.stylegan2 import FullyConnectedLayer
from styleavatar3d.ops.render_planes import Decoder, March, render_planes

_COLORS = {"sigmoid": "sigmoid", "none": "none", "lrelu": "leaky_relu"}


def fusable(config: ClassicConfig, origins: Float[Tensor, "batch rays 3"]) -> bool:
    """Whether the operator can stand in: gradients to cameras need the plain twin."""
    moved = torch.is_grad_enabled() and origins.requires_grad
    return config.rendering.cull is None and config.grid_depth != 1 and not moved


def texels(level: Level, depth: int | None) -> Float[Tensor, "_ height width slices channel"]:
    """The channels of one texel of one slice side by side; a view if the level came out channels last."""
    batch, planes, channels, height, width = level.shape
    slices = depth or 1
    parted = level.view(batch, planes, channels // slices, slices, height, width)
    return parted.permute(0, 4, 5, 1, 3, 2).reshape(batch, height, width, planes * slices, channels // slices)


def effective(first: FullyConnectedLayer, last: FullyConnectedLayer, levels: int) -> Decoder:
    """Weights with their gains; the first layer also divides the sum of levels by their number."""
    assert first.bias is not None and last.bias is not None
    return Decoder(
        (first.weight * (first.gain / levels)).t().contiguous(), first.bias * first.lr_multiplier,
        (last.weight * last.gain).t().contiguous(), last.bias * last.lr_multiplier,
    )  # fmt: skip


def render_fused(
    config: ClassicConfig,
    levels: Sequence[Float[Tensor, "_ _ _ _ _"]],
    decoder: Decoder,
    origins: Float[Tensor, "batch rays 3"],
    directions: Float[Tensor, "batch rays 3"],
    near: Tensor | float,
    far: Tensor | float,
    jitter: Float[Tensor, "#batch #rays coarse"],
    quantiles: Float[Tensor, "#batch #rays fine"],
    density_noise: float = 0.0,
) -> tuple[RayMaps, Tensor]:
    """What `render_rays` gives, from texels."""
    rendering, batch = config.rendering, len(origins)
    first, last = (x if isinstance(x, Tensor) else torch.full_like(origins[..., 0], x) for x in (near, far))
    samples = jitter.shape[-1] + quantiles.shape[-1]
    noise = torch.randn(*first.shape, samples, device=first.device) * density_noise if density_noise else None
    seen = render_planes(
        list(levels), decoder, origins, directions, first, last,
        jitter.expand(batch, -1, -1), quantiles.expand(batch, -1, -1),
        box=rendering.box, depths=(config.grid_depth or 1,) * 3, colors=_COLORS[config.decoder.colors],  # type: ignore[arg-type]
        axes="eg3d" if config.third_plane == "zx" else "distinct", limit=math.inf,
        march=March(
            "eg3d", "disparity" if rendering.disparity else "depth",
            math.inf if rendering.crop is None else rendering.box / 2 - rendering.crop,
        ),
        noise=noise, backdrop=torch.zeros_like(first),
    )  # fmt: skip
    features, hit = seen.features, seen.mask > 0
    depth = torch.where(hit, seen.depth / torch.where(hit, seen.mask, 1.0), float("inf"))
    if rendering.white_background:
        features = features + 1 - seen.mask[..., None]
    features = features * 2 - 1 if config.decoder.colors == "sigmoid" else features
    limits = stratified_depths(near, far, jitter, disparity=rendering.disparity).aminmax()
    return RayMaps(features, seen.mask, depth), torch.stack(limits)
