"""The evaluation end to end, with real classes at the smallest sizes, and what its measures say of known cases."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from styleavatar3d.assets import assets
from styleavatar3d.bench import avatars, evaluate, evaluate_diffusion, evaluate_prior, population
from styleavatar3d.bench.fitting import figure_depth, fit_head, pearson
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import WORDS, Look
from styleavatar3d.metrics.judge import Judge, Judgement

SMALLEST = {"renders": 2, "pairs": 3, "samples": 3, "avatars": 1, "prompts": 1, "codes": 3, "retrieval": 2}
NOTHING = dict.fromkeys(("renders", "pairs", "samples", "avatars", "prompts", "retrieval"), 0)


@pytest.fixture
def folder(tmp_path: Path, diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 3)  # figures: else 64 are drawn for two pictures
    monkeypatch.setattr("styleavatar3d.miniature.renders.fingerprint", str)
    tiny.write_pipeline(tmp_path)
    shutil.copytree(diffusion, tmp_path / "diffusion")
    torch.manual_seed(0)
    Judge((8, 8, 8, 8)).save_pretrained(tmp_path / "judge")
    Estimator(("nose",), (8, 8, 8, 8)).save_pretrained(tmp_path / "estimators")
    return tmp_path


def test_every_table_is_filled(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avatars, "BUILDS", (0.5,))
    monkeypatch.setattr(avatars, "FACES", 1)
    out = folder / "made" / "evaluate.json"
    result = evaluate.run(str(folder), out=str(out), **SMALLEST)
    assert result["diffusion"]["view"]["count"] == 3
    assert set(result["diffusion"]["yaw"]) == {"median", "90th percentile"}
    assert {"generator", "untrained", "yaw", "features", "bands", "pose"} == set(result["generator"])
    assert result["generator"]["features"].startswith("clip-16-")
    assert {"verdicts", "depth", "solid"} == set(result["avatars"]) and "all" in result["avatars"]["verdicts"]
    assert [row["of"] for row in result["avatars"]["solid"]] == ["avatars", "renders"]
    assert 0 <= result["prior"]["random"] <= result["prior"]["best of 3"] <= 1
    assert result["retrieval"]["chance"] == 0.5
    assert json.loads(out.read_text()) == result
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("judge", "diffusion", "core", "verdicts", "prompt ->", "picture ->"))


def test_an_amount_of_0_leaves_its_table_out(folder: Path) -> None:
    result = evaluate.run(str(folder), **NOTHING | {"renders": 2})
    assert set(result) & {"judge", "diffusion", "generator", "avatars", "prior", "retrieval"} == {"judge"}
    assert result["sizes"]["pairs"] == 0


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(StyleAvatarError, match=r"config\.json"):
        evaluate.run(str(tmp_path), **NOTHING | {"renders": 2})


@pytest.mark.parametrize(("amounts", "message"), [
    ({"pairs": -1}, "less than nothing"), ({"codes": 0}, "best of no codes"), ({"samples": 1}, "no distribution"),
    ({"workers": 0}, "nobody would measure"),
])  # fmt: skip
def test_amounts_that_mean_nothing_are_refused(folder: Path, amounts: dict[str, int], message: str) -> None:
    with pytest.raises(StyleAvatarError, match=message):
        evaluate.run(str(folder), **amounts)


def test_too_few_pictures_in_the_shards_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from styleavatar3d.shards import loader

    monkeypatch.setattr(loader, "ShardDataset", lambda url: [])
    with pytest.raises(StyleAvatarError, match="too few pictures"):
        population.shard_pictures("somewhere", range(2), 2)


def test_a_figure_fits_itself_best() -> None:
    own = Look(hair="long", build=0.9, seed=3)
    labels = orbit_labels(torch.tensor([0.0, 60.0]), torch.zeros(2))
    depth = figure_depth(build_figure(own), labels, 32)
    looks = [replace(own, hair="bald"), own, replace(own, build=0.1, seed=4)]
    best, correlation = fit_head(looks, depth, depth.isfinite(), labels)
    assert best == own and correlation == pytest.approx(1, abs=1e-6)
    flat = torch.full_like(depth, 2.7)
    assert fit_head(looks, flat, depth.isfinite(), labels)[1] == 0


def test_correlation_of_known_numbers() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    assert pearson(x, 3 * x - 1) == pytest.approx(1)
    assert pearson(x, -x) == pytest.approx(-1)
    assert pearson(x[:1], x[:1]) == 0


def test_verdicts_are_counted_where_the_attribute_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Glasses are asked on the ring that shows them, eyes from the front, hair from all around."""
    word = {name: words[0] for name, words in WORDS.items()}
    front, side, around = ([dict(word) for _ in range(8)] for _ in range(3))
    front[0]["eyes"], side[0]["glasses"], around[0]["hair"], around[1]["hair"] = "blue", "sunglasses", "bob", "bob"
    around[2]["glasses"] = "sunglasses"  # seen from behind: nobody asks
    judge = Judge((8, 8, 8, 8))
    said = Judgement(torch.zeros(24), front + side + around, torch.zeros(24))
    monkeypatch.setattr(judge, "judge", lambda images: said)
    look, style, shares = avatars.verdicts(judge, torch.zeros(24, 3, 64, 64))
    assert style == "cartoon" and look.glasses == "none" and not look.smile
    assert (shares["eyes"], shares["glasses"], shares["hair"], shares["style"]) == (7 / 8, 7 / 8, 6 / 8, 1)


def test_only_what_is_asked_counts_for_the_best_code() -> None:
    asked = evaluate_prior.numbers([{"hair": "bob", "kind": "orc"}, {"hair": "long"}])
    full = {name: words[0] for name, words in WORDS.items()}
    said = evaluate_prior.numbers([full | {"hair": "bob"}, full | {"hair": "long"}])
    assert evaluate_prior.right(asked, said).tolist() == [[0.5, 0.0], [0.0, 1.0]]


def test_the_shipped_diffusion_model_follows_camera_and_caption() -> None:
    folder = assets() / "data" / "miniature"
    table = evaluate_diffusion.table(folder, Judge.from_pretrained(folder / "judge"), 24, seed=1)
    assert table["view"]["share"] >= 0.7
    assert table["attributes"]["share"] >= 1.7 * table["attributes"]["chance"]
