"""Losses and averages of GAN training."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.discriminator import Discriminator


def generator_loss(fake_logits: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Non-saturating logistic loss (Goodfellow et al. 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Float[Tensor, "batch"], fake_logits: Float[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Logistic loss of telling reals from fakes."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def gradient_penalty(
    discriminator: nn.Module | Discriminator,
    pictures: Float[Tensor, "batch channel height width"],
    labels: Float[Tensor, "batch code"],
    fade: float = 1.0,
) -> Float[Tensor, ""]:
    """R1: mean squared norm of d logit / d picture on reals (Mescheder et al. 2018), in full precision.

    The logits stay in the graph with weight 0, so that every parameter receives a gradient: without it the last bias
    has none, and under data-parallel hooks the ranks would silently drift apart.
    """
    pictures = pictures.detach().requires_grad_()
    logits = discriminator(pictures, labels, fade=fade, precise=True)
    (gradient,) = torch.autograd.grad(logits.sum(), pictures, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() + 0 * logits.sum()


def mask_uncertainty(mask: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, ""]:
    """Mean of 4 m (1 - m): 0 where every ray is empty or blocked, 1 where all are half transparent."""
    return (4 * mask * (1 - mask)).mean()


def average_decay(images: int, seen: int, half_life: float, ramp: float = 0.05) -> float:
    """Decay of the moving average over a step of `images`; the half-life is at most `ramp` of the images seen."""
    return 0.5 ** (images / max(min(half_life, ramp * seen), 1e-6))


@torch.no_grad()
def update_average(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `current`."""
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - decay)
