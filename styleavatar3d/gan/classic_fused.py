"""The ancestors' rendering by the fused operator: what `classic_renderer.render_rays` computes, several times faster.

The operator has no depth-1 grids and does not cull; where those are asked for, the plain form has to do.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.classic_config import ClassicConfig
from styleavatar3d.gan.classic_renderer import Level, RayMaps
from styleavatar3d.ops import Decoder, March, render_planes
from styleavatar3d.ops.composite import Spacing, stratified_depths

_COLORS = {"sigmoid": "sigmoid", "none": "none", "lrelu": "leaky_relu"}


def can_fuse(config: ClassicConfig) -> bool:
    """Whether the operator renders these settings."""
    return config.grid_depth != 1 and config.rendering.cull is None


def interleaved(level: Level, depth: int | None) -> Float[Tensor, "#batch height width slices channel"]:
    """A volume's level with the channels of each texel and slice side by side, as the operator gathers them."""
    split = level.unflatten(2, (-1, depth or 1))
    return split.permute(0, 4, 5, 1, 3, 2).flatten(3, 4)


def effective(net: nn.Sequential, levels: int) -> Decoder:
    """A decoder's weights, with its learning-rate gains and the mean over levels multiplied in."""
    first, second = net[0], net[2]
    return Decoder(
        first.weight.T * (first.gain / levels), first.bias * first.lr_multiplier,
        second.weight.T * second.gain, second.bias * second.lr_multiplier,
    )  # fmt: skip


def fused_rays(
    levels: Sequence[Float[Tensor, "#batch _height _width slices channel"]],
    decoder: Decoder,
    config: ClassicConfig,
    origins: Float[Tensor, "batch rays 3"],
    directions: Float[Tensor, "batch rays 3"],
    near: Float[Tensor, "batch rays"] | float,
    far: Float[Tensor, "batch rays"] | float,
    jitter: Float[Tensor, "#batch #rays coarse"],
    quantiles: Float[Tensor, "#batch #rays fine"],
    noise: Float[Tensor, "batch rays samples"] | None = None,
) -> tuple[RayMaps, Float[Tensor, "2"]]:
    """Maps of rays, whose depth is not clamped yet, and the smallest and largest sampled depth.

    `noise` is added to the raw densities of coarse, then fine samples.
    """
    rendering, batch = config.rendering, len(origins)
    near, far = (torch.as_tensor(x).to(origins).expand(origins.shape[:2]) for x in (near, far))
    jitter, quantiles = (x.expand(batch, *x.shape[1:]) for x in (jitter, quantiles))
    spacing: Spacing = "disparity" if rendering.disparity else "depth"
    crop = torch.inf if rendering.crop is None else rendering.box / 2 - rendering.crop
    seen = render_planes(
        levels, decoder, origins, directions, near, far, jitter, quantiles, box=rendering.box,
        depths=(config.grid_depth or 1,) * 3, colors=_COLORS[config.decoder.colors],
        axes="eg3d" if config.third_plane == "zx" else "distinct", limit=torch.inf, noise=noise,
        march=March("eg3d", spacing, crop), backdrop=torch.zeros_like(near),
    )  # fmt: skip
    features = seen.over(1.0) if rendering.white_background else seen.features
    features = features * 2 - 1 if config.decoder.colors == "sigmoid" else features
    hit = seen.mask > 0
    depth = torch.where(hit, seen.depth / torch.where(hit, seen.mask, 1.0), torch.inf)
    ends = stratified_depths(near, far, jitter, "eg3d", spacing)[..., [0, -1]]  # fine samples lie between coarse ones
    return RayMaps(features, seen.mask, depth), torch.stack(ends.detach().aminmax())
