"""The diffusion model: any SD 1.5, SD 2 or SDXL weights, a ControlNet a kind of guidance, one seed a picture."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.random import key
from styleavatar3d.shards.schema import Guidance
from styleavatar3d.synthesis.adapters import use_loras
from styleavatar3d.synthesis.attention import use_attention
from styleavatar3d.synthesis.loading import PipelineConfig, describe, describe_models, fast_dtype, load_parts
from styleavatar3d.synthesis.loop import Control, denoise
from styleavatar3d.synthesis.samplers import Schedule
from styleavatar3d.synthesis.texts import TextEncoder

__all__ = ["PipelineConfig", "SecondPass", "Synthesizer", "describe", "describe_models", "fast_dtype", "resize"]


class SecondPass(Strict):
    """Draw at `size` px first, then scale up, noise by `strength` and denoise again at the size of the guidance."""

    strength: float = Field(default=0.5, gt=0, le=1)
    size: int = Field(default=0, ge=0)
    """side of the first picture; 0 for the same"""


class Synthesizer:
    """A loaded pipeline and its ControlNets, by kind of guidance."""

    def __init__(self, pipeline: Any, controlnets: Mapping[str, Any], attention: str = "sdpa"):
        self.pipeline, self.controlnets = pipeline, dict(controlnets)
        networks = [pipeline.unet, pipeline.vae, *self.controlnets.values()]
        self.attention = use_attention(attention, networks, str(pipeline.device))
        self.texts = TextEncoder(pipeline)
        self._device: torch.device = pipeline.device
        self._codes: torch.dtype = pipeline.vae.dtype  # both are asked once: they walk signatures and all parameters
        self._sums = torch.promote_types(self._codes, torch.float32)
        self._schedule = lru_cache(maxsize=8)(self._make_schedule)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str = "auto",
        dtype: str = "auto",
        controlnets: Mapping[str, str] | None = None,
        **options: Any,
    ) -> "Synthesizer":
        """`load` with a config's fields as arguments."""
        return cls.load(
            PipelineConfig.model_validate(
                {"folder": str(folder), "device": device, "dtype": dtype, "controlnets": controlnets or {}, **options}
            )
        )

    @classmethod
    def load(cls, config: PipelineConfig) -> "Synthesizer":
        """Find, fetch and load all that `config` names; StyleAvatarError if it is not there or does not fit."""
        pipeline, controlnets = load_parts(config)
        return cls(pipeline, controlnets, config.attention)

    def use_loras(self, weights: Mapping[str, float]) -> None:
        """Switch on these loaded LoRAs at these weights from now on, and all others off."""
        use_loras(self.pipeline, weights)
        self.texts.forget()

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        pictures: Mapping[str, UInt8[Tensor, "batch height width 3"]],
        seeds: Sequence[int],
        steps: int,
        scale: float,
        guidance: Sequence[Guidance] = (),
        start: UInt8[Tensor, "batch height width 3"] | None = None,
        strength: float = 1.0,
        again: SecondPass | None = None,
    ) -> UInt8[Tensor, "batch height width 3"]:
        """One picture a prompt, posed by its guidance.

        Args:
            pictures: what the ControlNets look at, by kind
            seeds: one a picture; its noise depends on nothing else
            steps: denoising steps
            scale: classifier-free guidance; up to 1 there is none
            guidance: which ControlNets take part, how strongly and when; by default all of `pictures`, at full strength
            start: pictures to begin with instead of noise; `strength` says for which share of the steps they are noised
            again: a second pass over what comes out
        """
        guidance = guidance or [Guidance(kind=kind, scale=1.0) for kind in pictures]
        height, width = next(iter(pictures.values())).shape[1:3]
        self._check(len(prompts), len(negatives), len(seeds), guidance, pictures)
        if again is not None:
            small = {kind: resize(one, again.size or height, again.size or width) for kind, one in pictures.items()}
            first = self.generate(prompts, negatives, small, seeds, steps, scale, guidance, start, strength)
            start, strength = resize(first, height, width), again.strength
            seeds = [key(seed, "second pass", 0) for seed in seeds]
        schedule = self._schedule(steps, 1.0 if start is None else strength)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = self._begin(schedule, generators, (height, width), start)
        words = self.texts.encode(prompts, negatives if scale > 1 else None, (height, width))
        controls = [
            Control(self.controlnets[one.kind], self._shown(pictures[one.kind]), one.scale, one.start, one.end)
            for one in guidance
        ]
        return self._decode(denoise(self.pipeline.unet, controls, schedule, latents, words, scale, generators))

    def _check(
        self, prompts: int, negatives: int, seeds: int, guidance: Sequence[Guidance], pictures: Mapping[str, Tensor]
    ) -> None:
        if unknown := [one.kind for one in guidance if one.kind not in self.controlnets]:
            raise StyleAvatarError(
                "there is no ControlNet for this guidance",
                got=", ".join(unknown),
                expected=f"one of {', '.join(self.controlnets)}",
                remedy="name its source in model.controlnets",
            )
        counts = {"prompts": prompts, "negatives": negatives, "seeds": seeds}
        counts |= {one.kind: len(pictures[one.kind]) for one in guidance if one.kind in pictures}
        if missing := [one.kind for one in guidance if one.kind not in pictures]:
            raise StyleAvatarError("there are no pictures for this guidance", got=", ".join(missing))
        if len(set(counts.values())) > 1:
            raise StyleAvatarError("a picture needs one of each", got=counts, expected="equal numbers")
        side, sizes = self.pipeline.vae_scale_factor, {tuple(one.shape[1:3]) for one in pictures.values()}
        if len(sizes) > 1 or any(length % side for size in sizes for length in size):
            raise StyleAvatarError(
                "guidance pictures have the wrong size", got=sizes, expected=f"one size, of multiples of {side} px"
            )

    def _shown(self, pictures: Tensor) -> Tensor:
        return pictures.to(self._device).permute(0, 3, 1, 2).float() / 255

    def _make_schedule(self, steps: int, strength: float) -> Schedule:
        return Schedule(self.pipeline.scheduler, steps, self._device, strength)

    def _begin(
        self,
        schedule: Schedule,
        generators: Sequence[torch.Generator],
        size: tuple[int, int],
        start: Tensor | None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The first latents: noise, or pictures with noise. Drawn in float32, so that precision changes no picture."""
        vae = self.pipeline.vae
        held = None
        if start is not None:
            encoded = vae.encode((self._shown(start) * 2 - 1).to(self._codes))
            drawn = encoded.latent_dist.sample(list(generators)) if "latent_dist" in encoded else encoded.latents
            held = drawn.to(self._sums) * vae.config.scaling_factor
        channels, side = self.pipeline.unet.config.in_channels, self.pipeline.vae_scale_factor
        shape = (1, channels, size[0] // side, size[1] // side)
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
        noise = noise.to(self._device, self._sums)
        if held is None:
            return noise * schedule.scheduler.init_noise_sigma
        return schedule.add_noise(held, noise)

    def _decode(self, latents: Tensor) -> UInt8[Tensor, "batch height width 3"]:
        vae = self.pipeline.vae
        images = vae.decode((latents / vae.config.scaling_factor).to(self._codes), return_dict=False)[0]
        images = (images.float() / 2 + 0.5).clamp(0, 1) * 255
        return images.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()


def resize(
    pictures: UInt8[Tensor, "batch height width 3"], height: int, width: int
) -> UInt8[Tensor, "batch tall wide 3"]:
    """The pictures at another size, without aliasing."""
    if tuple(pictures.shape[1:3]) == (height, width):
        return pictures
    scaled = F.interpolate(pictures.permute(0, 3, 1, 2).float(), (height, width), mode="bicubic", antialias=True)
    return scaled.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
