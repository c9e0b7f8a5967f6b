"""A start for the generator without a discriminator: an encoder looks at one view of a figure, the generator shows
another view of it (a variational auto-encoder, Kingma and Welling 2014, across views).

A GAN that starts from nothing on two cores first carves bands around its heads, because each view alone forgives
them. A generator that is told the other view's pixels and depth finds round heads, hair and the colours of an avatar
within minutes; the discriminator then only has to ask for detail.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from styleavatar3d.config import Strict
from styleavatar3d.gan.backbone import Linear, Mapping, leaky
from styleavatar3d.gan.depth import SOLID, of_rendering
from styleavatar3d.gan.discriminator import Convolution, ResidualBlock
from styleavatar3d.gan.generator import Generator, Jitter
from styleavatar3d.gan.perception import Perception, perceptual_distance
from styleavatar3d.gan.precision import PrecisionConfig
from styleavatar3d.gan.views import Reals, Views
from styleavatar3d.runtime.random import normal

LOG_VARIANCE = (-8.0, 4.0)
"""Where the encoder's logarithms of variances are cut off."""


class EncoderConfig(Strict):
    """`widths[i]`: channels at resolution / 2^i, down to 4 pixels."""

    resolution: int = 32
    widths: tuple[int, ...] = (64, 112, 128, 128)
    rate: float = Field(default=0.002, gt=0)
    """learning rate of encoder and generator"""
    divergence: float = Field(default=3e-5, gt=0)
    """weight of the divergence of codes from a normal distribution, in nats, beside differences in [0, 2]"""
    depth: float = Field(default=0.3, ge=0)
    """weight of the difference of depths; above 0 the data has to bring depth guidance"""

    @model_validator(mode="after")
    def _consistent(self):
        if self.resolution != 4 * 2 ** (len(self.widths) - 1):
            raise ValueError(f"{len(self.widths)} widths end at 4 px only from {4 * 2 ** (len(self.widths) - 1)} px")
        return self


class Encoder(nn.Module):
    """A picture with its mask -> mean and log variance of a latent, and latents -> style codes.

    It has a mapping network of its own; the generator's learns where codes lie when this one is done (`transport`).
    """

    def __init__(self, config: EncoderConfig, z_dim: int, w_dim: int):
        super().__init__()
        self.config, self.precision = config, PrecisionConfig()
        widths = config.widths
        self.entry = Convolution(4, widths[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(i, o) for i, o in zip(widths, widths[1:], strict=False))
        self.last = Convolution(widths[-1], widths[-1], 3)
        self.flat = Linear(widths[-1] * 16, 2 * z_dim)
        self.latent = Linear(2 * z_dim, 2 * z_dim)
        self.map = Mapping(z_dim, w_dim, 2)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"], mask: Float[Tensor, "batch 1 height width"]
    ) -> tuple[Float[Tensor, "batch z"], Float[Tensor, "batch z"]]:
        dtype = self.precision.dtype("encoder", self.last.weight)
        shrink = image.shape[-1] // self.config.resolution
        x = F.avg_pool2d(torch.cat([image, mask * 2 - 1], 1), shrink)
        x = self.entry(x.to(dtype).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        x = leaky(self.flat(self.last(x.to(self.last.weight.dtype)).flatten(1)))
        mean, log_variance = self.latent(x).chunk(2, 1)
        return mean, log_variance.clamp(*LOG_VARIANCE)

    def code(
        self,
        image: Float[Tensor, "batch 3 height width"],
        mask: Float[Tensor, "batch 1 height width"],
        noise: Float[Tensor, "batch z"],
    ) -> tuple[Float[Tensor, "batch w"], Float[Tensor, ""]]:
        """A style code that the picture may have, drawn with `noise`, and the divergence of what it was drawn from."""
        mean, log_variance = self(image, mask)
        return self.map(mean + (log_variance / 2).exp() * noise), divergence(mean, log_variance)


@torch.no_grad()
def codes_of(encoder: Encoder, views: Views, seed: int, draws: int = 4) -> Float[Tensor, "count w"]:
    """Codes that the pictures of a data set and their mirror images may have, `draws` of each."""
    parts, device = [], encoder.flat.weight.device
    for first in range(0, len(views.images), 256):
        images = views.images[first : first + 256].to(device).float() / 127.5 - 1
        masks = views.masks[first : first + 256].to(device).float() / 255
        both = torch.cat([images * masks, (images * masks).flip(-1)]), torch.cat([masks, masks.flip(-1)])
        mean, log_variance = encoder(*both)
        noise = normal(seed, "codes of", first, (draws * len(mean), mean.shape[1])).to(mean)
        latents = mean.repeat(draws, 1) + (log_variance / 2).exp().repeat(draws, 1) * noise
        parts.append(encoder.map(latents))
    return torch.cat(parts)


def divergence(mean: Float[Tensor, "batch z"], log_variance: Float[Tensor, "batch z"]) -> Float[Tensor, ""]:
    """Kullback-Leibler divergence of the codes from a standard normal distribution, in nats an image."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2


def reconstruction_loss(
    generator: Generator,
    encoder: Encoder,
    shown: Reals,
    wanted: Reals,
    noise: Float[Tensor, "batch z"],
    jitter: Jitter,
    plane_resolution: int,
    fade: float,
    perception: Perception | None = None,
    perceived: float = 0.0,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """How far the generator's view from the camera of `wanted` is from it, given a code read from `shown`.

    What `perception` sees counts `perceived` times beside the pixels.
    """
    code, nats = encoder.code(shown.images, shown.masks, noise)
    codes = code[:, None].expand(-1, generator.config.slots, -1)
    planes = generator.planes(codes, resolution=plane_resolution, fade=fade)
    view = generator.render(planes, wanted.labels, wanted.images.shape[-1], jitter=jitter, codes=codes)
    parts = {
        "image": (view.image - wanted.images).abs().mean(),
        "mask": (view.mask - wanted.masks).abs().mean(),
        "divergence": nats,
    }
    weights = {"divergence": encoder.config.divergence}
    if encoder.config.depth:
        depth = of_rendering(view.depth, view.mask, wanted.labels, generator.config.box)
        both = (wanted.masks > SOLID) & (view.mask.detach() > SOLID)
        parts["depth"] = ((depth - wanted.depths).abs() * both).sum() / both.sum().clamp(min=1)
        weights["depth"] = encoder.config.depth
    if perception is not None and perceived:
        with torch.no_grad():
            theirs = perception(wanted.images)
        parts["features"], weights["features"] = perceptual_distance(perception(view.image), theirs), perceived
    loss = torch.stack([weights.get(name, 1.0) * part for name, part in parts.items()]).sum()
    return loss, {f"reconstruction_{name}": part.item() for name, part in parts.items()}
