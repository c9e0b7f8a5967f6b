"""What lies behind the volume: a picture of features from a network of its own (PanoHead, section 3.2)."""

from jaxtyping import Float
from torch import Tensor

from styleavatar3d.gan.classic_config import ClassicBackground
from styleavatar3d.gan.resampling import resize
from styleavatar3d.gan.stylegan2 import Noise, SynthesisNetwork


class BackgroundNetwork(SynthesisNetwork):
    """Codes -> feature picture. It reads the first slots of the volume's codes."""

    def __init__(self, config: ClassicBackground, *, features: int, w_dim: int, clamp: float | None, batched: bool):
        super().__init__(
            w_dim=w_dim, resolution=config.resolution, image_channels=features, channel_base=config.channel_base,
            channel_max=config.channel_max, clamp=clamp, batched_constant=batched,
        )  # fmt: skip

    def forward(
        self, codes: Float[Tensor, "batch slots w"], noise: Noise = "const"
    ) -> Float[Tensor, "batch feature height width"]:
        """Where the volume has fewer slots than this network, its last one is repeated."""
        slots = [min(slot, codes.shape[1] - 1) for slot in range(self.slots)]
        return super().forward(codes[:, slots], noise)


def composed(
    features: Float[Tensor, "batch feature rows columns"],
    weight: Float[Tensor, "batch 1 rows columns"],
    background: Float[Tensor, "batch feature height width"],
) -> Float[Tensor, "batch feature rows columns"]:
    """The background, resized, in the share that the volume lets through."""
    return features + (1 - weight) * resize(background, features.shape[-1])
