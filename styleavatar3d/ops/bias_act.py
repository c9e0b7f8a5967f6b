"""Scale, noise, bias, activation, gain and clamp in one pass: what surrounds every convolution of the StyleGAN2 family.

    y = clamp(gain * activation(x * scale + noise + bias))

For backward the operator keeps the result, whose sign tells the slope of activations of straight pieces, and x only if
there is a scale. On a CPU a kernel takes float32 with channels last; elsewhere and for curved activations it is plain
PyTorch. Derivatives exist to any order, so R1 and gradient penalties work through it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops._build import cpu_kernels

NO_CLAMP = -1.0
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


class Activation(NamedTuple):
    """`slope` is the derivative as a function of the input; None says that the sign of the result tells it."""

    value: Callable[[Tensor, float], Tensor]
    slope: Callable[[Tensor], Tensor] | None
    gain: float = 1.0
    alpha: float = 1.0


def _swish_slope(u: Tensor) -> Tensor:
    gate = u.sigmoid()
    return gate * (1 + u * (1 - gate))


def _selu_slope(u: Tensor) -> Tensor:
    return _SELU_SCALE * torch.where(u > 0, torch.ones_like(u), _SELU_ALPHA * u.clamp(max=0).exp())


ACTIVATIONS = {
    "linear": Activation(lambda u, alpha: u, None),
    "relu": Activation(lambda u, alpha: u.relu(), None, gain=math.sqrt(2), alpha=0.0),
    "lrelu": Activation(F.leaky_relu, None, gain=math.sqrt(2), alpha=0.2),
    "tanh": Activation(lambda u, alpha: u.tanh(), lambda u: 1 - u.tanh().square()),
    "sigmoid": Activation(lambda u, alpha: u.sigmoid(), lambda u: u.sigmoid() * (1 - u.sigmoid())),
    "elu": Activation(
        lambda u, alpha: F.elu(u), lambda u: torch.where(u > 0, torch.ones_like(u), u.clamp(max=0).exp())
    ),
    "selu": Activation(lambda u, alpha: F.selu(u), _selu_slope),
    "softplus": Activation(lambda u, alpha: F.softplus(u), lambda u: u.sigmoid()),
    "swish": Activation(lambda u, alpha: u.sigmoid() * u, _swish_slope, gain=math.sqrt(2)),
}
"""default gains keep the variance of a standard normal input, where the activation loses some"""


def bias_act(
    x: Float[Tensor, "*shape"],
    bias: Float[Tensor, "channel"] | None = None,
    *,
    scale: Float[Tensor, "batch channel"] | None = None,
    noise: Float[Tensor, "*#batch #height #width"] | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Float[Tensor, "*shape"]:
    """Add `bias` along `dim`, activate, multiply by `gain`, clamp to +-`clamp`; unset values are those of ACTIVATIONS.

    Before, each channel of each picture [batch, channel, height, width] is multiplied by its `scale`, and `noise`, one
    picture for all channels, is added. `alpha` is the slope of lrelu below zero. Raises StyleAvatarError for an unknown
    activation.
    """
    settings = _settings(act, alpha, gain, clamp)
    if ACTIVATIONS[act].slope is not None:
        x, scale, noise = _scaled(x, scale, noise), None, None
    elif not torch.is_grad_enabled() and _fits(x, dim, bias, scale, noise):
        return cpu_kernels().bias_act(x, bias, scale, noise, *settings)
    return torch.ops.styleavatar3d.bias_act(x, bias, dim, act, *settings, scale, noise)


def bias_act_reference(
    x: Float[Tensor, "*shape"],
    bias: Float[Tensor, "channel"] | None = None,
    *,
    scale: Float[Tensor, "batch channel"] | None = None,
    noise: Float[Tensor, "*#batch #height #width"] | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Float[Tensor, "*shape"]:
    """What `bias_act` means, in plain PyTorch."""
    slope_below, factor, limit = _settings(act, alpha, gain, clamp)
    u = _biased(_scaled(x, scale, noise), bias, dim)
    y = ACTIVATIONS[act].value(u, slope_below) * factor
    return y if limit == NO_CLAMP else y.clamp(-limit, limit)


def _settings(act: str, alpha: float | None, gain: float | None, clamp: float | None) -> tuple[float, float, float]:
    """Slope below zero, gain, clamp."""
    if act not in ACTIVATIONS:
        raise StyleAvatarError("there is no such activation", got=act, expected=", ".join(ACTIVATIONS))
    defaults = ACTIVATIONS[act]
    return (
        defaults.alpha if alpha is None or act != "lrelu" else float(alpha),
        defaults.gain if gain is None else float(gain),
        NO_CLAMP if clamp is None else float(clamp),
    )


def _slope_below(act: str, alpha: float) -> float:
    return alpha if act == "lrelu" else ACTIVATIONS[act].alpha


def _scaled(x: Tensor, scale: Tensor | None, noise: Tensor | None) -> Tensor:
    if scale is not None:
        x = x * scale.to(x.dtype)[:, :, None, None]
    return x if noise is None else x + noise.to(x.dtype)


def _biased(x: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype).view([-1 if axis == dim else 1 for axis in range(x.ndim)])


def _fits(x: Tensor, dim: int, *others: Tensor | None) -> bool:
    """Whether the kernel takes these; noise, the last of `others`, is one picture for all or one for each."""
    *_, noise = others
    given = [x, *(part for part in others if part is not None)]
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return (
        x.device.type == "cpu"
        and dim == 1
        and x.ndim in (2, 4)
        and x.numel() > 0
        and all(part.dtype == torch.float32 for part in given)
        and all(part.is_contiguous(memory_format=layout) for part in given if part.shape == x.shape)
        and (noise is None or (noise.shape[-2:] == x.shape[2:] and noise.shape[1:-2] in ((), (1,))))
        and cpu_kernels() is not None
    )


@torch.library.custom_op("styleavatar3d::bias_act", mutates_args=())
def _bias_act(
    x: Tensor, bias: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float,
    scale: Tensor | None, noise: Tensor | None,
) -> Tensor:  # fmt: skip
    if ACTIVATIONS[act].slope is None and _fits(x, dim, bias, scale, noise):
        return cpu_kernels().bias_act(x, bias, scale, noise, _slope_below(act, alpha), gain, clamp)
    y = _biased(_scaled(x, scale, noise), bias, dim)
    if act == "lrelu" and y is not x:
        F.leaky_relu_(y, alpha)
    else:
        y = ACTIVATIONS[act].value(y, alpha)
    y = y.clone() if y is x else y
    if gain != 1:
        y.mul_(gain)
    return y if clamp == NO_CLAMP else y.clamp_(-clamp, clamp)


@_bias_act.register_fake
def _(x, bias, dim, act, alpha, gain, clamp, scale, noise):
    return torch.empty_like(x)


def _save(ctx, inputs, output) -> None:
    x, bias, ctx.dim, ctx.act, *ctx.curve, scale, noise = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.noise_shape, ctx.noise_dtype = (None, None) if noise is None else (noise.shape, noise.dtype)
    if ACTIVATIONS[ctx.act].slope is not None:
        ctx.save_for_backward(x, bias)
    else:
        straight = ctx.act == "linear" and ctx.curve[2] == NO_CLAMP
        ctx.save_for_backward(None if straight else output, None if scale is None else x, scale)


def _backward(ctx, gradient: Tensor):
    wants_bias, *_, wants_scale, wants_noise = ctx.needs_input_grad[1:]
    to_bias = to_scale = to_noise = None
    if ACTIVATIONS[ctx.act].slope is not None:
        x, bias = ctx.saved_tensors
        to_x = gradient * _slope_of_input(_biased(x, bias, ctx.dim), ctx.act, *ctx.curve)
        to_bias = _sum_but(to_x, ctx.dim).to(ctx.bias_dtype) if wants_bias else None
    else:
        result, x, scale = ctx.saved_tensors
        to_x, of_scale, of_noise, of_bias = torch.ops.styleavatar3d.bias_act_backward(
            gradient, result, x if wants_scale else None, scale, wants_noise, wants_bias, ctx.dim, ctx.act, *ctx.curve
        )
        to_bias = of_bias.to(ctx.bias_dtype) if wants_bias else None
        to_scale = of_scale.to(scale.dtype) if wants_scale else None
        to_noise = of_noise.sum_to_size(ctx.noise_shape).to(ctx.noise_dtype) if wants_noise else None
    return to_x, to_bias, None, None, None, None, None, to_scale, to_noise


_bias_act.register_autograd(_backward, setup_context=_save)


# --- the gradients of straight activations, which are linear in what comes from above ---


@torch.library.custom_op("styleavatar3d::bias_act_backward", mutates_args=())
def _bias_act_backward(
    gradient: Tensor, result: Tensor | None, x: Tensor | None, scale: Tensor | None, wants_noise: bool,
    wants_bias: bool, dim: int, act: str, alpha: float, gain: float, clamp: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, scale, noise (of every picture) and bias; empty ones of what is not wanted."""
    gradient = gradient.contiguous(memory_format=_layout(gradient, result, x))
    if _fits(gradient, dim, result, x, scale, None):
        return cpu_kernels().bias_act_backward(
            gradient, result, x, scale, wants_noise, wants_bias, _slope_below(act, alpha), gain, clamp
        )
    upstream = gradient * (gain if result is None else _slope_of_result(result, act, alpha, gain, clamp))
    return (
        upstream if scale is None else upstream * scale.to(upstream.dtype)[:, :, None, None],
        gradient.new_empty(0) if x is None else (upstream * x).sum((2, 3)),
        upstream.sum(1, keepdim=True) if wants_noise else gradient.new_empty(0),
        _sum_but(upstream, dim) if wants_bias else gradient.new_empty(0),
    )


