"""What a trained network sees in pictures: as a difference, and as a discriminator."""

import pytest
import torch
from torch import Tensor

from styleavatar3d.bench.held_out import portrait, signed
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.losses import discriminator_loss
from styleavatar3d.gan.perception import Heads, Perception, perceptual_distance

LABELS = torch.eye(4).repeat(2, 1)


@pytest.fixture(scope="module")
def perception() -> Perception:
    return Perception.from_pretrained("data/miniature/estimators", torch.device("cpu"))


@pytest.fixture(scope="module")
def portraits() -> Tensor:
    return signed(torch.stack([portrait(index, seed=3) for index in range(8)]))


def test_features_are_normal_and_of_four_sizes(perception, portraits):
    levels = perception(portraits)
    assert [tuple(level.shape[1:]) for level in levels] == [(20, 32, 32), (40, 16, 16), (80, 8, 8), (128, 4, 4)]
    for level in levels:
        torch.testing.assert_close(level.mean((1, 2, 3)), torch.zeros(8), atol=1e-4, rtol=0)
        torch.testing.assert_close(level.var((1, 2, 3)), torch.ones(8), atol=1e-2, rtol=0)


def test_a_lost_face_counts_for_more_than_as_many_grey_levels_anywhere(perception, portraits):
    flat = portraits.clone()
    flat[:, :, 24:40, 24:40] = flat[:, :, 24:40, 24:40].mean((2, 3), keepdim=True)
    shifted = portraits + (flat - portraits).abs().mean((1, 2, 3), keepdim=True)
    faceless, brighter, same = (
        perceptual_distance(perception(p), perception(portraits)) for p in (flat, shifted, portraits)
    )
    assert same == 0 and faceless > 2 * brighter


def test_pictures_learn_and_the_estimator_does_not(perception, portraits):
    picture = portraits[:4].clone().requires_grad_()
    perceptual_distance(perception(picture), perception(portraits[4:])).backward()
    assert picture.grad is not None and picture.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in perception.parameters())


def test_small_pictures_are_looked_at_as_large_ones(perception, portraits):
    small = torch.nn.functional.avg_pool2d(portraits, 2)
    assert [level.shape[-1] for level in perception(small)] == [32, 16, 8, 4]


def test_heads_learn_to_tell_sharp_from_smooth(perception, portraits):
    torch.manual_seed(0)
    heads = Heads(perception.widths, 8, 4)
    smooth = torch.nn.functional.avg_pool2d(portraits, 3, stride=1, padding=1)
    real, fake = perception(portraits), perception(smooth)
    optimizer = torch.optim.Adam(heads.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        discriminator_loss(heads(real, LABELS), heads(fake, LABELS)).backward()
        optimizer.step()
    assert heads(real, LABELS).shape == (8, 64)
    assert (heads(real, LABELS).mean(1) > heads(fake, LABELS).mean(1)).all()


def test_heads_are_told_the_view(perception, portraits):
    heads = Heads(perception.widths, 8, 4)
    levels = perception(portraits)
    assert not torch.allclose(heads(levels, LABELS), heads(levels, LABELS.flip(1)))
    assert heads.spread(levels, LABELS).shape == (8,)
    assert Heads(perception.widths, 8, 0)(levels, LABELS[:, :0]).shape == (8, 64)


def test_a_folder_without_estimator_is_refused(tmp_path):
    with pytest.raises(StyleAvatarError):
        Perception.from_pretrained(str(tmp_path), torch.device("cpu"))
