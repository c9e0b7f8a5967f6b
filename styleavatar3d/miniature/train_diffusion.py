"""Train the latent diffusion: UNet, ControlNets and text tower together (arXiv:2112.10752, arXiv:2302.05543).

The published recipe trains each ControlNet after the UNet, through zero convolutions; on a CPU that second stage is too
slow. Trained together, with each kind of guidance left out now and then, any of them works without the others.
The text tower starts as that of the small CLIP and learns on: what tells captions apart there, a few words of each, is
too little to bind every colour to its place.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.models import (
    GUIDES,
    IMAGE_SIZE,
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
from styleavatar3d.miniature.train_clip import tokenize, tokenizer_for, trained_clip
from styleavatar3d.miniature.train_codec import encode_all
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.random import generator

Latents = Float[Tensor, "batch channels rows columns"]


class Denoiser(nn.Module):
    """Text tower, UNet and one ControlNet for each kind of guidance, as one network."""

    tower: Any
    unet: Any

    def __init__(self, tower: Any, unet: Any, controlnets: dict[str, Any]):
        super().__init__()
        self.tower, self.unet, self.controlnets = tower, unet, nn.ModuleDict(controlnets)

    def forward(
        self,
        noisy: Latents,
        time: Int[Tensor, "batch"],
        tokens: Int[Tensor, "batch tokens"],
        guides: dict[str, Float[Tensor, "batch 3 height width"]],
        used: dict[str, Bool[Tensor, "batch"]],
    ) -> Latents:
        """The velocity; what a picture has no `used` for is to it as if that ControlNet were not there."""
        text = self.tower(tokens).last_hidden_state
        residuals = []
        for kind, controlnet in self.controlnets.items():
            down, mid = controlnet(noisy, time, text, guides[kind], return_dict=False)
            keep = used[kind].to(mid)[:, None, None, None]
            residuals.append([keep * residual for residual in (*down, mid)])
        *down, mid = [sum(one[1:], one[0]) for one in zip(*residuals, strict=True)]
        return self.unet(
            noisy, time, text, down_block_additional_residuals=tuple(down), mid_block_additional_residual=mid
        ).sample


def build_denoiser(config: MiniatureConfig) -> Denoiser:
    """A random denoiser with plain attention: at these sizes 25 % faster on a CPU than the fused one."""
    from diffusers.models.attention_processor import AttnProcessor

    controlnets = {kind: build_controlnet(config.model) for kind in GUIDES}
    tower = text_tower(build_clip(config.model, tokenizer_for(config)))
    denoiser: Any = Denoiser(tower, build_unet(config.model), controlnets)
    denoiser.unet.set_attn_processor(AttnProcessor())
    return denoiser.to(memory_format=torch.channels_last)


def train_coarse(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """The diffusion at half the resolution; the network is the same, as convolutions take pictures of any size."""
    torch.manual_seed(config.run.seed)
    denoiser = build_denoiser(config)
    denoiser.tower.load_state_dict(text_tower(trained_clip(config)).state_dict())
    return _train("coarse", denoiser, config, pictures.halved(), held_out.halved(), world)


def train_diffusion(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """The diffusion, from where `train_coarse` has come."""
    denoiser = trained("coarse", build_denoiser(config), config).requires_grad_(True)
    return _train("diffusion", denoiser, config, pictures, held_out, world)


def _train(
    stage: str, denoiser: Denoiser, config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World
) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds and the error of the velocity on held-out pictures."""
    recipe, seed = getattr(config.train, stage), config.run.seed
    frozen = Frozen(config, world.device)
    latents = frozen.latents(pictures)
    session = Session(stage, denoiser, recipe, config, world)
    share = world.share(recipe.batch)

    for step in session.steps():
        draw = step * world.size + world.rank
        indices = draw_indices(len(pictures), share, seed, stage, draw)
        captions = pictures.captions(indices, seed + 1, draw)
        unsaid = coin(share, config.train.drop_text, seed, "drop text", draw).tolist()
        used = {kind: ~coin(share, config.train.drop_guidance, seed, f"drop {kind}", draw) for kind in GUIDES}
        tokens = frozen.tokens(["" if drop else caption for drop, caption in zip(unsaid, captions, strict=True)])
        noisy, target, time = frozen.noise(latents[indices], seed, draw)
        with session.autocast:
            guess = session.network(noisy, time, tokens, pictures.guides(indices), used)
        session.learn((guess.float() - target).pow(2).mean())

    error = validation_error(session.average.eval(), frozen, held_out, seed)
    return {**session.spent(), "held_out_error": error}


