"""The compiled renderers as PyTorch operators, differentiable once in planes and decoder.

Lists keep their signatures short: `decoder` holds the four tensors of `Decoder`; `rays` origins, directions, near, far
and backdrop; `samples` coarse, fine and noise (empty for none); `numbers` and `switches` are made by `settings`.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styleavatar3d.ops import _cuda
from styleavatar3d.ops._build import cpu_kernels

CHANNELS_MULTIPLE, HIDDEN_MULTIPLE = {"cpu": 8, "cuda": 16}, 4
MAX_CHANNELS, MAX_FEATURES = 32, {"cpu": 128, "cuda": 35}
COLORS = {"none": 0, "sigmoid": 1, "leaky_relu": 2}


def settings(
    *,
    box: float,
    limit: float,
    hidden: str,
    colors: str,
    axes: str,
    density_gain: float = 1.0,
    crop: float = math.inf,
    sampling: str = "strata",
    spacing: str = "depth",
) -> tuple[list[float], list[int]]:
    """Numbers and switches in the order that the kernels read them."""
    switches = [hidden == "leaky_relu", COLORS[colors], axes == "eg3d", sampling == "eg3d", spacing == "disparity"]
    return [box, density_gain, limit, crop], [int(switch) for switch in switches]


def fits(levels: Sequence[Tensor], decoder: Sequence[Tensor], geometry: Sequence[Tensor]) -> bool:
    """Whether a kernel computes this: float32 (planes also bfloat16), no gradient to rays or samples, fitting sizes."""
    device = levels[0].device
    if device.type not in MAX_FEATURES:
        return False
    numbers = (*decoder, *geometry)
    return (
        levels[0].dtype in (torch.float32, torch.bfloat16)
        and all(part.dtype == torch.float32 for part in numbers)
        and all(part.device == device for part in (*levels, *numbers))
        and not (torch.is_grad_enabled() and any(part.requires_grad for part in geometry))
        and len(levels) <= _cuda.MAX_LEVELS
        and levels[0].shape[4] <= MAX_CHANNELS
        and decoder[3].shape[0] - 1 <= MAX_FEATURES[device.type]
        and (cpu_kernels() if device.type == "cpu" else _cuda.kernels()) is not None
    )


def pad(levels: Sequence[Tensor], decoder: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Contiguous planes and decoder whose sizes are multiples of what the kernels take; zeros change no result."""
    hidden_weight, hidden_bias, output_weight, output_bias = decoder
    channels = -levels[0].shape[4] % CHANNELS_MULTIPLE[levels[0].device.type]
    units = -hidden_bias.shape[0] % HIDDEN_MULTIPLE
    padded = [
        F.pad(hidden_weight, (0, units, 0, channels)).contiguous(),
        F.pad(hidden_bias, (0, units)).contiguous(),
        F.pad(output_weight, (0, 0, 0, units)).contiguous(),
        output_bias.contiguous(),
    ]
    return [(F.pad(level, (0, channels)) if channels else level).contiguous() for level in levels], padded


@torch.library.custom_op("styleavatar3d::render_planes", mutates_args=(), device_types="cpu")
def render_planes(
    levels: Sequence[Tensor],
    decoder: Sequence[Tensor],
    rays: Sequence[Tensor],
    samples: Sequence[Tensor],
    numbers: Sequence[float],
    depths: Sequence[int],
    switches: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features, mask, depth, and the sorted depths and noise of all samples, which backward needs."""
    return cpu_kernels().render_planes(levels, decoder, rays, samples, numbers, depths, switches)


@render_planes.register_kernel("cuda")
def _(levels, decoder, rays, samples, numbers, depths, switches):
    return _cuda.render_planes(levels, decoder, rays, samples, numbers, depths, switches)


@render_planes.register_fake
def _(levels, decoder, rays, samples, numbers, depths, switches):
    near, (coarse, fine, noise) = rays[2], samples
    sample_depths = near.new_empty(*near.shape, coarse.shape[2] + fine.shape[2])
    features = near.new_empty(*near.shape, decoder[3].shape[0] - 1)
    return features, torch.empty_like(near), torch.empty_like(near), sample_depths, torch.empty_like(noise)


@torch.library.custom_op("styleavatar3d::render_planes_backward", mutates_args=(), device_types="cpu")
def render_planes_backward(
    levels: Sequence[Tensor],
    decoder: Sequence[Tensor],
    rays: Sequence[Tensor],
    drawn: Sequence[Tensor],
    pixel_gradients: Sequence[Tensor],
    numbers: Sequence[float],
    depths: Sequence[int],
    switches: Sequence[int],
) -> list[Tensor]:
    """Float32 gradients of the levels, and last of the decoder's numbers in one row; `drawn` is of sorted samples."""
    return cpu_kernels().render_planes_backward(
        levels, decoder, rays, drawn, pixel_gradients, numbers, depths, switches
    )


@render_planes_backward.register_kernel("cuda")
def _(levels, decoder, rays, drawn, pixel_gradients, numbers, depths, switches):
    return _cuda.render_planes_backward(levels, decoder, rays, drawn, pixel_gradients, numbers, depths, switches)


@render_planes_backward.register_fake
def _(levels, decoder, *_):
    row = decoder[0].new_empty(sum(part.numel() for part in decoder))
    return [torch.empty_like(level, dtype=torch.float32) for level in levels] + [row]


def sample_field(
    levels: list[Tensor],
    decoder: list[Tensor],
    points: Tensor,
    numbers: list[float],
    depths: list[int],
    switches: list[int],
) -> tuple[Tensor, Tensor]:
    """Features and raw density of points; no gradients."""
    kernels = cpu_kernels() if points.device.type == "cpu" else _cuda
    return kernels.sample_field(levels, decoder, points, numbers, depths, switches)


def _save(ctx, inputs, output) -> None:
    levels, decoder, rays, _, *ctx.settings = inputs
    ctx.count = len(levels)
    ctx.mark_non_differentiable(*output[3:])
    ctx.save_for_backward(*levels, *decoder, *rays, *output[3:])


def _backward(ctx, features_gradient, mask_gradient, depth_gradient, *_):
    saved, count = ctx.saved_tensors, ctx.count
    levels, decoder, rays, drawn = saved[:count], saved[count : count + 4], saved[count + 4 : -2], saved[-2:]
    pixel_gradients = [part.contiguous() for part in (features_gradient, mask_gradient, depth_gradient)]
    *planes, row = render_planes_backward(
        list(levels), list(decoder), list(rays), list(drawn), pixel_gradients, *ctx.settings
    )
    parts = row.split([part.numel() for part in decoder])
    of_decoder = [part.view_as(like) for part, like in zip(parts, decoder, strict=True)]
    of_levels = [part.to(like.dtype) for part, like in zip(planes, levels, strict=True)]
    return of_levels, of_decoder, [None] * len(rays), [None] * 3, None, None, None


render_planes.register_autograd(_backward, setup_context=_save)
