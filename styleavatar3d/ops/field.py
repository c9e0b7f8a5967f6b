"""The field that planes and a decoder define: features and raw density of any point (EG3D, section 4.1).

`sample_field` takes the compiled kernel where there is one and `sample_field_reference` elsewhere: same numbers to
float32 rounding.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops import _fused
from styleavatar3d.ops.sample_planes import Axes, Levels, as_levels, sample_planes

Hidden = Literal["softplus", "leaky_relu"]
Colors = Literal["none", "sigmoid", "leaky_relu"]

LEAKY_SLOPE = 0.2
OUTPUT_LIMIT = 30.0
"""Decoder outputs are clamped to +-30, where exp is still far from overflow and every activation is flat."""


class Decoder(NamedTuple):
    """Effective weights (equalised-learning-rate gains folded in) of the field's one-hidden-layer network.

    Output 0 is the raw density, the others are features.
    """

    hidden_weight: Float[Tensor, "channels hidden"]
    hidden_bias: Float[Tensor, "hidden"]
    output_weight: Float[Tensor, "hidden outputs"]
    output_bias: Float[Tensor, "outputs"]


def sample_field(
    planes: Levels,
    decoder: Decoder,
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depths: tuple[int, int, int],
    hidden: Hidden = "softplus",
    colors: Colors = "sigmoid",
    axes: Axes = "distinct",
    limit: float = OUTPUT_LIMIT,
) -> tuple[Float[Tensor, "batch points features"], Float[Tensor, "batch points"]]:
    """Features and raw density (before softplus(raw - 1)) of world points; arguments as in `render_planes`."""
    levels = as_levels(planes)
    check_field(levels, decoder, points, depths)
    check_choices(hidden=hidden, colors=colors, axes=axes)
    needs_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (*levels, *decoder))
    if not needs_gradient and _fused.fits(levels, decoder, [points]):
        levels, padded = _fused.pad(levels, decoder)
        numbers, switches = _fused.settings(box=box, limit=limit, hidden=hidden, colors=colors, axes=axes)
        return _fused.sample_field(levels, padded, points.contiguous(), numbers, list(depths), switches)
    return sample_field_reference(
        levels, decoder, points, box=box, depths=depths, hidden=hidden, colors=colors, axes=axes, limit=limit
    )


def sample_field_reference(
    planes: Levels,
    decoder: Decoder,
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depths: tuple[int, int, int],
    hidden: Hidden = "softplus",
    colors: Colors = "sigmoid",
    axes: Axes = "distinct",
    limit: float = OUTPUT_LIMIT,
) -> tuple[Float[Tensor, "batch points features"], Float[Tensor, "batch points"]]:
    """`sample_field` in plain PyTorch."""
    features = sample_planes(planes, points, box=box, depths=depths, axes=axes)
    return decode(features, decoder, hidden=hidden, colors=colors, limit=limit)


def decode(
    features: Float[Tensor, "*points channels"],
    decoder: Decoder,
    *,
    hidden: Hidden,
    colors: Colors,
    limit: float = OUTPUT_LIMIT,
) -> tuple[Float[Tensor, "*points features"], Float[Tensor, "*points"]]:
    """Features and raw density that the decoder makes of plane features."""
    activations = features @ decoder.hidden_weight + decoder.hidden_bias
    activations = F.softplus(activations) if hidden == "softplus" else F.leaky_relu(activations, LEAKY_SLOPE)
    outputs = (activations @ decoder.output_weight + decoder.output_bias).clamp(-limit, limit)
    raw_density, decoded = outputs[..., 0], outputs[..., 1:]
    if colors == "sigmoid":
        decoded = decoded.sigmoid() * 1.002 - 0.001
    elif colors == "leaky_relu":
        decoded = F.leaky_relu(decoded, LEAKY_SLOPE) * math.sqrt(2)
    return decoded, raw_density


def check_field(levels: list[Tensor], decoder: Decoder, points: Tensor, depths: tuple[int, int, int]) -> None:
    """Raise StyleAvatarError unless planes, decoder and points belong together."""
    shapes = [list(level.shape) for level in levels]
    fits = len(depths) == 3 and min(depths) >= 1
    if not levels or not fits or any(len(shape) != 5 or shape[3] != sum(depths) for shape in shapes):
        raise StyleAvatarError(
            "planes and the slices of each plane do not agree",
            got=f"planes {', '.join(map(str, shapes)) or 'of no level'}, depths {tuple(depths)}",
            expected="planes [batch, height, width, slices, channels] with slices = sum of three depths >= 1",
        )
    if any(
        shape[4] != shapes[0][4] or level.dtype != levels[0].dtype for shape, level in zip(shapes, levels, strict=True)
    ):
        raise StyleAvatarError(
            "levels of a pyramid differ in channels or type",
            got=", ".join(f"{shape} {level.dtype}" for shape, level in zip(shapes, levels, strict=True)),
        )
    channels, hidden = shapes[0][4], decoder.hidden_bias.shape[0]
    outputs = decoder.output_bias.shape[0]
    if decoder.hidden_weight.shape != (channels, hidden) or decoder.output_weight.shape != (hidden, outputs):
        raise StyleAvatarError(
            "the decoder does not fit the planes",
            got=f"hidden_weight {list(decoder.hidden_weight.shape)}, output_weight {list(decoder.output_weight.shape)}",
            expected=f"hidden_weight [{channels}, {hidden}], output_weight [{hidden}, {outputs}]",
        )
    batch = points.shape[0]
    if points.dim() != 3 or points.shape[2] != 3 or any(shape[0] not in (1, batch) for shape in shapes):
        raise StyleAvatarError(
            "points or rays do not belong to these planes",
            got=f"{list(points.shape)} for planes {', '.join(map(str, shapes))}",
            expected=f"[{shapes[0][0]}, count, 3], or planes of batch 1",
        )


_CHOICES = {"hidden": Hidden, "colors": Colors, "axes": Axes}


def check_choices(**given: str) -> None:
    """Raise StyleAvatarError if a word is not one of those known."""
    for name, value in given.items():
        if value not in get_args(_CHOICES[name]):
            raise StyleAvatarError(f"unknown {name}", got=value, expected=" or ".join(get_args(_CHOICES[name])))
