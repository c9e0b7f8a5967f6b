"""The latent codec: a fixed linear transform from 64 px pictures to 16x16 latents, and a decoder trained to undo it.

A learned encoder finds latents that its decoder reads well, not ones that a diffusion model predicts well: small errors
become lumps. Principal components of 4x4 patches are smooth, and an error in them is as small an error in the picture;
the decoder sees noisy latents in training, so that it mends such errors too.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.models import LATENT_SCALE, PATCH_NUMBERS, build_codec
from styleavatar3d.miniature.pictures import Pictures, coin, draw_indices
from styleavatar3d.miniature.session import Session
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.random import generator

FITTED = 4000
"""Pictures whose patches give the transform."""
NOISE = 0.3
"""Most noise in the latents that the decoder is trained on; the latents' own spread is 1."""


def train_codec(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds and the PSNR in dB of held-out pictures."""
    recipe, seed = config.train.codec, config.run.seed
    torch.manual_seed(seed)
    codec = build_codec(config.model).to(world.device, memory_format=torch.channels_last)
    codec.encoder.requires_grad_(False)
    set_transform(codec, pictures.batch(torch.arange(len(pictures))[:: max(1, len(pictures) // FITTED)]))
    session = Session("codec", codec, recipe, config, world)

    for step in session.steps():
        indices = draw_indices(len(pictures), recipe.batch, seed, "codec", step)
        images = pictures.batch(indices)
        mirrored = coin(recipe.batch, 0.5, seed, "mirror", step).to(world.device)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = disturb(codec.encode(images).latents, seed, step)
        with session.autocast:
            decoded = codec.decode(latents).sample
        difference = decoded.float() - images
        pixel = F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=0.1)
        edges = gradient(difference).abs().mean()
        session.learn(pixel + 0.5 * edges, psnr=psnr(difference))

    quality = evaluate(session.average.eval(), held_out)
    return {**session.spent(), "held_out_psnr": quality}


@torch.no_grad()
def set_transform(codec: Any, images: Float[Tensor, "batch 3 64 64"]) -> None:
    """Make the encoder the first principal components of these pictures' 4x4 patches.

    Two strided convolutions gather a patch's 48 numbers, the last one projects them. A component is divided by the root
    of its spread, half-way to white: the fine ones are raised above the diffusion's last noise, without making them as
    important as the coarse ones.
    """
    gather, half, quarter, project = codec.encoder.layers
    for layer in (gather, half, quarter, project):
        for weights in layer.parameters():
            weights.zero_()
    gather.weight[range(3), range(3), 1, 1] = 1
    for layer, channels in ((half, 3), (quarter, 12)):
        for number in range(4 * channels):
            layer.weight[number, number // 4, 1 + number % 4 // 2, 1 + number % 2] = 1
    patches = F.pixel_unshuffle(F.pixel_unshuffle((images + 1) / 2, 2), 2).movedim(1, -1).reshape(-1, PATCH_NUMBERS)
    mean = patches.mean(0)
    spread, components = principal_components(patches - mean, codec.config["latent_channels"])
    scale = spread.sqrt() * (spread.mean().sqrt() * LATENT_SCALE)
    project.weight[:, :, 1, 1] = components / scale[:, None]
    project.bias[:] = -(components @ mean) / scale


def principal_components(
    centred: Float[Tensor, "count numbers"], count: int
) -> tuple[Float[Tensor, "components"], Float[Tensor, "components numbers"]]:
    """The standard deviation along the `count` widest directions, and these directions."""
    variance, directions = torch.linalg.eigh((centred.T @ centred / len(centred)).double())
    return variance.flip(0)[:count].sqrt().float(), directions.flip(1)[:, :count].T.float()


def disturb(latents: Float[Tensor, "batch channels 16 16"], seed: int, step: int) -> Tensor:
    """Latents with noise of up to `NOISE`, as much for all numbers of one picture."""
    source = generator(seed, "codec noise", step)
    strength = NOISE / LATENT_SCALE * torch.rand(len(latents), 1, 1, 1, generator=source)
    return latents + (strength * torch.randn(latents.shape, generator=source)).to(latents.device)


def gradient(images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "numbers"]:
    """Differences of neighbouring pixels, right and down."""
    return torch.cat([images.diff(dim=2).flatten(), images.diff(dim=3).flatten()])


def psnr(difference: Float[Tensor, "batch 3 height width"]) -> float:
    """Peak signal to noise in dB, for pictures in [-1, 1]."""
    return -10 * math.log10(difference.detach().pow(2).mean().item() / 4 + 1e-12)


@torch.no_grad()
def evaluate(codec: Any, pictures: Pictures) -> float:
    """PSNR in dB of the first 200 pictures through the codec."""
    images = pictures.batch(torch.arange(min(200, len(pictures))))
    return round(psnr(codec.decode(codec.encode(images).latents).sample - images), 2)


@torch.no_grad()
def encode_all(codec: Any, pictures: Pictures, batch: int = 50) -> Float[Tensor, "count channels rows columns"]:
    """The latents of all pictures as the diffusion sees them: their spread is about 1."""
    chunks = torch.arange(len(pictures)).split(batch)
    images = (pictures.batch(chunk).contiguous(memory_format=torch.channels_last) for chunk in chunks)
    return torch.cat([LATENT_SCALE * codec.encode(batch).latents.contiguous() for batch in images])
