"""Which part of a step computes in which number format.

Halved are convolutions and the planes that the renderer gathers from: nearly all of the work, and of what they multiply
the sums are taken in float32. What stays in the format of the parameters, and why:

- the mapping network: a code in three digits moves a whole picture, and it costs next to nothing;
- what blocks add to planes and pictures: each share is rounded once, their sum never;
- decoder and compositing along rays: a transmittance is a product of dozens of factors near 1;
- losses, the gradient penalty (whose second derivatives cancel), and the weights that optimisers change.

float16 ends at 65504. Where it is used, activations are kept within `LIMIT` and styles are brought to at most 1 first,
which demodulation undoes (StyleGAN2-ADA, appendix on mixed precision). What overflows all the same is left to `guard`.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError

LIMIT = 256.0
FORMATS = {"bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}
Format = Literal["auto", "fp32", "bf16", "fp16"]


def fast_dtype(precision: str, device: torch.device, parameter: torch.dtype) -> torch.dtype:
    """Number format of convolutions: `auto` is bfloat16 where the hardware multiplies it, else the parameters' own."""
    if precision in FORMATS:
        return FORMATS[precision]
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "auto" and native and parameter == torch.float32 else parameter


class PrecisionConfig(Strict):
    """The format of each part's convolutions while it trains; `auto` leaves it to the model's own `precision`."""

    backbone: Format = "auto"
    super_resolution: Format = "auto"
    renderer: Literal["fp32", "bf16"] = "fp32"
    """of the planes, from which no kernel gathers float16"""
    discriminator: Format = "auto"
    heads: Format = "auto"
    encoder: Format = "auto"

    def dtype(self, part: str, like: Tensor, otherwise: str = "auto") -> torch.dtype:
        """What `part` of a network with parameters like `like` computes in; `otherwise` stands for `auto`."""
        chosen = getattr(self, part)
        return fast_dtype(otherwise if chosen == "auto" else chosen, like.device, like.dtype)

    def check(self, device: torch.device) -> None:
        """Raises StyleAvatarError for a format that the device has no arithmetic for."""
        half = [name for name, chosen in self.model_dump().items() if chosen == "fp16"]
        if half and device.type != "cuda":
            raise StyleAvatarError(
                f"a {device.type} cannot train in float16",
                got=", ".join(f"train.precision.{name} fp16" for name in half),
                expected="fp32 or bf16",
                remedy="use bf16: a convolution in float16 took 80 times as long as in float32 on a CPU",
            )


def bounded(x: Tensor) -> Tensor:
    """Activations within `LIMIT` where they are float16, else as they are."""
    return x.clamp(-LIMIT, LIMIT) if x.dtype == torch.float16 else x


def levelled(styles: Float[Tensor, "batch channel"], dtype: torch.dtype) -> Float[Tensor, "batch channel"]:
    """Styles of at most 1 where they meet float16, for a convolution that demodulates."""
    return styles / styles.abs().amax(1, keepdim=True) if dtype == torch.float16 else styles
