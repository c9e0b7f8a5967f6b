"""Train the latent codec: an autoencoder from 64 px pictures to 16x16 latents (arXiv:2112.10752, section 3.1)."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.models import build_codec
from styleavatar3d.miniature.pictures import Pictures, coin, draw_indices
from styleavatar3d.miniature.session import Session
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.random import generator


def train_codec(config: MiniatureConfig, pictures: Pictures, held_out: Pictures, world: World) -> dict[str, Any]:
    """Train or resume; returns images, cpu-seconds and the PSNR in dB of held-out pictures."""
    recipe, seed = config.train.codec, config.run.seed
    torch.manual_seed(seed)
    codec = build_codec(config.model).to(memory_format=torch.channels_last)
    nn.init.constant_(codec.quant_conv.bias[config.model.latent_channels :].detach(), -6.0)  # begin with little noise
    session = Session("codec", codec, recipe, config, world)

    for step in session.steps():
        indices = draw_indices(len(pictures), recipe.batch, seed, "codec", step)
        images = pictures.batch(indices)
        images = torch.where(coin(recipe.batch, 0.5, seed, "mirror", step)[:, None, None, None], images.flip(3), images)
        images = images.contiguous(memory_format=torch.channels_last)
        with session.autocast:
            posterior = codec.encode(images).latent_dist
            decoded = codec.decode(posterior.sample(generator(seed, "codec noise", step))).sample
        difference = decoded.float() - images
        pixel = F.smooth_l1_loss(difference, torch.zeros_like(difference), beta=0.1)
        edges = gradient(difference).abs().mean()
        kl = posterior.kl().float().mean() / posterior.mean[0].numel()
        session.learn(pixel + 0.5 * edges + 1e-4 * kl, psnr=psnr(difference), kl=kl)

    quality = evaluate(session.average.eval(), held_out)
    return {**session.spent(), "held_out_psnr": quality}


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
    return round(psnr(codec.decode(codec.encode(images).latent_dist.mode()).sample - images), 2)


@torch.no_grad()
def encode_all(codec: Any, pictures: Pictures, batch: int = 50) -> Float[Tensor, "count channels 16 16"]:
    """The mean latents of all pictures."""
    chunks = torch.arange(len(pictures)).split(batch)
    images = (pictures.batch(chunk).contiguous(memory_format=torch.channels_last) for chunk in chunks)
    return torch.cat([codec.encode(batch).latent_dist.mode().contiguous() for batch in images])


@torch.no_grad()
def standardize(codec: Any, pictures: Pictures) -> None:
    """Give each latent channel mean 0 and spread 1 over these pictures, inside the codec's own 1x1 convolutions.

    So the diffusion's noise means the same in every channel, and stock pipelines need to know nothing of it.
    """
    latents = encode_all(codec, pictures)
    channels = latents.shape[1]
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    encode, decode = codec.quant_conv, codec.post_quant_conv
    encode.bias[:channels] = (encode.bias[:channels] - mean) / spread
    encode.weight[:channels] /= spread[:, None, None, None]
    encode.bias[channels:] -= 2 * spread.log()  # the second half is the logarithm of the variance
    decode.bias += decode.weight[:, :, 0, 0] @ mean
    decode.weight *= spread[None, :, None, None]
