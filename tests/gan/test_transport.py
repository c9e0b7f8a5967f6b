"""Normal latents carried to clumps of codes."""

import pytest
import torch

from styleavatar3d.gan.backbone import Mapping, leaky
from styleavatar3d.gan.transport import TransportConfig, carry, sliced_distance

QUICK = TransportConfig(steps=600, batch=256, width=96, paths=4000, pieces=8, rate=0.004)
SIZE = 24


@pytest.fixture(scope="module")
def clumps() -> torch.Tensor:
    """2,000 codes in four tight clumps, as a mapping network can make them."""
    draw = torch.Generator().manual_seed(0)
    centres = leaky(torch.randn(4, SIZE, generator=draw) * 3)
    return centres[torch.arange(2000) % 4] + 0.1 * torch.randn(2000, SIZE, generator=draw)


def fitted(codes: torch.Tensor, seed: int = 0):
    torch.manual_seed(1)
    mapping = Mapping(SIZE, SIZE, 3, 96)
    return mapping, carry(mapping, codes, QUICK, seed)


def test_latents_land_in_the_clumps_and_in_all_of_them(clumps):
    mapping, fit = fitted(clumps)
    latents = torch.randn(1000, SIZE, generator=torch.Generator().manual_seed(2))
    drawn, untrained = mapping(latents).detach(), Mapping(SIZE, SIZE, 3, 96)(latents).detach()
    apart = torch.cdist(clumps[:4], clumps[:4]).max()
    nearest = torch.cdist(drawn, clumps[:4])
    assert nearest.min(1).values.median() < 0.35 * apart
    assert torch.bincount(nearest.argmin(1), minlength=4).min() > 150  # of 1,000
    before = sliced_distance(untrained, clumps, torch.Generator().manual_seed(3))
    assert fit.flow < 0.2 * before and fit.mapping < 0.5 * before


def test_equal_seeds_give_equal_weights_and_others_do_not(clumps):
    weights = [torch.cat([p.detach().flatten() for p in fitted(clumps, seed)[0].parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_distance_is_that_of_shifted_and_of_equal_distributions():
    draw = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 1, generator=draw)
    assert sliced_distance(codes, codes, draw) == pytest.approx(0, abs=1e-6)
    assert sliced_distance(codes + 1, codes, draw) == pytest.approx(1, rel=0.05)
