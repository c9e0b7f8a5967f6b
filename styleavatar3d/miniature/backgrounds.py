"""What stands behind a figure: plain grey, or a backdrop in the manner of a photographer's studio."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.anatomy import ramp
from styleavatar3d.figures.looks import BACKGROUNDS

GREY = 127 / 255
NAMES = (*BACKGROUNDS, "sky", "studio", "mint")
"""Those that prompts name, and some that only renders have."""


@cache
def paint(name: str, size: int) -> Float[Tensor, "size size 3"]:
    """A square backdrop in [0, 1]. Raises StyleAvatarError for a name that is not one of `NAMES`."""
    if name not in _PAINTERS:
        raise StyleAvatarError("unknown background", got=name, expected=", ".join(NAMES))
    centre = (torch.arange(size) + 0.5) / size
    down, across = torch.meshgrid(centre, centre, indexing="ij")
    return _PAINTERS[name](across, down).clamp(0, 1)


def _between(share: Tensor, *stops: tuple[float, float, float]) -> Float[Tensor, "size size 3"]:
    """Colours along a gradient: the first where `share` is 0, the last where it is 1."""
    color = share.new_tensor(stops[0]).expand(*share.shape, 3)
    steps = len(stops) - 1
    for step in range(steps):
        color = color + ramp(share, step / steps, (step + 1) / steps)[..., None] * (
            share.new_tensor(stops[step + 1]) - share.new_tensor(stops[step])
        )
    return color


def _from_light(across: Tensor, down: Tensor) -> Float[Tensor, "size size"]:
    """0 where a lamp shines on the wall behind the head, 1 in the corners."""
    return ((across - 0.5) ** 2 + (down - 0.42) ** 2).sqrt().div(0.76).clamp(0, 1)


def _night(across: Tensor, down: Tensor) -> Float[Tensor, "size size 3"]:
    """A dark sky, its stars one in 90 of little squares, and a glow over the horizon."""
    color = _between(down, (0.04, 0.05, 0.16), (0.10, 0.10, 0.30), (0.32, 0.22, 0.46))
    column, row = (across * 48).floor(), (down * 48).floor()
    chance = torch.frac(torch.sin(column * 12.9898 + row * 78.233) * 437.585).abs()
    inside = ((across * 48 - column - 0.5).abs() < 0.3) & ((down * 48 - row - 0.5).abs() < 0.3)
    star = ((chance > 0.985) & inside & (down < 0.7)).to(color) * (1 - down)
    return color + 0.8 * star[..., None]


_PAINTERS = {
    "grey": lambda across, down: torch.full((*down.shape, 3), GREY),
    "white": lambda across, down: _between(_from_light(across, down), (1.0, 1.0, 1.0), (0.90, 0.90, 0.91)),
    "sky": lambda across, down: _between(down, (0.36, 0.64, 0.93), (0.80, 0.92, 0.99)),
    "studio": lambda across, down: _between(
        _from_light(across, down), (0.66, 0.63, 0.60), (0.36, 0.34, 0.34), (0.13, 0.12, 0.14)
    ),
    "sunset": lambda across, down: _between(
        down, (0.33, 0.24, 0.52), (0.87, 0.42, 0.47), (0.99, 0.68, 0.38), (1.0, 0.86, 0.58)
    ),
    "mint": lambda across, down: _between(_from_light(across, down), (0.80, 0.95, 0.87), (0.47, 0.77, 0.67)),
    "night": _night,
}
