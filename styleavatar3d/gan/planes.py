"""The feature planes of a batch: tri-plane, tri-grid or pyramid, read alike (`Planes` -> `Renderer.field`).

Depths (1, 1, 1) are EG3D's tri-plane, (3, 3, 3) PanoHead's tri-grid; (3, 1, 1) gives depth only to the (x, y) plane,
where front and back of a head would otherwise share their features, at two thirds of the tri-grid's cost. A pyramid
keeps several resolutions of either (Portrait3D, section 3.1).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Depths = tuple[int, int, int]


@dataclass(frozen=True)
class Planes:
    """Levels, coarse to fine, whose features are added at every point; one level is no pyramid.

    They are added, and not averaged as in Portrait3D, because a backbone adds its resolutions too: so weights serve
    either form, and a level that fades in or is left out does not change what the others say. A batch of 1 is seen by
    all cameras that it is rendered with.
    """

    levels: tuple[Float[Tensor, "batch _height _width slices channel"], ...]

    def __len__(self) -> int:
        return len(self.levels[0])

    @property
    def resolution(self) -> int:
        """Texels along a side of the finest level."""
        return self.levels[-1].shape[2]

    @property
    def device(self) -> torch.device:
        return self.levels[0].device

    def to(self, kind: torch.dtype | torch.device | str) -> "Planes":
        """In another number format (bfloat16 halves the memory of planes kept for many views), or on another device."""
        return Planes(tuple(level.to(kind) for level in self.levels))

    def __getitem__(self, chosen: slice) -> "Planes":
        """Those of some samples of the batch."""
        return Planes(tuple(level[chosen] for level in self.levels))


def plane_slices(depths: Depths) -> int:
    """How many slices the planes (x, y), (x, z), (y, z) have together."""
    return sum(depths)


def to_planes(
    features: Float[Tensor, "batch channels height width"], depths: Depths
) -> Float[Tensor, "batch height width slices channel"]:
    """Group channels into slices; the channels of one texel of one slice lie together, as the renderer gathers them."""
    batch, channels, height, width = features.shape
    slices = plane_slices(depths)
    texels = features.permute(0, 2, 3, 1).contiguous()
    return texels.view(batch, height, width, slices, channels // slices)
