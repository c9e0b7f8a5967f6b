"""Volume rendering of tri-planes, tri-grids and pyramids: gather, decode, look closer, composite (EG3D, section 4).

`render_planes` takes a fused kernel where there is one and `render_planes_reference` elsewhere: same numbers to
float32 rounding. Gradients reach planes and decoder; sample depths count as constants.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops import _fused
from styleavatar3d.ops.composite import (
    Rendering,
    Sampling,
    Spacing,
    composite,
    importance_depths,
    interval_weights,
    stratified_depths,
)
from styleavatar3d.ops.field import (
    OUTPUT_LIMIT,
    Colors,
    Decoder,
    Hidden,
    check_choices,
    check_field,
    sample_field_reference,
)
from styleavatar3d.ops.sample_planes import Axes, Levels, as_levels

CROPPED = -1000.0
"""raw density outside the crop, as in PanoHead: an interval with one end there is empty too"""


class March(NamedTuple):
    """How rays are sampled (see `composite`); beyond `crop` world units along x or z the volume is empty."""

    sampling: Sampling = "strata"
    spacing: Spacing = "depth"
    crop: float = math.inf


def render_planes(
    planes: Levels,
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
    axes: Axes = "distinct",
    limit: float = OUTPUT_LIMIT,
    march: March = March(),  # noqa: B008
    noise: Float[Tensor, "batch rays samples"] | None = None,
    backdrop: Float[Tensor, "batch rays"] | None = None,
) -> Rendering:
    """Render the field held by `planes` and `decoder` along rays.

    Args:
        planes: one level or several: the (x, y), (x, z) and (y, z) planes side by side along `slices`; rows grow with
            the second axis. float32 or bfloat16. A batch of 1 is seen by all images.
        origins, directions: world units; directions are unit vectors.
        near, far: distances along the ray; near == far is a ray that misses.
        coarse: jitter in [0, 1) inside each equal part of [near, far]; one row per ray, or one shared by an image.
        fine: the same inside each part of equal probability under the coarse weights (EG3D's sampling: quantiles in
            [0, 1], in any order); may have no samples.
        box: side of the cube that the planes span, world units.
        depths: slices of each plane; 1 is a true plane, more a grid.
        density_gain: factor on softplus(raw - 1), per world unit.
        hidden: activation of the hidden layer; leaky_relu has slope 0.2 and no gain.
        colors: activation of the features; sigmoid is widened to [-0.001, 1.001], leaky_relu has gain sqrt(2).
        axes: which plane sees what (see `sample_planes.PLANE_AXES`).
        limit: decoder outputs are clamped to +-limit; infinity for networks trained without.
        march: where rays are sampled, and where the volume ends.
        noise: added to the raw densities of the coarse samples, then of the fine ones.
        backdrop: depth of what is not hit; `far` by default.

    Raises:
        StyleAvatarError: shapes that do not belong together, an unknown word.
    """
    levels = as_levels(planes)
    backdrop = far if backdrop is None else backdrop
    check_field(levels, decoder, origins, depths)
    check_choices(hidden=hidden, colors=colors, axes=axes)
    _check_rays(origins, directions, near, far, backdrop)
    _check_samples(near, coarse, fine, noise, march)
    rays = [origins, directions, near, far, backdrop]
    samples = [coarse, fine, *([] if noise is None else [noise])]
    if not _fused.fits(levels, decoder, [*rays, *samples]):
        return render_planes_reference(
            levels, decoder, origins, directions, near, far, coarse, fine, box=box, depths=depths,
            density_gain=density_gain, hidden=hidden, colors=colors, axes=axes, limit=limit, march=march, noise=noise,
            backdrop=backdrop,
        )  # fmt: skip
    numbers, switches = _fused.settings(
        box=box, limit=limit, hidden=hidden, colors=colors, axes=axes, density_gain=density_gain, crop=march.crop,
        sampling=march.sampling, spacing=march.spacing,
    )  # fmt: skip
    if march.sampling == "eg3d":
        fine, noise = _in_order(fine, noise, coarse.shape[2])
    levels, padded = _fused.pad(levels, decoder)
    samples = [coarse, fine, near.new_empty(0) if noise is None else noise]
    features, mask, depth, *_ = _fused.render_planes(
        levels, padded, [part.contiguous() for part in rays], [part.contiguous() for part in samples], numbers,
        list(depths), switches,
    )  # fmt: skip
    return Rendering(features, mask, depth)


def render_planes_reference(
    planes: Levels,
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
    axes: Axes = "distinct",
    limit: float = OUTPUT_LIMIT,
    march: March = March(),  # noqa: B008
    noise: Float[Tensor, "batch rays samples"] | None = None,
    backdrop: Float[Tensor, "batch rays"] | None = None,
    bend: Callable[[Tensor], Tensor] | None = None,
) -> Rendering:
    """`render_planes` in plain PyTorch: any device, any float type, differentiable twice in planes and decoder.

    `bend` says where the field is read for points [batch, point, 3] of the world; the crop is not bent.
    """

    def look(at: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        points = origins[:, :, None] + at[..., None] * directions[:, :, None]
        read = points.flatten(1, 2) if bend is None else bend(points.flatten(1, 2))
        features, raw_density = sample_field_reference(
            planes, decoder, read, box=box, depths=depths, hidden=hidden, colors=colors, axes=axes,
            limit=limit,
        )  # fmt: skip
        raw_density = raw_density.unflatten(1, at.shape[1:])
        raw_density = raw_density if noise is None else raw_density + noise
        outside = points[..., [0, 2]].abs().amax(-1) > march.crop
        return features.unflatten(1, at.shape[1:]), raw_density.masked_fill(outside, CROPPED)

    parts = coarse.shape[-1], fine.shape[-1]
    coarse_noise, fine_noise = (None, None) if noise is None else noise.split(parts, -1)
    sample_depths = stratified_depths(near, far, coarse, march.sampling, march.spacing)
    features, raw_density = look(sample_depths, coarse_noise)
    if parts[1]:
        with torch.no_grad():
            weights = interval_weights(sample_depths, raw_density, density_gain)
            fine_depths = importance_depths(sample_depths, weights, fine, march.sampling)
        fine_features, fine_density = look(fine_depths, fine_noise)
        sample_depths, order = torch.cat([sample_depths, fine_depths], -1).sort(-1)
        raw_density = torch.cat([raw_density, fine_density], -1).take_along_dim(order, -1)
        features = torch.cat([features, fine_features], -2).take_along_dim(order[..., None], -2)
    return composite(sample_depths, raw_density, features, far if backdrop is None else backdrop, density_gain)


def _in_order(fine: Tensor, noise: Tensor | None, coarse: int) -> tuple[Tensor, Tensor | None]:
    """Quantiles sorted, as the kernels merge them, and the noise of their samples with them."""
    fine, order = fine.sort(-1)
    if noise is None:
        return fine, None
    of_fine = noise[..., coarse:]
    return fine, torch.cat([noise[..., :coarse], of_fine.take_along_dim(order.expand_as(of_fine), -1)], -1)


def _check_rays(origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, backdrop: Tensor) -> None:
    batch, rays = origins.shape[:2]
    if directions.shape != origins.shape or any(part.shape != (batch, rays) for part in (near, far, backdrop)):
        raise StyleAvatarError(
            "parts of the rays have different shapes",
            got=f"directions {list(directions.shape)}, near {list(near.shape)}, far {list(far.shape)}, "
            f"backdrop {list(backdrop.shape)}",
            expected=f"directions [{batch}, {rays}, 3], near, far and backdrop [{batch}, {rays}]",
        )


def _check_samples(near: Tensor, coarse: Tensor, fine: Tensor, noise: Tensor | None, march: March) -> None:
    batch, rays = near.shape
    for name, value, known in (("sampling", march.sampling, Sampling), ("spacing", march.spacing, Spacing)):
        if value not in get_args(known):
            raise StyleAvatarError(f"unknown {name}", got=value, expected=" or ".join(get_args(known)))
    fewest = 4 if march.sampling == "eg3d" and fine.shape[-1] else 2
    for name, jitter, least in (("coarse", coarse, fewest), ("fine", fine, 0)):
        fits = jitter.dim() == 3 and jitter.shape[0] == batch and jitter.shape[1] in (1, rays)
        if not fits or jitter.shape[2] < least:
            raise StyleAvatarError(
                f"{name} jitter has a wrong shape",
                got=f"{list(jitter.shape)}",
                expected=f"[{batch}, {rays} or 1, at least {least} samples]",
            )
    samples = coarse.shape[2] + fine.shape[2]
    if noise is not None and noise.shape != (batch, rays, samples):
        raise StyleAvatarError(
            "density noise has a wrong shape", got=list(noise.shape), expected=f"[{batch}, {rays}, {samples}]"
        )
    if march.spacing == "disparity" and not (near > 0).all():
        raise StyleAvatarError(
            "disparity has no value at the camera", got=f"near down to {near.min().item():g}", expected="near above 0"
        )
