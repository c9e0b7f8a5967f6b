"""Adaptive augmentation: pictures, masks and cameras move together; the controller; derivatives."""

import pytest
import torch

from styleavatar3d.camera.cameras import check_labels, orbit_labels, yaw_pitch
from styleavatar3d.gan.augment import DRAWS, GATES, AugmentConfig, Controller, augment
from styleavatar3d.gan.labels import LabelConfig, view_labels

CONFIG = AugmentConfig(active=True)
SIZE = 96
STILL = {"shift": 0.0, "scale": 0.0, "turn": 0.0, "mirror": False}
PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": False}


def draws(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def views(count: int) -> torch.Tensor:
    return orbit_labels(torch.linspace(-150, 170, count), torch.linspace(-20, 25, count))


def seen_at(labels: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Where each camera sees a point of the world, over image size."""
    pose, intrinsics = labels[:, :16].unflatten(1, (4, 4)), labels[:, 16:].unflatten(1, (3, 3))
    in_camera = (pose[:, :3, :3].mT @ (point - pose[:, :3, 3])[..., None])[..., 0]
    pixel = (intrinsics @ in_camera[..., None])[..., 0]
    return pixel[:, :2] / pixel[:, 2:]


def dots(places: torch.Tensor) -> torch.Tensor:
    """Pictures of a soft dot each."""
    at = (torch.arange(SIZE) + 0.5) / SIZE
    x, y = (torch.exp(-(((at - place[:, None]) * SIZE / 2) ** 2)) for place in places.T)
    return (y[:, :, None] * x[:, None])[:, None].repeat(1, 4, 1, 1)


def centres(pictures: torch.Tensor) -> torch.Tensor:
    weight, at = pictures[:, 3], (torch.arange(SIZE) + 0.5) / SIZE
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(1) * at).sum(1) / total, (weight.sum(2) * at).sum(1) / total], 1)


@pytest.mark.parametrize("only", ["mirror", "shift", "scale", "turn", ""])
def test_the_camera_follows_wherever_the_picture_goes(only):
    """A dot of the world is seen where the camera that belongs to the augmented picture sees it."""
    kept = {only: getattr(CONFIG, only)} if only else {name: getattr(CONFIG, name) for name in STILL}
    config = AugmentConfig(**PLAIN | STILL | kept)
    labels, point = views(24), torch.tensor([0.06, 0.03, 0.04])
    before = seen_at(labels, point)
    pictures, moved = augment(dots(before), labels, draws(24), 1.0, config)
    check_labels(moved)
    # a mirrored picture is one of the mirrored world
    flipped = (draws(24)[:, len(GATES)] < 0.5) & config.mirror
    world = torch.where(flipped[:, None], point * torch.tensor([-1.0, 1, 1]), point)
    wanted = seen_at(moved, world)
    inside = ((wanted - 0.5).abs() < 0.4).all(1)
    assert inside.sum() > 15
    assert (centres(pictures) - wanted)[inside].abs().max() < 0.5 / SIZE
    changed = (wanted - before).abs().amax(1) > 1e-4
    assert changed.float().mean() > (0.3 if only == "mirror" else 0.9)


def test_view_bins_see_mirrors_and_nothing_else():
    labels = views(40)
    _, moved = augment(torch.zeros(40, 4, 8, 8), labels, draws(40), 1.0, AugmentConfig(mirror=False))
    ones = torch.ones(40) * 0.01
    assert torch.allclose(yaw_pitch(moved)[0], yaw_pitch(labels)[0], atol=1e-3)
    assert torch.equal(view_labels(moved, ones, LabelConfig()), view_labels(labels, ones, LabelConfig()))
    _, mirrored = augment(torch.zeros(40, 4, 8, 8), labels, draws(40), 1.0, AugmentConfig(**STILL | {"mirror": True}))
    flipped = draws(40)[:, len(GATES)] < 0.5
    signs = torch.where(flipped, -1.0, 1.0)
    assert 0.3 < flipped.float().mean() < 0.7
    assert torch.allclose(yaw_pitch(mirrored)[0], yaw_pitch(labels)[0] * signs, atol=1e-3)


def test_no_probability_no_change():
    pictures, labels = torch.randn(4, 4, 8, 8), views(4)
    same, cameras = augment(pictures, labels, draws(4), 0.0, CONFIG)
    assert torch.equal(same, pictures) and torch.equal(cameras, labels)
    none = AugmentConfig(**STILL | PLAIN)
    same, cameras = augment(pictures, labels, draws(4), 1.0, none)
    assert torch.allclose(same, pictures, atol=1e-5) and torch.allclose(cameras, labels, atol=1e-6)


def test_an_image_is_changed_by_its_own_numbers_alone():
    pictures, labels, numbers = torch.randn(6, 4, 8, 8), views(6), draws(6)
    whole = augment(pictures, labels, numbers, 0.7, CONFIG)
    for i in range(6):
        alone = augment(pictures[i : i + 1], labels[i : i + 1], numbers[i : i + 1], 0.7, CONFIG)
        assert torch.allclose(whole[0][i], alone[0][0], atol=1e-6) and torch.equal(whole[1][i], alone[1][0])


def test_each_change_comes_with_its_probability():
    labels = views(3000)
    for name in ("shift", "scale", "turn"):
        config = AugmentConfig(**STILL | {name: 0.1})
        _, moved = augment(torch.zeros(3000, 4, 2, 2), labels, draws(3000), 0.3, config)
        assert ((moved - labels).abs().amax(1) > 1e-6).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_colours_change_and_masks_do_not():
    pictures, labels = torch.rand(16, 8, 6, 6) * 2 - 1, views(16)
    pictures[:, 5:8] = pictures[:, :3]
    colors = (slice(0, 3), slice(5, 8))
    tinted, same = augment(pictures, labels, draws(16), 1.0, AugmentConfig(**STILL), colors)
    assert torch.allclose(same, labels, atol=1e-6)
    assert torch.allclose(tinted[:, 3:5], pictures[:, 3:5], atol=1e-5)
    assert torch.allclose(tinted[:, :3], tinted[:, 5:8]) and (tinted[:, :3] - pictures[:, :3]).abs().mean() > 0.1


def test_hue_and_saturation_leave_grey_alone():
    grey = torch.rand(8, 1, 4, 4).repeat(1, 4, 1, 1)
    config = AugmentConfig(**STILL | {"brightness": 0.0, "contrast": 0.0})
    assert torch.allclose(augment(grey, views(8), draws(8), 1.0, config)[0], grey, atol=1e-5)


def test_gradients_pass_through_twice():
    pictures = torch.randn(2, 4, 5, 5, dtype=torch.double, requires_grad=True)
    labels, numbers = views(2).double(), draws(2).double()

    def look(x):
        return augment(x, labels, numbers, 1.0, CONFIG)[0].pow(3)

    assert torch.autograd.gradcheck(look, pictures, fast_mode=True)
    assert torch.autograd.gradgradcheck(look, pictures, fast_mode=True)


def test_the_controller_goes_where_the_discriminator_is_too_sure():
    controller = Controller(AugmentConfig(active=True, target=0.6, speed_kimg=1, most=0.8))
    assert controller.probability == 0
    for _ in range(5):
        controller.adapt(0.9, 100)
    assert controller.probability == pytest.approx(0.5) and controller.sureness == 0.9
    controller.adapt(0.2, 100)
    assert controller.probability == pytest.approx(0.4)
    controller.adapt(0.6, 100)
    assert controller.probability == pytest.approx(0.4)
    for _ in range(20):
        controller.adapt(1.0, 100)
    assert controller.probability == 0.8
    for _ in range(20):
        controller.adapt(-1.0, 100)
    assert controller.probability == 0


def test_the_probability_is_saved_exactly():
    first, second = (Controller(AugmentConfig(active=True, speed_kimg=7)) for _ in range(2))
    for sign in (0.7, 0.9, 0.65):
        first.adapt(sign, 3)
    second.load_state_dict(first.state_dict())
    assert second.probability == first.probability > 0 and second.sureness == 0.65
