"""Telling the generator from where it will be seen, without letting it rely on that (EG3D section 4.4).

Data whose subjects differ with the camera (people who smile look into it) are modelled by a generator that knows the
camera. It must not paint a billboard for that camera, so in training it is often told another one: swapping.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.gan.backbone import Linear, pixel_norm


class CameraEmbedding(nn.Module):
    """A camera as numbers of unit size beside the latent: what the mapping network reads is [z, embedding]."""

    def __init__(self, width: int):
        super().__init__()
        self.embed = Linear(25, width)

    def forward(self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch 25"]) -> Float[Tensor, "batch both"]:
        """Both parts with unit mean square, so that neither drowns the other."""
        return torch.cat([pixel_norm(z), pixel_norm(self.embed(labels.to(z)))], 1)


def swapped(
    labels: Float[Tensor, "batch 25"],
    others: Float[Tensor, "batch 25"],
    draws: Float[Tensor, "batch"],
    probability: float,
) -> Float[Tensor, "batch 25"]:
    """The camera that the generator is told: another one of the data with `probability`, else the one it is seen from.

    `draws` are uniform in [0, 1), keyed by the image; the picture is always rendered from `labels`.
    """
    return torch.where((draws < probability)[:, None], others, labels)
