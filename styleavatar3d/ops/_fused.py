"""The compiled renderer as PyTorch operators: float32 on a CPU, differentiable once in planes and decoder."""

import torch
from torch import Tensor

from styleavatar3d.ops._build import cpu_kernels

CHANNELS_MULTIPLE, HIDDEN_MULTIPLE = 8, 4
MAX_CHANNELS, MAX_FEATURES = 32, 128


@torch.library.custom_op("styleavatar3d::render_planes", mutates_args=(), device_types="cpu")
def render_planes(
    planes: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    coarse: Tensor,
    fine: Tensor,
    box: float,
    depths: list[int],
    density_gain: float,
    leaky: bool,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, mask, depth, and the sorted depths of all samples, which backward needs."""
    decoder = [hidden_weight, hidden_bias, output_weight, output_bias]
    rays = [origins, directions, near, far]
    return cpu_kernels().render_planes(planes, decoder, rays, coarse, fine, box, depths, density_gain, leaky, sigmoid)


@render_planes.register_fake
def _(
    planes, hidden_weight, hidden_bias, output_weight, output_bias, origins, directions, near, far, coarse, fine, *_
):  # fmt: skip
    samples = coarse.shape[2] + fine.shape[2]
    features = near.new_empty(*near.shape, output_bias.shape[0] - 1)
    return features, torch.empty_like(near), torch.empty_like(near), near.new_empty(*near.shape, samples)


@torch.library.custom_op("styleavatar3d::render_planes_backward", mutates_args=(), device_types="cpu")
def render_planes_backward(
    planes: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    output_weight: Tensor,
    output_bias: Tensor,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    sample_depths: Tensor,
    features_gradient: Tensor,
    mask_gradient: Tensor,
    depth_gradient: Tensor,
    box: float,
    depths: list[int],
    density_gain: float,
    leaky: bool,
    sigmoid: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the planes, and of the decoder's numbers in one row."""
    decoder = [hidden_weight, hidden_bias, output_weight, output_bias]
    rays = [origins, directions, near, far]
    pixels = [features_gradient.contiguous(), mask_gradient.contiguous(), depth_gradient.contiguous()]
    return cpu_kernels().render_planes_backward(
        planes, decoder, rays, sample_depths, pixels, box, depths, density_gain, leaky, sigmoid
    )


@render_planes_backward.register_fake
def _(planes, hidden_weight, hidden_bias, output_weight, output_bias, *_):
    numbers = sum(part.numel() for part in (hidden_weight, hidden_bias, output_weight, output_bias))
    return torch.empty_like(planes), planes.new_empty(numbers)


def _save(ctx, inputs, output) -> None:
    *tensors, box, depths, density_gain, leaky, sigmoid = inputs
    ctx.save_for_backward(*tensors[:9], output[3])
    ctx.mark_non_differentiable(output[3])
    ctx.settings = (box, depths, density_gain, leaky, sigmoid)


def _backward(ctx, features_gradient, mask_gradient, depth_gradient, _):
    *field_and_rays, sample_depths = ctx.saved_tensors
    planes, row = render_planes_backward(
        *field_and_rays, sample_depths, features_gradient, mask_gradient, depth_gradient, *ctx.settings
    )
    decoder = field_and_rays[1:5]
    parts = row.split([part.numel() for part in decoder])
    not_differentiated = [None] * 11
    return planes, *(part.view_as(like) for part, like in zip(parts, decoder, strict=True)), *not_differentiated


render_planes.register_autograd(_backward, setup_context=_save)
