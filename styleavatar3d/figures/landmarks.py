"""Named points of the face: a part of the usual 68, at which faces differ and expressions move.

`LANDMARKS` orders them; "left" is the figure's own left (+x). By groups: the contour of the jaw (`jaw_left_0` under the
ear .. `jaw_left_4` beside the chin, `chin`), brows (`brow_left_0` at the nose .. `brow_left_4`), nose (`nose_bridge`,
`nose_tip`, `nose_base`, `nostril_left`), eyes (`eye_left_inner`, `_outer`, `_top`, `_bottom`: the rim of the lids) and
mouth (`mouth_left`, `mouth_upper_left`, `mouth_lower_left`, `mouth_top`, `mouth_bottom`: the border of the lips;
`lip_upper`, `lip_lower`: where closed lips meet). All "left" ones have "right" twins.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BORDER = {
    "jaw_left_0": (0.76, 7.00, 0.50),
    "jaw_left_1": (0.72, 6.72, 0.60),
    "jaw_left_2": (0.62, 6.48, 0.75),
    "jaw_left_3": (0.45, 6.26, 1.00),
    "jaw_left_4": (0.22, 6.11, 1.28),
    "chin": (0.0, 6.08, 1.36),
}
"""Template coordinates, snapped to the nearest vertex."""
_FRONT = {
    "brow_left_0": (0.12, 7.500),
    "brow_left_1": (0.23, 7.560),
    "brow_left_2": (0.35, 7.585),
    "brow_left_3": (0.47, 7.560),
    "brow_left_4": (0.57, 7.490),
    "nose_bridge": (0.0, 7.270),
    "nose_tip": (0.0, 6.930),
    "nose_base": (0.0, 6.815),
    "nostril_left": (0.18, 6.880),
    "eye_left_inner": (0.203, 7.268),
    "eye_left_outer": (0.435, 7.290),
    "eye_left_top": (0.318, 7.336),
    "eye_left_bottom": (0.318, 7.234),
    "mouth_left": (0.272, 6.605),
    "mouth_upper_left": (0.120, 6.690),
    "mouth_lower_left": (0.130, 6.525),
    "mouth_top": (0.0, 6.692),
    "mouth_bottom": (0.0, 6.505),
    "lip_upper": (0.0, 6.609),
    "lip_lower": (0.0, 6.600),
}
"""Seen from the front: x and y, snapped to the nearest vertex of the face."""


def _twin(name: str) -> tuple[str, ...]:
    return (name, name.replace("left", "right")) if "left" in name else (name,)


LANDMARKS: tuple[str, ...] = tuple(twin for name in (*_BORDER, *_FRONT) for twin in _twin(name))


def landmark_vertices(template: Float[Tensor, "vertices 3"], skin: Int[Tensor, "some"]) -> Int[Tensor, "landmarks"]:
    """The vertices, among those of the `skin`, that are `LANDMARKS`."""
    front = skin[template[skin, 2] > 0.9]
    found = []
    for name, place in (_BORDER | _FRONT).items():
        among, known = (skin, 3) if name in _BORDER else (front, 2)
        nearness = 0.05 * template[among, 2] * (known == 2)
        for side in (1.0, -1.0)[: len(_twin(name))]:
            at = template.new_tensor((side * place[0], *place[1:]))
            found.append(among[((template[among, :known] - at).norm(dim=1) - nearness).argmin()])
    return torch.stack(found)
