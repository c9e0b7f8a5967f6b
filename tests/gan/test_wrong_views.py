"""Wrong views: exactly as many as asked for, seeded, and of the same cameras."""

import pytest
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.wrong_views import wrong_labels

LABELS = orbit_labels(torch.linspace(-180, 179, 200), torch.zeros(200))


def changed(share: float, seed: int = 0) -> torch.Tensor:
    return (wrong_labels(LABELS, share, seed) != LABELS).any(1)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.333, 1.0])
def test_the_share_is_exact_and_every_one_of_them_is_wrong(share: float) -> None:
    assert changed(share).sum() == round(share * 200)


def test_cameras_stay_what_they_were() -> None:
    wrong = wrong_labels(LABELS, 0.2, 3)
    assert torch.equal(wrong.unique(dim=0), LABELS.unique(dim=0)) and len(wrong.unique(dim=0)) == 200


def test_the_seed_chooses_whom() -> None:
    assert torch.equal(wrong_labels(LABELS, 0.2, 1), wrong_labels(LABELS, 0.2, 1))
    assert not torch.equal(changed(0.2, 1), changed(0.2, 2))
    before = LABELS.clone()
    wrong_labels(LABELS, 1.0, 0)
    assert torch.equal(LABELS, before)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), 0.005])
def test_shares_that_cannot_be_are_refused(share: float) -> None:
    with pytest.raises(StyleAvatarError):
        wrong_labels(LABELS, share, 0)
