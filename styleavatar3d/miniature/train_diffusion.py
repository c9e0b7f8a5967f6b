"""Train the latent diffusion: UNet and ControlNet together from the first step (arXiv:2112.10752, arXiv:2302.05543).

The published recipe trains the ControlNet after the UNet, through zero convolutions; on a CPU that second stage is too
slow. Trained together, with the guidance left out now and then, either works without the other.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.models import (
    assemble,
    build_clip,
    build_codec,
    build_controlnet,
    build_scheduler,
    build_unet,
    text_tower,
)
from styleavatar3d.miniature.pictures import Pictures, coin, draw_indices
from styleavatar3d.miniature.session import Session, trained
from styleavatar3d.miniature.train_clip import GuidedClip, tokenize, tokenizer_for
from styleavatar3d.miniature.train_codec import encode_all, standardize
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.random import generator


class Denoiser(nn.Module):
    """UNet and ControlNet as one network."""

    unet: Any
    controlnet: Any

    def __init__(self, unet: Any, controlnet: Any):
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    def forward(
        self, noisy: Float[Tensor, "batch channels 16 16"], time: Int[Tensor, "batch"],
        text: Float[Tensor, "batch tokens width"], guidance: Float[Tensor, "batch 3 64 64"],
    ) -> Float[Tensor, "batch channels 16 16"]:
        down, mid = self.controlnet(noisy, time, text, guidance, return_dict=False)
        return self.unet(
            noisy, time, text, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample


def build_denoiser(config: MiniatureConfig) -> Denoiser:
    """A random denoiser with plain attention: at these sizes 25 % faster on a CPU than the fused one."""
    from diffusers.models.attention_processor import AttnProcessor

    denoiser: Any = Denoiser(build_unet(config.model), build_controlnet(config.model))
    denoiser.unet.set_attn_processor(AttnProcessor())
    return denoiser.to(memory_format=torch.channels_last)


def train_diffusion(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds and the v-prediction error on held-out pictures."""
    recipe, seed = config.train.diffusion, config.run.seed
    torch.manual_seed(seed)
    frozen = Frozen(config, pictures)
    latents = encode_all(frozen.codec, pictures)
    session = Session("diffusion", build_denoiser(config), recipe, config, world)
    share = world.share(recipe.batch)

    for step in session.steps():
        draw = step * world.size + world.rank
        indices = draw_indices(len(pictures), share, seed, "diffusion", draw)
        captions = pictures.captions(indices, seed + 1, draw)
        unsaid = coin(share, config.train.drop_text, seed, "drop text", draw).tolist()
        guidance = pictures.guidance[indices].float() / 255
        guidance[coin(share, config.train.drop_guidance, seed, "drop guidance", draw)] = 0
        text = frozen.text(["" if drop else caption for drop, caption in zip(unsaid, captions, strict=True)])
        noisy, target, time = frozen.noise(latents[indices], seed, draw)
        with session.autocast:
            guess = session.network(noisy, time, text, guidance)
        session.learn((guess.float() - target).pow(2).mean())

    error = validation_error(session.average.eval(), frozen, held_out, seed)
    return {**session.spent(), "held_out_error": error}


class Frozen:
    """What the diffusion is trained on top of: text tower, codec with standardised latents, noise schedule."""

    def __init__(self, config: MiniatureConfig, pictures: Pictures):
        self.config, self.tokenizer = config, tokenizer_for(config)
        guided = trained("clip", GuidedClip(build_clip(config.model, self.tokenizer), config.model.embedding), config)
        self.clip = guided.clip
        self.tower = text_tower(self.clip)
        self.codec = trained("codec", build_codec(config.model), config).to(memory_format=torch.channels_last)
        standardize(self.codec, pictures.part(0, 1000))
        self.alphas = build_scheduler().alphas_cumprod

    @torch.no_grad()
    def text(self, captions: list[str]) -> Float[Tensor, "batch tokens width"]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.train.precision == "bf16"):
            return self.tower(tokenize(self.tokenizer, captions)).last_hidden_state.float()

    def noise(
        self, latents: Float[Tensor, "batch channels 16 16"], seed: int, draw: int
    ) -> tuple[Float[Tensor, "batch channels 16 16"], Float[Tensor, "batch channels 16 16"], Int[Tensor, "batch"]]:
        """Noisy latents, the velocity to predict (arXiv:2202.00512, eq. 2 in appendix D) and the times."""
        source = generator(seed, "diffusion noise", draw)
        time = torch.randint(len(self.alphas), (len(latents),), generator=source)
        noise = torch.randn(latents.shape, generator=source)
        signal = self.alphas[time].sqrt()[:, None, None, None]
        amount = (1 - self.alphas[time]).sqrt()[:, None, None, None]
        return (signal * latents + amount * noise), (signal * noise - amount * latents), time


@torch.no_grad()
def validation_error(denoiser: Any, frozen: Frozen, pictures: Pictures, seed: int) -> float:
    """Mean squared error of the velocity on held-out pictures, with text and guidance."""
    errors = []
    for number, chunk in enumerate(torch.arange(min(256, len(pictures))).split(32)):
        latents = encode_all(frozen.codec, pictures.part(int(chunk[0]), int(chunk[-1]) + 1))
        noisy, target, time = frozen.noise(latents, seed + 2, number)
        text = frozen.text(pictures.captions(chunk, seed + 2, number))
        guess = denoiser(noisy, time, text, pictures.guidance[chunk].float() / 255)
        errors.append((guess - target).pow(2).mean().item())
    return round(sum(errors) / len(errors), 4)


def finished_pipeline(config: MiniatureConfig, pictures: Pictures) -> Any:
    """The trained pipeline, in fp32. Raises StyleAvatarError while a stage is missing."""
    frozen = Frozen(config, pictures)
    denoiser = trained("diffusion", build_denoiser(config), config)
    return assemble(frozen.tokenizer, frozen.clip, frozen.codec, denoiser.unet, denoiser.controlnet)
