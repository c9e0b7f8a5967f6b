"""Volume rendering of tri-planes and tri-grids: gather, decode, look closer, composite (EG3D, section 4).

`render_planes` takes the fused kernel where there is one and `render_planes_reference` elsewhere: same numbers to
float32 rounding. Gradients reach planes and decoder; sample depths count as constants.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops import _fused
from styleavatar3d.ops._build import cpu_kernels
from styleavatar3d.ops.composite import Rendering, composite, importance_depths, interval_weights, stratified_depths
from styleavatar3d.ops.sample_planes import sample_planes

Hidden = Literal["softplus", "leaky_relu"]
Colors = Literal["sigmoid", "none"]

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


def render_planes(
    planes: Float[Tensor, "batch height width slices channels"],
    decoder: Decoder,
    origins: Float[Tensor, "batch rays 3"],
    directions: Float[Tensor, "batch rays 3"],
    near: Float[Tensor, "batch rays"],
    far: Float[Tensor, "batch rays"],
    coarse: Float[Tensor, "batch #rays coarse"],
    fine: Float[Tensor, "batch #rays fine"],
    *,
    box: float,
    depths: tuple[int, int, int],
    density_gain: float = 1.0,
    hidden: Hidden = "softplus",
    colors: Colors = "sigmoid",
) -> Rendering:
    """Render the field held by `planes` and `decoder` along rays.

    Args:
        planes: the (x, y), (x, z) and (y, z) planes side by side along `slices`; rows grow with the second axis.
        origins, directions: world units; directions are unit vectors.
        near, far: distances along the ray; near == far is a ray that misses.
        coarse: jitter in [0, 1) inside each equal part of [near, far]; one row per ray, or one shared by an image.
        fine: the same inside each part of equal probability under the coarse weights; may have no samples.
        box: side of the cube that the planes span, world units.
        depths: slices of each plane; 1 is a true plane, more a grid.
        density_gain: factor on softplus(raw - 1), per world unit.
        hidden: activation of the hidden layer; leaky_relu has slope 0.2 and no gain.
        colors: activation of the features; sigmoid is widened to [-0.001, 1.001].

    Raises:
        StyleAvatarError: shapes that do not belong together, an unknown activation.
    """
    _check_field(planes, decoder, origins, depths)
    _check_activations(hidden, colors)
    _check_rays(origins, directions, near, far, coarse, fine)
    rays = (origins, directions, near, far, coarse, fine)
    if not _fits_kernel(planes, decoder, rays):
        return render_planes_reference(
            planes, decoder, *rays, box=box, depths=depths, density_gain=density_gain, hidden=hidden, colors=colors
        )
    planes, decoder = _pad(planes, decoder)
    rays = [part.contiguous() for part in rays]
    features, mask, depth, _ = _fused.render_planes(
        planes, *decoder, *rays, box, list(depths), density_gain, hidden == "leaky_relu", colors == "sigmoid"
    )
    return Rendering(features, mask, depth)


def render_planes_reference(
    planes: Float[Tensor, "batch height width slices channels"],
    decoder: Decoder,
    origins: Float[Tensor, "batch rays 3"],
    directions: Float[Tensor, "batch rays 3"],
    near: Float[Tensor, "batch rays"],
    far: Float[Tensor, "batch rays"],
    coarse: Float[Tensor, "batch #rays coarse"],
    fine: Float[Tensor, "batch #rays fine"],
    *,
    box: float,
    depths: tuple[int, int, int],
    density_gain: float = 1.0,
    hidden: Hidden = "softplus",
    colors: Colors = "sigmoid",
) -> Rendering:
    """`render_planes` in plain PyTorch: any device, any float type, differentiable twice."""

    def look(at: Tensor) -> tuple[Tensor, Tensor]:
        points = origins[:, :, None] + at[..., None] * directions[:, :, None]
        features, raw_density = sample_field_reference(
            planes, decoder, points.flatten(1, 2), box=box, depths=depths, hidden=hidden, colors=colors
        )
        return features.unflatten(1, at.shape[1:]), raw_density.unflatten(1, at.shape[1:])

    sample_depths = stratified_depths(near, far, coarse)
    features, raw_density = look(sample_depths)
    if fine.shape[-1]:
        with torch.no_grad():
            weights = interval_weights(sample_depths, raw_density, density_gain)
            fine_depths = importance_depths(sample_depths, weights, fine)
        fine_features, fine_density = look(fine_depths)
        sample_depths, order = torch.cat([sample_depths, fine_depths], -1).sort(-1)
        raw_density = torch.cat([raw_density, fine_density], -1).take_along_dim(order, -1)
        features = torch.cat([features, fine_features], -2).take_along_dim(order[..., None], -2)
    return composite(sample_depths, raw_density, features, far, density_gain)


def sample_field(
    planes: Float[Tensor, "batch height width slices channels"],
    decoder: Decoder,
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depths: tuple[int, int, int],
    hidden: Hidden = "softplus",
    colors: Colors = "sigmoid",
) -> tuple[Float[Tensor, "batch points features"], Float[Tensor, "batch points"]]:
    """Features and raw density (before softplus(raw - 1)) of world points; arguments as in `render_planes`."""
    _check_field(planes, decoder, points, depths)
    _check_activations(hidden, colors)
    needs_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in (planes, *decoder))
    if not needs_gradient and _fits_kernel(planes, decoder, [points]):
        planes, decoder = _pad(planes, decoder)
        leaky, sigmoid = hidden == "leaky_relu", colors == "sigmoid"
        return cpu_kernels().sample_field(planes, list(decoder), points.contiguous(), box, list(depths), leaky, sigmoid)
    return sample_field_reference(planes, decoder, points, box=box, depths=depths, hidden=hidden, colors=colors)


def sample_field_reference(
    planes: Float[Tensor, "batch height width slices channels"],
    decoder: Decoder,
    points: Float[Tensor, "batch points 3"],
    *,
    box: float,
    depths: tuple[int, int, int],
    hidden: Hidden = "softplus",
    colors: Colors = "sigmoid",
) -> tuple[Float[Tensor, "batch points features"], Float[Tensor, "batch points"]]:
    """`sample_field` in plain PyTorch."""
    return decode(sample_planes(planes, points, box=box, depths=depths), decoder, hidden=hidden, colors=colors)


def decode(
    features: Float[Tensor, "*points channels"], decoder: Decoder, *, hidden: Hidden, colors: Colors
) -> tuple[Float[Tensor, "*points features"], Float[Tensor, "*points"]]:
    """Features and raw density that the decoder makes of mean plane features."""
    activations = features @ decoder.hidden_weight + decoder.hidden_bias
    activations = F.softplus(activations) if hidden == "softplus" else F.leaky_relu(activations, LEAKY_SLOPE)
    outputs = (activations @ decoder.output_weight + decoder.output_bias).clamp(-OUTPUT_LIMIT, OUTPUT_LIMIT)
    raw_density, decoded = outputs[..., 0], outputs[..., 1:]
    return (decoded.sigmoid() * 1.002 - 0.001 if colors == "sigmoid" else decoded), raw_density


def _fits_kernel(planes: Tensor, decoder: Decoder, geometry: Sequence[Tensor]) -> bool:
    """Whether the kernel computes this: float32 on a CPU, no gradient to points or rays, sizes that fit."""
    tensors = (planes, *decoder, *geometry)
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not (torch.is_grad_enabled() and any(part.requires_grad for part in geometry))
        and planes.shape[4] <= _fused.MAX_CHANNELS
        and decoder.output_bias.shape[0] - 1 <= _fused.MAX_FEATURES
        and cpu_kernels() is not None
    )


def _pad(planes: Tensor, decoder: Decoder) -> tuple[Tensor, Decoder]:
    """Contiguous planes and decoder whose sizes are multiples of what the kernel takes; zeros change no result."""
    channels = -planes.shape[4] % _fused.CHANNELS_MULTIPLE
    units = -decoder.hidden_bias.shape[0] % _fused.HIDDEN_MULTIPLE
    padded = Decoder(
        F.pad(decoder.hidden_weight, (0, units, 0, channels)).contiguous(),
        F.pad(decoder.hidden_bias, (0, units)).contiguous(),
        F.pad(decoder.output_weight, (0, 0, 0, units)).contiguous(),
        decoder.output_bias.contiguous(),
    )
    return (F.pad(planes, (0, channels)) if channels else planes).contiguous(), padded


def _check_field(planes: Tensor, decoder: Decoder, points: Tensor, depths: tuple[int, int, int]) -> None:
    if planes.dim() != 5 or planes.shape[3] != sum(depths) or len(depths) != 3 or min(depths) < 1:
        raise StyleAvatarError(
            "planes and the slices of each plane do not agree",
            got=f"planes {list(planes.shape)}, depths {tuple(depths)}",
            expected="planes [batch, height, width, slices, channels] with slices = sum of three depths >= 1",
        )
    channels, hidden = planes.shape[4], decoder.hidden_bias.shape[0]
    outputs = decoder.output_bias.shape[0]
    if decoder.hidden_weight.shape != (channels, hidden) or decoder.output_weight.shape != (hidden, outputs):
        raise StyleAvatarError(
            "the decoder does not fit the planes",
            got=f"hidden_weight {list(decoder.hidden_weight.shape)}, output_weight {list(decoder.output_weight.shape)}",
            expected=f"hidden_weight [{channels}, {hidden}], output_weight [{hidden}, {outputs}]",
        )
    if points.dim() != 3 or points.shape[0] != planes.shape[0] or points.shape[2] != 3:
        raise StyleAvatarError(
            "points or rays do not belong to these planes",
            got=f"{list(points.shape)}",
            expected=f"[{planes.shape[0]}, count, 3]",
            remedy="repeat the planes (planes.expand) to look at one figure from several cameras",
        )


def _check_activations(hidden: str, colors: str) -> None:
    for name, value, known in (("hidden", hidden, get_args(Hidden)), ("colors", colors, get_args(Colors))):
        if value not in known:
            raise StyleAvatarError(f"unknown activation of {name}", got=value, expected=" or ".join(known))


def _check_rays(origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, coarse: Tensor, fine: Tensor) -> None:
    batch, rays = origins.shape[:2]
    if directions.shape != origins.shape or near.shape != (batch, rays) or far.shape != (batch, rays):
        raise StyleAvatarError(
            "parts of the rays have different shapes",
            got=f"directions {list(directions.shape)}, near {list(near.shape)}, far {list(far.shape)}",
            expected=f"directions [{batch}, {rays}, 3], near and far [{batch}, {rays}]",
        )
    for name, jitter, least in (("coarse", coarse, 2), ("fine", fine, 0)):
        fits = jitter.dim() == 3 and jitter.shape[0] == batch and jitter.shape[1] in (1, rays)
        if not fits or jitter.shape[2] < least:
            raise StyleAvatarError(
                f"{name} jitter has a wrong shape",
                got=f"{list(jitter.shape)}",
                expected=f"[{batch}, {rays} or 1, at least {least} samples]",
            )