class Frozen:
    """What the diffusion is trained on top of: tokenizer, codec, noise schedule."""

    def __init__(self, config: MiniatureConfig, device: torch.device):
        self.tokenizer, self.device = tokenizer_for(config), device
        self.codec = trained("codec", build_codec(config.model), config).to(device, memory_format=torch.channels_last)
        self.alphas = build_scheduler().alphas_cumprod

    def tokens(self, captions: list[str]) -> Int[Tensor, "batch tokens"]:
        return tokenize(self.tokenizer, captions).to(self.device)

    def latents(self, pictures: Pictures) -> Float[Tensor, "count channels rows columns"]:
        """Latents of all pictures; those of pictures smaller than the codec's own are brought to its spread."""
        latents = encode_all(self.codec, pictures)
        return latents / latents.std() if pictures.image.shape[-1] < IMAGE_SIZE else latents

    def noise(self, latents: Latents, seed: int, draw: int) -> tuple[Latents, Latents, Int[Tensor, "batch"]]:
        """Noisy latents, the velocity to predict (arXiv:2202.00512, eq. 2 in appendix D) and the times."""
        source = generator(seed, "diffusion noise", draw)
        time = draw_times(len(latents), len(self.alphas), source)
        noise = torch.randn(latents.shape, generator=source).to(self.device)
        kept = self.alphas[time].to(self.device)[:, None, None, None]
        signal, amount = kept.sqrt(), (1 - kept).sqrt()
        return (signal * latents + amount * noise), (signal * noise - amount * latents), time.to(self.device)


def draw_times(count: int, times: int, source: torch.Generator) -> Int[Tensor, "count"]:
    """Times to learn at: on this schedule the logarithm of noise to signal is normal around 0.7 for most of them.

    Ten steps of sampling stay where these are dense (the argument is that of arXiv:2206.00364, section 5). More noise
    than signal, because words are bound to colours there; an even share of all times keeps the ends known.
    """
    level = (0.7 + 1.2 * torch.randn(count, generator=source)).exp().atan() * 2 / math.pi
    even = torch.rand(count, generator=source)
    share = torch.where(torch.rand(count, generator=source) < 0.25, even, level)
    return (share * times).long().clamp(max=times - 1)


@torch.no_grad()
def validation_error(denoiser: Any, frozen: Frozen, pictures: Pictures, seed: int) -> float:
    """Mean squared error of the velocity on held-out pictures, with text and guidance."""
    errors = []
    for number, chunk in enumerate(torch.arange(min(256, len(pictures))).split(32)):
        latents = frozen.latents(pictures.part(int(chunk[0]), int(chunk[-1]) + 1))
        noisy, target, time = frozen.noise(latents, seed + 2, number)
        tokens = frozen.tokens(pictures.captions(chunk, seed + 2, number))
        used = {kind: torch.ones(len(chunk), dtype=torch.bool) for kind in GUIDES}
        guess = denoiser(noisy, time, tokens, pictures.guides(chunk), used)
        errors.append((guess - target).pow(2).mean().item())
    return round(sum(errors) / len(errors), 4)


def finished_pipeline(config: MiniatureConfig) -> tuple[Any, dict[str, Any]]:
    """The trained pipeline and its ControlNets, in fp32. Raises StyleAvatarError while a stage is missing."""
    frozen = Frozen(config, torch.device("cpu"))
    denoiser = trained("diffusion", build_denoiser(config), config)
    return assemble(frozen.tokenizer, denoiser.tower, frozen.codec, denoiser.unet), dict(denoiser.controlnets)
