"""The coarse-to-fine view label."""

import pytest
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.gan.labels import LABEL_DRAWS, LabelConfig, label_codes, view_labels, view_one_hot, wrong_cameras

CONFIG = LabelConfig()


def encode(yaw: list[float], draw: float) -> torch.Tensor:
    yaws = torch.tensor(yaw)
    return view_labels(orbit_labels(yaws, torch.zeros_like(yaws)), torch.full_like(yaws, draw), CONFIG)


def test_there_are_46_numbers():
    assert CONFIG.size == 46 and CONFIG.fine_size == 41


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.95])
def test_exactly_one_half_is_kept(draw):
    codes = encode([float(yaw) for yaw in range(-180, 180, 7)], draw)
    fine, coarse = codes[:, :41].sum(1), codes[:, 41:].sum(1)
    assert set(fine.tolist()) <= {0.0, 2.0} and torch.equal(fine + coarse, torch.full_like(fine, 2))
    assert set(codes.unique().tolist()) == {0.0, 1.0}


def test_the_fine_half_is_kept_at_its_stated_rate():
    draws = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    for yaw, rate in ((0.0, 0.9), (44.0, 0.9), (46.0, 0.2), (180.0, 0.2)):
        labels = orbit_labels(torch.full((4000,), yaw), torch.zeros(4000))
        kept = (view_labels(labels, draws, CONFIG)[:, :41].sum(1) > 0).float().mean().item()
        assert kept == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize(
    "yaw, column", [(0, 0), (4.99, 0), (5.0, 1), (-5.0, 0), (-5.01, 35), (90, 9), (-180, 18), (179.99, 18)]
)
def test_fine_yaw_bins_are_centred_and_half_open(yaw, column):
    assert view_one_hot(torch.tensor([float(yaw)]), torch.zeros(1), 36, 5, CONFIG)[0, :36].argmax() == column


@pytest.mark.parametrize("yaw, column", [(0, 0), (44.9, 0), (45.0, 1), (-45.0, 0), (-45.1, 3), (135, 2), (-136, 2)])
def test_coarse_bins_are_the_four_sides(yaw, column):
    assert view_one_hot(torch.tensor([float(yaw)]), torch.zeros(1), 4, 1, CONFIG)[0, :4].argmax() == column


@pytest.mark.parametrize("pitch, row", [(-30, 0), (-18.01, 0), (-18, 1), (0, 2), (17.9, 3), (18, 4), (30, 4), (60, 4)])
def test_pitch_bins_have_twelve_degrees(pitch, row):
    assert view_one_hot(torch.zeros(1), torch.tensor([float(pitch)]), 36, 5, CONFIG)[0, 36:].argmax() == row


def test_reals_and_fakes_with_one_camera_and_draw_have_one_label():
    assert torch.equal(encode([33.0], 0.3), encode([33.0], 0.3))


def around(*yaws: float) -> torch.Tensor:
    return orbit_labels(torch.tensor(yaws), torch.zeros(len(yaws)))


def draws(count: int, value: float | None = None) -> torch.Tensor:
    shape = (count, LABEL_DRAWS)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) if value is None else torch.full(shape, value)


@pytest.mark.parametrize("kind, size", [("none", 0), ("camera", 25), ("noisy camera", 25), ("coarse-to-fine", 46)])
def test_each_kind_of_label_has_its_size(kind, size):
    config = LabelConfig(kind=kind)
    assert config.size == size
    assert label_codes(around(0.0, 90.0), draws(2), config, torch.ones(25)).shape == (2, size)


def test_cameras_come_as_they_are_and_the_switch_as_it_was():
    labels, numbers = around(0.0, 90.0, -130.0), draws(3)
    assert torch.equal(label_codes(labels, numbers, LabelConfig(kind="camera"), torch.ones(25)), labels)
    switched = label_codes(labels, numbers, CONFIG, torch.ones(25))
    assert torch.equal(switched, view_labels(labels, numbers[:, 0], CONFIG))


def test_noise_is_counted_in_standard_deviations_of_the_data():
    labels, spread = around(*[30.0] * 4000), torch.linspace(0, 2, 25)
    noisy = label_codes(labels, draws(4000), LabelConfig(kind="noisy camera", noise=0.5), spread)
    assert torch.allclose((noisy - labels).std(0), spread * 0.5, rtol=0.06)
    assert (noisy - labels).mean(0).abs().max() < 0.06
    still = label_codes(labels, draws(4000), LabelConfig(kind="noisy camera", noise=0), spread)
    assert torch.equal(still, labels)
    assert label_codes(labels, draws(4000, 0.0), LabelConfig(kind="noisy camera"), spread).isfinite().all()


def test_wrong_cameras_are_others_of_the_same_group_and_far_away():
    labels = around(0.0, 30.0, 120.0, -60.0, 0.0, 180.0, -179.0, 90.0)
    others, wrong = wrong_cameras(labels, 4, CONFIG)
    assert torch.equal(others[:4], labels[[3, 0, 1, 2]]) and torch.equal(others[4:], labels[[7, 4, 5, 6]])
    assert wrong.tolist() == [False, False, True, True, True, True, False, True]


def test_a_wrong_label_never_tells_the_truth():
    yaws = torch.rand(400, generator=torch.Generator().manual_seed(2)) * 360 - 180
    labels = orbit_labels(yaws, torch.zeros(400))
    others, wrong = wrong_cameras(labels, 4, CONFIG)
    assert 0.3 < wrong.float().mean() < 0.7
    for mine in (0.0, 0.99):
        told = label_codes(others[wrong], draws(int(wrong.sum()), mine), CONFIG, torch.ones(25))
        true = sum(label_codes(labels[wrong], draws(int(wrong.sum()), d), CONFIG, torch.ones(25)) for d in (0.0, 0.99))
        assert ((told * true).sum(1) < 2).all()


def test_groups_do_not_depend_on_the_number_of_processes():
    labels = around(0.0, 30.0, 120.0, -60.0, 10.0, 180.0, -179.0, 90.0)
    whole = wrong_cameras(labels, 4, CONFIG)
    parts = [wrong_cameras(half, 4, CONFIG) for half in labels.chunk(2)]
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(whole, zip(*parts, strict=True), strict=True))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"wrong_camera": 1.0, "kind": "none"}, "needs a label"),
        ({"wrong_camera": 1.0, "coarse_yaw_bins": 3}, "a wrong label could be true"),
        ({"keep_fine_elsewhere": 1.5}, "less than or equal to 1"),
        ({"kind": "fine"}, "coarse-to-fine"),
    ],
)
def test_labels_that_make_no_sense_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        LabelConfig(**change)
