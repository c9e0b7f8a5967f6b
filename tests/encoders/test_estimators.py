"""The estimators: angles, places and words come back from where they are put."""

import json
from pathlib import Path

import pytest
import torch

from styleavatar3d.encoders.estimators import Estimator, angles, direction_of, mean_place
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.landmarks import LANDMARKS
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.stylespace.attributes import read

WIDTHS = (8, 8, 8, 8)


@pytest.fixture
def estimator() -> Estimator:
    torch.manual_seed(0)
    return Estimator(LANDMARKS, WIDTHS).eval()


def test_angles_come_back_from_directions_of_any_length() -> None:
    yaw, pitch = torch.tensor([0.0, 90.0, -135.0, 179.0]), torch.tensor([0.0, 25.0, -15.0, 60.0])
    found = angles(3 * direction_of(yaw, pitch))
    assert torch.allclose(found[0], yaw, atol=1e-3) and torch.allclose(found[1], pitch, atol=1e-3)
    assert angles(torch.tensor([[0.0, 0.0, -1.0]]))[0].item() == -180


def test_a_peak_is_found_where_it_is() -> None:
    maps = torch.full((1, 1, 16, 16), -30.0)
    maps[0, 0, 3, 10] = maps[0, 0, 3, 11] = 30.0
    assert mean_place(maps)[0, 0].tolist() == pytest.approx([11 / 16, 3.5 / 16])


def test_places_are_pixels_of_the_picture_given(estimator: Estimator) -> None:
    images = torch.nn.functional.interpolate(torch.rand(3, 3, 8, 8) * 2 - 1, (64, 64), mode="bilinear")
    seen = estimator.estimate(images)
    large = estimator.estimate(torch.nn.functional.interpolate(images, scale_factor=2.0, mode="bilinear"))
    assert seen.landmarks.shape == (3, len(LANDMARKS), 2)
    assert torch.allclose(large.landmarks, 2 * seen.landmarks, atol=1.0)
    assert ((seen.face >= 0) & (seen.face <= 1)).all() and ((seen.visible >= 0) & (seen.visible <= 1)).all()
    assert all(said[name] in words for said in seen.words for name, words in WORDS.items())


def test_pictures_of_any_size_are_read_and_told_apart_by_features(estimator: Estimator) -> None:
    large = torch.nn.functional.interpolate(torch.randn(2, 3, 8, 8), 128, mode="bilinear")
    small = Estimator.fitted(large)
    torch.testing.assert_close(read(estimator, large), read(estimator, small))
    features = estimator.features(large)
    torch.testing.assert_close(features, estimator.features(small))
    assert features.ndim == 2 and not torch.allclose(features[0], features[1])


def test_saving_keeps_the_estimate(estimator: Estimator, tmp_path: Path) -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    estimator.save_pretrained(tmp_path)
    again = Estimator.from_pretrained(tmp_path)
    assert again.names == LANDMARKS
    assert torch.allclose(again(images).direction, estimator(images).direction, atol=0.02)
    assert torch.allclose(again(images).landmarks, estimator(images).landmarks, atol=0.02)


def test_it_is_small(tmp_path: Path) -> None:
    Estimator(LANDMARKS).save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size <= 1.5e6


def test_other_attributes_are_refused(estimator: Estimator, tmp_path: Path) -> None:
    estimator.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "config.json").read_text())
    about["words"]["hair"] = ["bald"]
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(StyleAvatarError, match="other attributes[\\s\\S]*hair"):
        Estimator.from_pretrained(tmp_path)
