import ast
import json
from pathlib import Path

import pytest
import torch

import styleavatar3d
from styleavatar3d.camera.cameras import quarter_name
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.metrics.alignment import (
    Request,
    Score,
    agreement,
    alignment,
    faces_at_the_back,
    stated,
    together,
    yaw_errors,
)
from styleavatar3d.metrics.judge import Judge, Judgement, yaw_bins, yaw_of

SMALL = (8, 8, 8, 8)


@pytest.mark.parametrize(
    ("yaw", "view"),
    [
        (0, "front"),
        (44, "front"),
        (-45, "front"),
        (45, "left"),
        (90, "left"),
        (-90, "right"),
        (-180, "back"),
        (179, "back"),
    ],
)
def test_four_views(yaw: float, view: str) -> None:
    assert quarter_name(yaw) == view


def test_yaw_comes_back_from_its_bins() -> None:
    yaw = torch.arange(-180.0, 180.0, 1.7)
    found = yaw_of(yaw_bins(yaw).log())
    assert ((found - yaw + 180) % 360 - 180).abs().max() < 0.5
    assert found.min() >= -180 and found.max() < 180
    assert torch.allclose(yaw_bins(yaw).sum(1), torch.ones(len(yaw)))


def test_of_two_likely_views_one_is_taken() -> None:
    either = 0.6 * yaw_bins(torch.tensor([0.0])) + 0.4 * yaw_bins(torch.tensor([-180.0]))
    assert yaw_of(either.log()).abs().item() < 1


def test_saving_keeps_the_judgement(tmp_path: Path) -> None:
    judge, images = Judge(SMALL).eval(), torch.rand(4, 3, 64, 64) * 2 - 1
    judge.save_pretrained(tmp_path)
    again = Judge.from_pretrained(tmp_path)
    for name, numbers in judge(images).items():
        assert torch.allclose(again(images)[name], numbers, atol=0.02), name


def test_it_is_small(tmp_path: Path) -> None:
    Judge().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size <= 1.2e6


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    Judge(SMALL).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    about = json.loads(config.read_text())
    config.write_text(json.dumps(about | {"widths": [8, 8, 8, 12]}))
    with pytest.raises(StyleAvatarError, match="another network"):
        Judge.from_pretrained(tmp_path)


def test_a_judge_of_other_attributes_is_refused(tmp_path: Path) -> None:
    Judge(SMALL).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("moustache", "goatee"))
    with pytest.raises(StyleAvatarError, match="other attributes") as error:
        Judge.from_pretrained(tmp_path)
    assert "beard" in str(error.value)


def test_a_missing_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(StyleAvatarError, match=r"config\.json"):
        Judge.from_pretrained(tmp_path / "none")


def test_only_measurements_ask_the_judge() -> None:
    """Were the product to use it, it could not be measured by it."""
    package = Path(styleavatar3d.__file__).parent
    measurements = {f"metrics/{name}.py" for name in ("judge", "alignment", "consistency")}
    allowed = measurements | {"miniature/train_judge.py", "miniature/train.py"}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name in allowed or name.startswith("bench/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert not module.endswith(("metrics.judge", "metrics.alignment", "train_judge")), f"{name}: {module}"


def judgement(yaw: list[float], words: list[dict[str, str]], face: list[float]) -> Judgement:
    return Judgement(torch.tensor(yaw), words, torch.tensor(face))


def test_only_what_is_asked_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    word = {name: words[0] for name, words in WORDS.items()}
    seen = judgement([10.0, 80.0, 170.0], [word | {"hair": "bob"}, word, word], [1.0, 1.0, 0.0])
    judge = Judge(SMALL)
    monkeypatch.setattr(judge, "judge", lambda images: seen)
    asked = [Request(0.0, {"hair": "bob"}), Request(90.0, {"hair": "afro", "smile": "no"}), Request(0.0, {})]
    scores = alignment(judge, torch.zeros(3, 3, 64, 64), asked)
    assert set(scores) == {"view", "core", "attributes", "hair", "smile"}
    assert (scores["view"].right, scores["view"].count) == (2, 3)
    assert (scores["hair"].right, scores["hair"].count) == (1, 2)
    assert scores["attributes"].share == pytest.approx(2 / 3) and scores["core"].share == 0.5


def test_errors_of_the_yaw_go_the_short_way_round() -> None:
    seen = judgement([175.0, 0.0], [], [0.0, 0.0])
    assert yaw_errors(seen, torch.tensor([-175.0, 10.0])) == {"median": 10.0, "90th percentile": 10.0}


def test_faces_count_at_the_back_only() -> None:
    seen = judgement([0.0] * 4, [], [0.9, 0.9, 0.2, 0.9])
    score = faces_at_the_back(seen, torch.tensor([0.0, 170.0, -135.0, 134.0]))
    assert (score.right, score.count) == (1, 2)


def test_chance_is_weighted_by_how_often_an_attribute_is_asked() -> None:
    assert together("both", [Score("a", 1, 3, 0.5), Score("b", 1, 1, 0.1)]).chance == pytest.approx(0.4)


def test_nobody_states_what_is_absent() -> None:
    visible = {"beard": "none", "smile": "no", "kind": "human", "hair": "bob", "style": "clay"}
    assert stated(visible) == {"hair": "bob", "style": "clay"}


def test_agreement_is_with_the_majority() -> None:
    assert agreement(["bob", "long", "bob", "bob"]) == 0.75
