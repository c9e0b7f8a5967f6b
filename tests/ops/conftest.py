"""What the kernel tests share: numbers made elsewhere, and random scenes."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from styleavatar3d.ops import Decoder

GOLDEN = Path(__file__).parents[1] / "golden"


class Scene(NamedTuple):
    """The positional arguments of `render_planes`."""

    planes: Tensor | list[Tensor]
    decoder: Decoder
    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    coarse: Tensor
    fine: Tensor


@pytest.fixture(scope="session")
def plane_numbers() -> dict[str, Tensor]:
    """Planes, points and features computed by public EG3D-family code with random weights (first of its samples)."""
    return load_file(GOLDEN / "plane_sampling.safetensors")


@pytest.fixture(scope="session")
def ray_numbers() -> dict[str, Tensor]:
    """Inputs and results of EG3D's ray marcher and importance sampling."""
    return load_file(GOLDEN / "ray_marcher.safetensors")


@pytest.fixture
def make_scene():
    """A function that draws a scene; one ray in seven misses."""

    def make(
        depths=(3, 1, 1), channels=16, hidden=32, features=3, samples=(6, 5), batch=2, rays=35, size=10,
        dtype=torch.float32, seed=0, levels=(), shared=False, bfloat16=False,
    ):  # fmt: skip
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=draw, dtype=dtype)

        decoder = Decoder(
            normal(channels, hidden) / channels**0.5, normal(hidden) / 3,
            normal(hidden, 1 + features) / hidden**0.5, normal(1 + features) / 3,
        )  # fmt: skip
        directions = normalize(0.1 * normal(batch, rays, 3) - torch.tensor([0, 0, 1], dtype=dtype), dim=-1)
        near = torch.full((batch, rays), 2.3, dtype=dtype)
        far = torch.full_like(near, 3.1)
        far[:, ::7] = near[:, ::7]
        planes = [
            normal(1 if shared else batch, side, side + 1, sum(depths), channels) * 2 for side in levels or (size,)
        ]
        planes = [level.bfloat16() for level in planes] if bfloat16 else planes
        return Scene(
            planes if levels else planes[0],
            decoder,
            torch.tensor([0, 0, 2.7], dtype=dtype).expand(batch, rays, 3),
            directions,
            near,
            far,
            torch.rand(batch, 1, samples[0], generator=draw, dtype=dtype),
            torch.rand(batch, rays, samples[1], generator=draw, dtype=dtype),
        )

    return make
