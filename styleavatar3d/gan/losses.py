"""Losses, penalties and averages of GAN training."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError

Points = Float[Tensor, "batch point 3"]


def generator_loss(fake_logits: Float[Tensor, "batch *verdicts"]) -> Float[Tensor, ""]:
    """Non-saturating logistic loss (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(
    real_logits: Float[Tensor, "batch *verdicts"], fake_logits: Float[Tensor, "batch *verdicts"]
) -> Float[Tensor, ""]:
    """Logistic loss of telling reals from fakes."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def wrong_camera_loss(logits: Float[Tensor, "batch"], wrong: Bool[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Logistic loss of reals that were shown with another's camera, as fakes; only where that camera is wrong.

    Without it nothing makes a discriminator look at the camera, and a face on the back of a head may pass.
    """
    return (F.softplus(logits) * wrong).mean()


# --- the gradient penalty R1 (Mescheder et al. 2018) ---


class PenaltyShares(Strict):
    """Strength of the gradient penalty on each thing that the discriminator sees, as multiples of the schedule's."""

    image: float = Field(default=1.0, ge=0)
    raw: float = Field(default=1.0, ge=0)
    mask: float = Field(default=1.0, ge=0)
    depth: float = Field(default=1.0, ge=0)


def penalty_weight(seen: int, batch: int, interval: int) -> int:
    """Lazy regularisation: `interval` in the first of every `interval` steps, 0 in the others (StyleGAN2)."""
    return interval if seen // batch % interval == 0 else 0


def gradient_penalty(
    discriminator: nn.Module,
    pictures: Float[Tensor, "batch channel height width"],
    labels: Float[Tensor, "batch code"],
    fade: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean squared norm of d logit / d picture on reals, in full precision; all channels alike."""
    squares = squared_gradients(
        lambda pictures: discriminator(pictures, labels, fade=fade, precise=True), {"pictures": pictures}
    )
    return squares["pictures"] + reach(discriminator)


def split_penalty(
    discriminator: nn.Module,
    judge: Callable[..., Tensor],
    parts: Mapping[str, Float[Tensor, "batch channel rows columns"]],
    shares: PenaltyShares,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Weighted sum of the squared gradients of `judge(**parts)` in each of its parts, and each one unweighted.

    Parts are called `image`, `raw`, `mask` and `depth` and come at their own size, so that their strengths do not
    depend on what happens to them on the way to the discriminator; parts of share 0 are left out of the sum.
    """
    strengths = shares.model_dump()
    unknown = sorted(set(parts) - set(strengths))
    if unknown:
        raise StyleAvatarError("no penalty has been set for", got=unknown, expected=f"some of {', '.join(strengths)}")
    shown = {name: part for name, part in parts.items() if strengths[name]}
    rest = {name: part for name, part in parts.items() if not strengths[name]}
    squares = squared_gradients(lambda **some: judge(**some, **rest), shown)
    total = sum((strengths[name] * square for name, square in squares.items()), reach(discriminator))
    return total, {f"penalty_{name}": square.item() for name, square in squares.items()}


def squared_gradients(judge: Callable[..., Tensor], parts: Mapping[str, Tensor]) -> dict[str, Float[Tensor, ""]]:
    """Mean over the batch of |d logit / d part|^2, differentiable; `judge` takes the parts by name."""
    leaves = {name: part.detach().requires_grad_() for name, part in parts.items()}
    if not leaves:
        return {}
    gradients = torch.autograd.grad(judge(**leaves).sum(), list(leaves.values()), create_graph=True)
    return {name: g.square().sum((1, 2, 3)).mean() for name, g in zip(leaves, gradients, strict=True)}


def reach(network: nn.Module) -> Float[Tensor, ""]:
    """Zero, but every parameter receives a gradient from it.

    A penalty leaves out parameters that its derivative does not depend on, the last bias for one. Under data-parallel
    hooks a parameter without a gradient keeps its whole bucket from being averaged, and the ranks silently drift apart.
    """
    return 0 * torch.stack([parameter.sum() for parameter in network.parameters()]).sum()


# --- the generator's regularisers ---


def mask_uncertainty(mask: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, ""]:
    """Mean of 4 m (1 - m): 0 where every ray is empty or blocked, 1 where all are half transparent."""
    return (4 * mask * (1 - mask)).mean()


def density_variation(
    density: Callable[[Points], Float[Tensor, "batch point"]],
    places: Float[Tensor, "batch half 3"],
    steps: Float[Tensor, "batch half 3"],
    box: float,
    away: float = 0.004,
) -> Float[Tensor, ""]:
    """Mean absolute difference of the density at random points and at their neighbours (EG3D, supplement).

    `places` are uniform in [0, 1), `steps` standard normal; `box` is the volume's side in world units, and neighbours
    lie `away` of it apart. EG3D takes 1000 points a sample.
    """
    points = (places - 0.5) * box
    here, there = density(torch.cat([points, points + steps * (away * box)], 1)).chunk(2, 1)
    return (here - there).abs().mean()


def batch_mean_penalty(offsets: Float[Tensor, "batch number"], group: int | None = None) -> Float[Tensor, ""]:
    """Squared length of the batch's mean offset: learned camera corrections may differ, but not drift (PanoHead).

    With `group`, of the mean over each run of so many neighbours, so that pieces and processes change nothing.
    """
    runs = offsets.unflatten(0, (-1, group or len(offsets)))
    return runs.mean(1).square().sum(1).mean()


def pose_loss(guessed: Float[Tensor, "batch 6"], used: Float[Tensor, "batch 6"]) -> Float[Tensor, ""]:
    """Mean squared distance between poses: of the discriminator's guess from what the generator used (fakes only), or
    of the generator's choice from the data's (a prior for the start)."""
    return (guessed - used.detach()).square().sum(1).mean()


# --- averages ---


def average_decay(images: int, seen: int, half_life: float, ramp: float = 0.05) -> float:
    """Decay of the moving average over a step of `images`; the half-life is at most `ramp` of the images seen."""
    return 0.5 ** (images / max(min(half_life, ramp * seen), 1e-6))


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `current`."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
