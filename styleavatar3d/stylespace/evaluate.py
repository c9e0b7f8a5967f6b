"""How much of an avatar comes back through the style prior."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.assets import shipped
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.runtime.random import normal
from styleavatar3d.stylespace import codes
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.diffusion import Modality, StylePrior

_GUIDANCE = 2.0


@torch.no_grad()
def measure(config: StyleSpaceConfig, prior: StylePrior, held_out: dict[str, Tensor]) -> dict[str, Any]:
    """Figures on pairs never trained on.

    `explained`: the share of the variance of held-out codes that the denoiser knows from their pictures alone.
    `image_retrieval`: how often the avatar made for a picture, rendered and embedded, is nearest to its own picture
    among `track.retrieval`; `text_retrieval`: the same for captions of the little world.
    """
    embeddings = held_out["embeddings"][:, 0]
    figures = {"explained": explained(prior, held_out["codes"], embeddings)}
    count = config.track.retrieval
    if count:
        from styleavatar3d.encoders.clip import ClipEncoder
        from styleavatar3d.gan.generator import Generator

        generator = Generator.from_pretrained(shipped(config.data.generator))
        clip = ClipEncoder.from_pretrained(shipped(config.data.clip))
        # Captions that no statistics were measured on.
        captions = clip.texts(codes.front_captions(config.data.captions + count, config.run.seed)[-count:])
        figures["image_retrieval"] = retrieval(prior, generator, clip, embeddings[:count], "image")
        figures["text_retrieval"] = retrieval(prior, generator, clip, captions, "text")
    return figures


def explained(prior: StylePrior, w: Float[Tensor, "batch w"], embeddings: Float[Tensor, "batch clip"]) -> float:
    """1 - mean squared error of the code predicted from pure noise and the picture, in units of the codes' variance."""
    standard = prior.statistics.standard_code(w)
    last = prior.scheduler.config.num_train_timesteps - 1
    noise = normal(0, "explained", 0, tuple(standard.shape))
    prior.scheduler.set_timesteps(1)
    prediction = prior.predict(noise, torch.tensor(last), prior.statistics.condition(embeddings), 1.0)
    guess = prior.scheduler.step(prediction, last, noise).pred_original_sample
    return round(1 - float((guess - standard).square().mean() / standard.square().mean()), 4)


def retrieval(prior: StylePrior, generator, clip, wanted: Float[Tensor, "batch clip"], modality: Modality) -> float:
    """How often the avatar sampled for an embedding is nearest to that embedding among all of `wanted`."""
    found = []
    for some in prior.sample(wanted, _GUIDANCE, modality=modality).split(16):
        front = orbit_labels(torch.zeros(len(some)), torch.zeros(len(some)))
        found.append(clip.images(generator.render(generator.planes(some), front, codes=some).image))
    centred = torch.nn.functional.normalize(prior.statistics.condition(wanted, modality), dim=1)
    views = torch.nn.functional.normalize(prior.statistics.condition(torch.cat(found)), dim=1)
    nearest = (views @ centred.T).argmax(1)
    return round((nearest == torch.arange(len(wanted))).float().mean().item(), 4)
