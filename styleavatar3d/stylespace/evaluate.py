"""How much of an avatar comes back through the style prior."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.runtime.random import normal
from styleavatar3d.stylespace import attributes
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.denoiser import Conditions
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.pairs import load_makers

_GUIDANCE = 2.0


@torch.no_grad()
def measure(config: StyleSpaceConfig, prior: StylePrior, held_out: dict[str, Tensor]) -> dict[str, Any]:
    """Figures on pairs never trained on, each from one sample of the prior, without ranking.

    `explained`: the share of the variance of held-out codes that the denoiser knows from their pictures alone.
    `image_retrieval`: how often the avatar made for a picture, rendered and embedded, is nearest to its own picture
    among `track.retrieval`; `text_retrieval`: the same for captions. `strangers`: see `StylePrior`.
    `attributes_found`: of what can be said of a picture, the share that the estimator finds in the avatar made for
    those words (`attributes_at_random`: in the avatar made for the next picture's words).
    """
    embeddings, count = held_out["embeddings"][:, 0], config.track.retrieval
    figures = {"explained": explained(prior, held_out["codes"], embeddings)}
    if count:
        makers = load_makers(config.data)
        views = embedded_views(prior, makers, prior.conditions(image=embeddings[:count]))
        figures["image_retrieval"] = retrieval(views, prior.statistics.image(embeddings[:count]))
        figures["strangers"] = strangers(views, prior.statistics.image(embeddings[:count]))
        texts = held_out["texts"][:count, 0]
        views = embedded_views(prior, makers, prior.conditions(text=texts))
        figures["text_retrieval"] = retrieval(views, prior.statistics.pictured(texts))
    if count and "seen" in held_out:
        seen = held_out["seen"][:count]
        views = fronts(makers, prior.sample(prior.conditions(attributes=seen), _GUIDANCE))
        words = attributes.read(makers.estimator, views)
        figures |= {"attributes_found": found(words, seen), "attributes_at_random": found(words, seen.roll(1, 0))}
    return figures


def explained(prior: StylePrior, w: Float[Tensor, "batch tokens w"], embeddings: Float[Tensor, "batch clip"]) -> float:
    """1 - mean squared error of the code predicted from pure noise and the picture, in units of the codes' variance."""
    standard = prior.statistics.standard_code(w).expand(-1, prior.tokens, -1)
    wanted = prior.conditions(image=embeddings)
    noise = normal(0, "explained", 0, tuple(standard.shape))
    guess = prior.noise.walk_back(lambda noisy, time: prior.predict(noisy, time, wanted), noise, 1)
    return round(1 - float((guess - standard).square().mean() / standard.square().mean()), 4)


def embedded_views(prior: StylePrior, makers, wanted: Conditions) -> Float[Tensor, "batch clip"]:
    """Standard embeddings of the front views of avatars sampled for conditions."""
    return prior.statistics.image(makers.clip.images(fronts(makers, prior.sample(wanted, _GUIDANCE))))


def fronts(makers, w: Float[Tensor, "batch slots w"]) -> Float[Tensor, "batch 3 height width"]:
    views = []
    for some in w.split(16):
        label = orbit_labels(torch.zeros(len(some)), torch.zeros(len(some)))
        views.append(makers.generator.render(makers.generator.planes(some), label, codes=some).image.cpu())
    return torch.cat(views)


def retrieval(views: Float[Tensor, "batch clip"], wanted: Float[Tensor, "batch clip"]) -> float:
    """How often a view is nearest, by angle, to what it was made for."""
    unit = torch.nn.functional.normalize
    nearest = (unit(views, dim=1) @ unit(wanted, dim=1).T).argmax(1)
    return round((nearest == torch.arange(len(wanted))).float().mean().item(), 4)


def strangers(views: Float[Tensor, "batch clip"], wanted: Float[Tensor, "batch clip"]) -> float:
    """How near the nearest twentieth of views are to pictures that they were not made for (cosine)."""
    unit = torch.nn.functional.normalize
    cosines = unit(views, dim=1) @ unit(wanted, dim=1).T
    return round(cosines[~torch.eye(len(views), dtype=torch.bool)].quantile(0.95).item(), 4)


def found(logits: Float[Tensor, "batch words"], stated: Float[Tensor, "batch words"]) -> float:
    """Of the stated words, the share that is the likeliest of its attribute."""
    best = torch.cat([part == part.amax(1, keepdim=True) for part in attributes.split(logits).values()], 1)
    return round(float((best * stated).sum() / stated.sum().clamp(min=1)), 4)
