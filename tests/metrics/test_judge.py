from pathlib import Path

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics.alignment import Request, Score, alignment, stated, together
from styleavatar3d.metrics.judge import HEADS, Judge, Judgement, view_of


@pytest.mark.parametrize(
    ("yaw", "view"),
    [
        (0, "front"), (44, "front"), (-45, "front"), (45, "left"), (90, "left"), (-90, "right"),
        (-180, "back"), (179, "back"),
    ],
)
def test_four_views(yaw: float, view: str) -> None:
    assert view_of(yaw) == view


def test_saving_keeps_the_judgement(tmp_path: Path) -> None:
    judge, images = Judge(8).eval(), torch.rand(4, 3, 64, 64) * 2 - 1
    judge.save_pretrained(tmp_path)
    again = Judge.from_pretrained(tmp_path)
    assert torch.allclose(again(images)[0], judge(images)[0], atol=0.02)
    assert (tmp_path / "model.safetensors").stat().st_size < 2 * sum(p.numel() for p in judge.parameters()) + 8000


def test_it_is_small() -> None:
    assert sum(p.numel() for p in Judge().parameters()) <= 250_000


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    Judge(8).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"width": 8', '"width": 12'))
    with pytest.raises(StyleAvatarError, match="has the wrong shape"):
        Judge.from_pretrained(tmp_path)


def test_a_missing_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(StyleAvatarError, match=r"config\.json"):
        Judge.from_pretrained(tmp_path / "none")


def test_only_what_is_asked_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    word = {name: words[0] for name, words in HEADS.items()}
    seen = Judgement(torch.tensor([10.0, 80.0, 170.0]), [word | {"hair": "bob"}, word, word])
    judge = Judge(8)
    monkeypatch.setattr(judge, "judge", lambda images: seen)
    asked = [Request(0.0, {"hair": "bob"}), Request(90.0, {"hair": "afro", "style": "cartoon"}), Request(0.0, {})]
    scores = alignment(judge, torch.zeros(3, 3, 64, 64), asked)
    assert set(scores) == {"view", "hair", "style", "attributes"}
    assert (scores["view"].right, scores["view"].count) == (2, 3)
    assert (scores["hair"].right, scores["hair"].count) == (1, 2)
    assert scores["attributes"].share == pytest.approx(2 / 3)


def test_chance_is_weighted_by_how_often_an_attribute_is_asked() -> None:
    assert together([Score("a", 1, 3, 0.5), Score("b", 1, 1, 0.1)]).chance == pytest.approx(0.4)


def test_nobody_states_what_is_absent() -> None:
    visible = {"beard": "none", "smile": "no", "kind": "human", "hair": "bob"}
    assert stated(visible, "clay") == {"hair": "bob", "style": "clay"}
