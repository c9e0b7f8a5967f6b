"""Bias, activation, gain and clamp in one pass: what follows every convolution of the StyleGAN2 family.

    y = clamp(gain * activation(x + bias))

The operator keeps one tensor for backward: the result, for activations of straight pieces. Derivatives of any order are
plain PyTorch, so R1 and gradient penalties work through it.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError

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
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Float[Tensor, "*shape"]:
    """Add `bias` along `dim`, activate, multiply by `gain`, clamp to +-`clamp`; unset values are those of ACTIVATIONS.

    `alpha` is the slope of lrelu below zero. Raises StyleAvatarError for an unknown activation.
    """
    return torch.ops.styleavatar3d.bias_act(x, bias, dim, act, *_settings(act, alpha, gain, clamp))


def bias_act_reference(
    x: Float[Tensor, "*shape"],
    bias: Float[Tensor, "channel"] | None = None,
    *,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Float[Tensor, "*shape"]:
    """What `bias_act` means, in plain PyTorch."""
    slope_below, factor, limit = _settings(act, alpha, gain, clamp)
    y = ACTIVATIONS[act].value(_biased(x, bias, dim), slope_below) * factor
    return y if limit == NO_CLAMP else y.clamp(-limit, limit)


def _settings(act: str, alpha: float | None, gain: float | None, clamp: float | None) -> tuple[float, float, float]:
    if act not in ACTIVATIONS:
        raise StyleAvatarError("there is no such activation", got=act, expected=", ".join(ACTIVATIONS))
    defaults = ACTIVATIONS[act]
    return (
        defaults.alpha if alpha is None else float(alpha),
        defaults.gain if gain is None else float(gain),
        NO_CLAMP if clamp is None else float(clamp),
    )


def _biased(x: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype).view([-1 if axis == dim else 1 for axis in range(x.ndim)])


@torch.library.custom_op("styleavatar3d::bias_act", mutates_args=())
def _bias_act(x: Tensor, bias: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    y = _biased(x, bias, dim)
    if act == "lrelu" and y is not x:
        F.leaky_relu_(y, alpha)
    else:
        y = ACTIVATIONS[act].value(y, alpha)
    y = y.clone() if y is x else y
    if gain != 1:
        y.mul_(gain)
    return y if clamp == NO_CLAMP else y.clamp_(-clamp, clamp)


@_bias_act.register_fake
def _(x, bias, dim, act, alpha, gain, clamp):
    return torch.empty_like(x)


def _save(ctx, inputs, output) -> None:
    x, bias, ctx.dim, ctx.act, ctx.alpha, ctx.gain, ctx.clamp = inputs
    ctx.of_result = ACTIVATIONS[ctx.act].slope is None
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(*((output, None) if ctx.of_result else (x, bias)))


def _backward(ctx, gradient: Tensor):
    first, bias = ctx.saved_tensors
    if ctx.of_result:
        slope = _slope_of_result(first, ctx.act, ctx.alpha, ctx.gain, ctx.clamp)
    else:
        slope = _slope_of_input(_biased(first, bias, ctx.dim), ctx.act, ctx.alpha, ctx.gain, ctx.clamp)
    to_x = gradient * slope
    to_bias = None
    if ctx.bias_dtype is not None and ctx.needs_input_grad[1]:
        to_bias = to_x.sum([axis for axis in range(to_x.ndim) if axis != ctx.dim]).to(ctx.bias_dtype)
    return to_x, to_bias, None, None, None, None, None


def _slope_of_result(y: Tensor, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    y = y.detach()
    slope = torch.full_like(y, gain) if act == "linear" else torch.where(y > 0, gain, gain * alpha).to(y.dtype)
    return slope if clamp == NO_CLAMP else slope * (y.abs() < clamp)


def _slope_of_input(u: Tensor, act: str, alpha: float, gain: float, clamp: float) -> Tensor:
    slope = ACTIVATIONS[act].slope(u) * gain  # type: ignore[misc]
    if clamp == NO_CLAMP:
        return slope
    return slope * ((ACTIVATIONS[act].value(u, alpha) * gain).abs() < clamp)


_bias_act.register_autograd(_backward, setup_context=_save)
