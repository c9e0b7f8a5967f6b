"""The backbone's feature picture as three planes, each a stack of slices (tri-plane and tri-grid).

Depths (1, 1, 1) are EG3D's tri-plane, (3, 3, 3) PanoHead's tri-grid; (3, 1, 1) gives depth only to the (x, y) plane,
where front and back of a head would otherwise share their features, at two thirds of the tri-grid's cost.
"""

from jaxtyping import Float
from torch import Tensor

Depths = tuple[int, int, int]


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
