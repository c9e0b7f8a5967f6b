"""What fades: at 0, half and the end; and the blur."""

import pytest
import torch

from styleavatar3d.gan.fades import PUBLISHED, Fade, Fades, blur


@pytest.mark.parametrize(
    "name, kimg, values",
    [
        ("blur", (0, 100, 200, 500), (10, 5, 0, 0)),
        ("swap", (0, 500, 1000, 5000), (1, 0.85, 0.7, 0.7)),
        ("density_noise", (0, 100, 200, 500), (1, 0.5, 0, 0)),
        ("neural_resolution", (0, 500, 1000, 5000), (64, 96, 128, 128)),
        ("pose_prior", (0, 200, 300, 400, 900), (5, 5, 2.5, 0, 0)),
    ],
)
def test_the_published_values_at_the_start_half_way_and_at_the_end(name, kimg, values):
    fade = getattr(PUBLISHED, name)
    assert [fade.at(k * 1000) for k in kimg] == pytest.approx(list(values))


def test_sizes_are_whole_and_never_fall_on_the_way_up():
    sizes = [Fade(start=64, end=128, kimg=1).whole(seen) for seen in range(0, 1001, 10)]
    assert sizes == sorted(sizes) and sizes[0] == 64 and sizes[-1] == 128 and all(isinstance(s, int) for s in sizes)


def test_nothing_fades_by_default():
    fades = Fades()
    assert [f.at(s) for f in (fades.blur, fades.swap, fades.density_noise) for s in (0, 10**9)] == [0] * 6
    assert fades.neural_resolution is None


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"swap": Fade(start=1.2, end=0, kimg=1)}, "at most 1"),
        ({"blur": Fade(start=1, end=-1, kimg=1)}, "not be negative"),
    ],
)
def test_fades_out_of_range_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        Fades(**change)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 10.0])
def test_blur_leaves_flat_pictures_flat(sigma):
    flat = torch.full((1, 2, 9, 12), 0.7, dtype=torch.double)
    assert torch.allclose(blur(flat, sigma), flat, atol=1e-12)


def test_blur_spreads_a_point_by_sigma():
    point = torch.zeros(1, 1, 65, 65, dtype=torch.double)
    point[..., 32, 32] = 1
    spot = blur(point, 3.0)[0, 0]
    at = torch.arange(65, dtype=torch.double) - 32
    assert spot.sum().item() == pytest.approx(1, abs=1e-6)
    assert (spot.sum(0) * at.square()).sum().sqrt().item() == pytest.approx(3, rel=1e-3)
    assert torch.allclose(spot, spot.T)


def test_no_blur_is_no_change_and_blur_is_differentiable_twice():
    x = torch.randn(1, 1, 5, 6, dtype=torch.double, requires_grad=True)
    assert blur(x, 0.0) is x
    assert torch.autograd.gradgradcheck(lambda x: blur(x, 1.3).pow(3), x)
