"""What the judge and the estimators are taught: losses that ask only what can be seen, and mirrors that swap sides."""

import pytest
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.figures.looks import WORDS, Look
from styleavatar3d.miniature.pictures import Pictures
from styleavatar3d.miniature.reading import (
    UNSEEN,
    attribute_targets,
    degrade,
    face_loss,
    masked_cross_entropy,
    reading_scores,
    truths,
)
from styleavatar3d.miniature.train_estimators import Marked, batch_of


def pictures(yaws: list[float]) -> Pictures:
    count, draw = len(yaws), torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=draw)
    labels = orbit_labels(torch.tensor(yaws), torch.zeros(count))
    return Pictures(image, image[:, :1], image, labels, [Look()] * count, ["clay"] * count, ["grey"] * count)


def test_what_cannot_be_seen_is_not_asked() -> None:
    targets = attribute_targets(pictures([0.0, 180.0]), WORDS)
    assert targets["hair"].tolist() == [WORDS["hair"].index("short")] * 2
    assert targets["smile"][1] == UNSEEN and targets["eyes"].tolist() == [UNSEEN, UNSEEN]  # clay has no eye colour
    logits = torch.randn(2, 2)
    alone = torch.nn.functional.cross_entropy(logits[:1], targets["smile"][:1])
    assert masked_cross_entropy(logits, targets["smile"]) == pytest.approx(alone.item())
    assert masked_cross_entropy(logits, torch.full((2,), UNSEEN)) == 0


def test_between_profile_and_back_no_face_is_asked() -> None:
    yaw = torch.tensor([0.0, -110.0, 180.0])
    assert face_loss(torch.tensor([20.0, 0.0, -20.0]), yaw) < 1e-6
    assert face_loss(torch.tensor([20.0, 99.0, -20.0]), yaw) < 1e-6
    assert face_loss(torch.tensor([-20.0, 0.0, -20.0]), yaw) > 5


def test_damage_is_repeatable_and_leaves_some_pictures_clean() -> None:
    images = torch.rand(64, 3, 64, 64) * 2 - 1
    first, again = degrade(images, 3, 7), degrade(images, 3, 7)
    assert torch.equal(first, again) and not torch.equal(first, degrade(images, 3, 8))
    clean = sum(torch.allclose(a, b) for a, b in zip(first, images, strict=True))
    assert 4 <= clean <= 32


def test_scores_of_a_perfect_reader_are_perfect() -> None:
    some = pictures([0.0, 80.0, 180.0])
    truth = truths(some.looks, some.styles, some.yaw)
    words = [{name: seen.get(name, values[0]) for name, values in WORDS.items()} for seen in truth]
    scores = reading_scores(some.yaw, words, torch.tensor([1.0, 1.0, 0.0]), some.yaw, truth)
    assert scores["yaw_median"] == scores["yaw_90"] == 0
    assert scores["view"] == scores["face"] == scores["attributes"] == scores["hair"] == 1
    turned = reading_scores(-some.yaw, words, torch.zeros(3), some.yaw, truth)
    assert turned["yaw_90"] > 100 and turned["face"] == pytest.approx(1 / 3, abs=1e-3)


def test_a_mirror_swaps_the_sides_of_landmarks() -> None:
    names = ("chin", "eye_left_top", "eye_right_top")
    landmarks = torch.tensor([[[32.0, 50.0], [40.0, 30.0], [22.0, 31.0]]])
    marked = Marked(pictures([30.0]), landmarks, torch.tensor([[True, True, False]]), names)
    here = torch.tensor([0])
    plain = batch_of(marked, here, torch.tensor([False]), (2, -1))
    assert torch.allclose(plain.landmarks * 64, landmarks + torch.tensor([-1.0, 2.0]))
    mirror = batch_of(marked, here, torch.tensor([True]), (0, 0))
    assert torch.allclose(mirror.landmarks * 64, torch.tensor([[[32.0, 50.0], [42.0, 31.0], [24.0, 30.0]]]))
    assert mirror.visible.tolist() == [[True, False, True]] and mirror.yaw.item() == pytest.approx(-30, abs=1e-3)
    assert torch.equal(mirror.images, marked.pictures.batch(here).flip(3))
