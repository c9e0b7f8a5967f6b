"""Two, four or eight times the resolution from composited features (EG3D section 4.3, in a small form of our own)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.backbone import Block, StyledConvolution, ToImage, upsample
from styleavatar3d.gan.recomputation import Thrifty


class SuperResolution(Thrifty):
    """Two styled convolutions around an up-sampling for each doubling; adds detail to the up-sampled raw picture.

    Each doubling has half the channels of the one before. All layers are driven by the last code slot, without noise,
    so that a fixed code gives a fixed look from all views.
    """

    def __init__(self, features: int, width: int, w_dim: int, factor: int = 2):
        super().__init__()
        self.grow = StyledConvolution(features, width, w_dim)
        self.refine = StyledConvolution(width, width, w_dim)
        self.to_image = ToImage(width, 3, w_dim)
        widths = [width >> level for level in range(factor.bit_length() - 1)]
        self.further = nn.ModuleList(Block(i, o, 3, w_dim) for i, o in zip(widths, widths[1:], strict=False))

    def forward(
        self, features: Float[Tensor, "batch feature height width"], code: Float[Tensor, "batch w"], dtype: torch.dtype
    ) -> Float[Tensor, "batch 3 large wide"]:
        """Features in [-1, 1], the first three of which are the raw picture -> picture of `factor` times the size."""
        x, image = self.part(self._first, features, code, dtype)
        for block in self.further:
            x, share = self.part(block, x, code[:, None].expand(-1, 3, -1), dtype)
            image = upsample(image) + share
        return image

    def _first(self, features: Tensor, code: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = upsample(self.grow(features, code, dtype))
        x = self.refine(x, code, dtype)
        return x, upsample(features[:, :3]) + self.to_image(x, code, dtype)
