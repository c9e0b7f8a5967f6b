"""Twice the resolution from composited features (EG3D section 4.3, the small 'x2 hybrid' form)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.backbone import StyledConvolution, ToImage, upsample


class SuperResolution(nn.Module):
    """Two styled convolutions around an up-sampling; adds detail to the up-sampled raw picture.

    All layers are driven by the last code slot, without noise, so that a fixed code gives a fixed look from all views.
    """

    def __init__(self, features: int, width: int, w_dim: int):
        super().__init__()
        self.grow = StyledConvolution(features, width, w_dim)
        self.refine = StyledConvolution(width, width, w_dim)
        self.to_image = ToImage(width, 3, w_dim)

    def forward(
        self, features: Float[Tensor, "batch feature height width"], code: Float[Tensor, "batch w"], dtype: torch.dtype
    ) -> Float[Tensor, "batch 3 height2 width2"]:
        """Features in [-1, 1], the first three of which are the raw picture -> picture of twice the size."""
        x = upsample(self.grow(features, code, dtype))
        x = self.refine(x, code, dtype)
        return upsample(features[:, :3]) + self.to_image(x, code, dtype)
