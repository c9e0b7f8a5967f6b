"""What a LoRA learns, batch by batch: its pictures and, with prior preservation, what the base model drew before."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.runtime.random import generator, key
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.synthesis.lora_config import LoraConfig
from styleavatar3d.synthesis.lora_model import add_noise, draw, encode, predict
from styleavatar3d.synthesis.lora_pictures import Example

PRIOR = "prior.safetensors"


class Lessons:
    """What is learned: the pictures' latents and, with prior preservation, latents that the base model drew."""

    def __init__(self, pipeline: Any, config: LoraConfig, examples: Sequence[Example], storage: Storage):
        self.pipeline, self.config, self.seed = pipeline, config, config.run.seed
        size = config.data.resolution
        self.prompts = [one.prompt for one in examples]
        self.sizes = torch.tensor([[*one.original, *one.corner, size, size] for one in examples]).float()
        found = [encode(pipeline.vae, one.pixels[None].float() / 127.5 - 1) for one in examples]
        self.mean, self.spread = (torch.cat(each) for each in zip(*found, strict=True))
        self.prior = prior_latents(pipeline, config, storage)

    def loss(self, seen: int) -> Float[Tensor, ""]:
        """The mean squared error of a batch, with the prior's beside it."""
        recipe = self.config.train
        latents, prompts, sizes = self._batch(seen)
        if self.prior is not None:
            known = torch.arange(seen, seen + recipe.batch) % len(self.prior)
            said = recipe.prior.prompts
            latents = torch.cat([latents, self.prior[known]])
            prompts += [said[index % len(said)] for index in known.tolist()]
            side = float(self.config.data.resolution)
            sizes = torch.cat([sizes, torch.tensor([side, side, 0, 0, side, side]).repeat(recipe.batch, 1)])
        noisy, target, times = add_noise(self.pipeline.scheduler, latents, generator(self.seed, "lora noise", seen))
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            guess = predict(self.pipeline, noisy, times, prompts, sizes)
        own, *rest = (guess - target).square().mean((1, 2, 3)).split(recipe.batch)
        return own.mean() + sum(recipe.prior.weight * each.mean() for each in rest)

    def _batch(self, seen: int) -> tuple[Tensor, list[str], Tensor]:
        """Each picture once in every round, in an order of its own; latents, prompts and sizes."""
        count, recipe = len(self.prompts), self.config.train
        places = [divmod(index, count) for index in range(seen, seen + recipe.batch)]
        which = [int(torch.randperm(count, generator=generator(self.seed, "lora order", r))[p]) for r, p in places]
        source = generator(self.seed, "lora latents", seen)
        mean, spread = self.mean[which], self.spread[which]
        latents = mean + spread * torch.randn(mean.shape, generator=source).to(mean)
        unsaid = (torch.rand(recipe.batch, generator=source) < recipe.drop_text).tolist()
        prompts = ["" if drop else self.prompts[index] for drop, index in zip(unsaid, which, strict=True)]
        return latents, prompts, self.sizes[which]


def prior_latents(pipeline: Any, config: LoraConfig, storage: Storage) -> Tensor | None:
    """Latents drawn by the base model, kept in the run so that they are drawn once; None without a prior."""
    from safetensors.torch import load, save

    prior = config.train.prior
    if not prior.pictures:
        return None
    if not storage.exists(PRIOR):
        prompts = [prior.prompts[index % len(prior.prompts)] for index in range(prior.pictures)]
        seeds = [key(config.run.seed, "lora prior", index) for index in range(prior.pictures)]
        with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            drawn = draw(pipeline, prompts, seeds, config.data.resolution, prior.steps, prior.scale)
        storage.publish(PRIOR, save({"latents": drawn.cpu().contiguous()}))
    return load(storage.read(PRIOR))["latents"].to(pipeline.device)