@_bias_act_backward.register_fake
def _(gradient, result, x, scale, wants_noise, wants_bias, dim, act, alpha, gain, clamp):
    batch, *size = gradient.shape
    return (
        torch.empty_like(gradient, memory_format=_layout(gradient, result, x)),
        gradient.new_empty(0 if x is None else gradient.shape[:2]),
        gradient.new_empty((batch, 1, *size[1:]) if wants_noise else 0),
        gradient.new_empty(gradient.shape[dim] if wants_bias else 0),
    )


def _save_backward(ctx, inputs, output) -> None:
    *tensors, _, _, dim, act, alpha, gain, clamp = inputs
    ctx.settings = dim, act, alpha, gain, clamp
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)


def _second_backward(ctx, of_x, of_scale, of_noise, of_bias):
    gradient, result, x, scale = ctx.saved_tensors

    def sloped(g: Tensor) -> Tensor:
        return torch.ops.styleavatar3d.bias_act_backward(g, result, None, None, False, False, *ctx.settings)[0]

    parts = [] if of_noise is None else [of_noise]
    if of_x is not None:
        parts.append(_scaled(of_x, scale, None))
    if of_scale is not None:
        parts.append(_scaled(x, of_scale, None))
    if of_bias is not None:
        parts.append(_biased(gradient.new_zeros(()).expand_as(gradient), of_bias, ctx.settings[0]))
    to_x = _scaled(sloped(gradient), of_scale, None) if of_scale is not None else None
    to_scale = (of_x * sloped(gradient)).sum((2, 3)) if of_x is not None and scale is not None else None
    to_gradient = sloped(sum(parts[1:], parts[0]).expand_as(gradient)) if parts else None
    return to_gradient, None, to_x, to_scale, None, None, None, None, None, None, None


_bias_act_backward.register_autograd(_second_backward, setup_context=_save_backward)


def _layout(gradient: Tensor, *others: Tensor | None) -> torch.memory_format:
    """That of the forward pass, as far as it is known."""
    like = next((part for part in others if part is not None), gradient)
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _sum_but(x: Tensor, dim: int) -> Tensor:
    return x.sum([axis for axis in range(x.ndim) if axis != dim])


def _slope_of_result(y: Tensor, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    y = y.detach()
    slope = torch.full_like(y, gain) if act == "linear" else torch.where(y > 0, gain, gain * alpha).to(y.dtype)
    return slope if clamp == NO_CLAMP else slope * (y.abs() < clamp)


def _slope_of_input(u: Tensor, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    slope = ACTIVATIONS[act].slope(u) * gain  # type: ignore[misc]
    if clamp == NO_CLAMP:
        return slope
    return slope * ((ACTIVATIONS[act].value(u, alpha) * gain).abs() < clamp)
