"""Normal latents carried to clumps of codes."""

import pytest
import torch

from styleavatar3d.gan.backbone import Mapping
from styleavatar3d.gan.transport import TransportConfig, carry, sliced_distance

QUICK = TransportConfig(steps=400, batch=256, width=64, paths=4000, pieces=8, rate=0.003)


@pytest.fixture(scope="module")
def clumps() -> torch.Tensor:
    """2,000 codes of eight numbers in four tight clumps."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 8, generator=draw) * 3
    return centres[torch.arange(2000) % 4] + 0.2 * torch.randn(2000, 8, generator=draw)


def fitted(codes: torch.Tensor, seed: int = 0):
    torch.manual_seed(1)
    mapping = Mapping(8, 8, 3, 64)
    return mapping, carry(mapping, codes, QUICK, seed)


def test_latents_land_in_the_clumps_and_in_all_of_them(clumps):
    mapping, fit = fitted(clumps)
    with torch.no_grad():
        drawn = mapping(torch.randn(1000, 8, generator=torch.Generator().manual_seed(2)))
    nearest = torch.cdist(drawn, clumps[:4])
    assert (nearest.min(1).values < 2).float().mean() > 0.8  # clumps lie about 12 apart
    shares = torch.bincount(nearest.argmin(1), minlength=4) / 1000
    assert shares.min() > 0.15
    untrained = Mapping(8, 8, 3, 64)(torch.randn(1000, 8))
    before = sliced_distance(untrained, clumps, torch.Generator().manual_seed(3))
    assert fit.mapping < 0.2 * before and fit.flow < 0.2 * before


def test_equal_seeds_give_equal_weights_and_others_do_not(clumps):
    weights = [torch.cat([p.detach().flatten() for p in fitted(clumps, seed)[0].parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_distance_is_that_of_shifted_and_of_equal_distributions():
    draw = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 1, generator=draw)
    assert sliced_distance(codes, codes, draw) == pytest.approx(0, abs=1e-6)
    assert sliced_distance(codes + 1, codes, draw) == pytest.approx(1, rel=0.05)
