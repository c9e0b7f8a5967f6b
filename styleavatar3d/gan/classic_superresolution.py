"""Super-resolution of the ancestors (EG3D section 4.3): two synthesis blocks that the last style drives."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.classic_config import ClassicSuperResolution
from styleavatar3d.gan.resampling import resize
from styleavatar3d.gan.stylegan2 import RESAMPLING_TAPS, SynthesisBlock
from styleavatar3d.ops.upfirdn2d import make_filter

WIDTHS = {"2x": (128, 64), "4x": (128, 64), "8x": (128, 64), "8xdc": (256, 128)}
GROWTH = {"2x": (1, 2), "4x": (1, 2), "8x": (2, 2), "8xdc": (2, 2)}
"""by how much each block multiplies the size"""


class ClassicSuperResolutionModule(nn.Module):
    """Features and raw image -> image."""

    def __init__(self, config: ClassicSuperResolution, *, features: int, w_dim: int, input_resolution: int):
        super().__init__()
        self.config, self.input_resolution = config, input_resolution
        if config.module != "8xdc":
            self.register_buffer(
                "resample_filter", make_filter(RESAMPLING_TAPS)
            )  # unused, but published weights hold it
        (first, second), (grow, grow_again) = WIDTHS[config.module], GROWTH[config.module]
        sizes = {"w_dim": w_dim, "image_channels": 3, "clamp": config.clamp}
        resolution = input_resolution * grow
        self.block0 = SynthesisBlock(features, first, resolution=resolution, up=grow, **sizes)
        self.block1 = SynthesisBlock(first, second, resolution=resolution * grow_again, up=grow_again, **sizes)

    def forward(
        self,
        raw: Float[Tensor, "batch 3 rows columns"],
        features: Float[Tensor, "batch feature rows columns"],
        codes: Float[Tensor, "batch slots w"],
    ) -> Float[Tensor, "batch 3 height width"]:
        if self._needs_resize(features.shape[-1]):
            mode = "antialiased" if self.config.antialias else "none"
            raw, features = (resize(x, self.input_resolution, mode) for x in (raw, features))
        last = codes[:, -1:].expand(-1, 3, -1)
        x, image = features.contiguous(memory_format=torch.channels_last), raw
        for block in (self.block0, self.block1):
            x, image = block(x, image, last, self.config.noise)
        return image

    def _needs_resize(self, size: int) -> bool:
        """The 4x module takes larger input as it is, and gives a larger image."""
        return size < self.input_resolution if self.config.module == "4x" else size != self.input_resolution
