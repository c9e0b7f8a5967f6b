"""The style prior's tables at the smallest size, with real classes of random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.pipelines import AvatarPipeline
from styleavatar3d.avatar.requests import Request
from styleavatar3d.bench import stylespace
from styleavatar3d.bench.evaluate_prior import asked
from styleavatar3d.bench.held_out import signed
from styleavatar3d.bench.measured import sections
from styleavatar3d.bench.stylespace_measures import EDITS, PICTURES, PROMPTS, SEEDS, WORD, StyleSpace, distance
from styleavatar3d.bench.stylespace_methods import FIT, OF_PICTURES, OF_PROMPTS, inverted, ranked
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.runtime.random import normal

COUNT = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.write_pipeline(tmp_path_factory.mktemp("pipeline"), estimator=True)
    torch.manual_seed(4)
    Judge((4, 4, 4, 8)).save_pretrained(folder / "judge")
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return AvatarPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def told(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("out")
    return stylespace.run(str(out), COUNT, model=str(folder), inversions=1), out


def test_every_table_has_its_rows_and_its_numbers_are_in_range(told):
    tables, out = told
    assert json.loads((out / "stylespace.json").read_text()) == tables
    assert [row["method"] for row in tables["pictures"]] == list(OF_PICTURES)
    assert [row["method"] for row in tables["prompts"]] == list(OF_PROMPTS)
    assert [row["edit"] for row in tables["edits"]] == [edit.prompt for edit in EDITS]
    assert [row["condition"] for row in tables["diversity"]] == [*PICTURES, PROMPTS, WORD]
    assert [row["avatars"] for row in tables["pictures"]] == [1 if name in FIT else COUNT for name in OF_PICTURES]
    shares = [row[f"first, {kind}"] for row in tables["pictures"] for kind in PICTURES]
    shares += [row[name] for row in tables["prompts"] for name in ("attributes", "core attributes")]
    shares += [row[name] for row in tables["edits"] for name in ("changed", "identity kept", "both") if row["avatars"]]
    assert all(0 <= share <= 1 for share in shares)
    assert all(row["W error"] > 0 and row["nearer to a training code"] is None for row in tables["pictures"])
    *conditions, word = tables["diversity"]
    assert all(row["ratio"] > 0 for row in conditions)
    assert word["distance"] > 0 and (word["ratio"] is None) == (word["of random avatars"] is None)
    first, turned = tables["latency"]
    assert 0 < first["wall seconds"] < turned["wall seconds"]


def test_a_second_call_measures_nothing_again(told, folder: Path, monkeypatch: pytest.MonkeyPatch):
    tables, out = told
    for name in ("make", "choose"):
        monkeypatch.setattr(AvatarPipeline, name, lambda *_: pytest.fail("nothing was left to measure"))
    assert stylespace.run(str(out), COUNT, model=str(folder), inversions=1) == tables
    with pytest.raises(StyleAvatarError, match="something else"):
        stylespace.run(str(out), COUNT, seed=2, model=str(folder), inversions=1)


def test_the_tables_become_a_section_of_the_results_page(told):
    [page] = sections(told[1])
    assert page.startswith("## What the style prior is worth") and f"--count {COUNT} --seed 1" in page
    assert "| inversion, 200 steps | 1 |" in page and "the nearest of 1000 random codes" in page


def test_codes_tell_whether_the_prior_repeats_them(told, folder: Path, monkeypatch: pytest.MonkeyPatch):
    tables, out = told
    space = StyleSpace(stylespace.Job(f"{out}/measured", COUNT, 1, str(folder), 1))
    known = space.read("own renders, prior, 8 steps")("codes")[:, :1]
    row = next(row for row in stylespace.pictures(space, known, trained=True) if row["method"] == "prior, 8 steps")
    assert row["nearest other code"] == 0 and row["nearer to a training code"] == 1
    with pytest.raises(StyleAvatarError, match="no pairs"):
        stylespace.run(str(out), COUNT, model=str(folder), codes=str(folder))


def test_an_inversion_comes_nearer_to_its_picture(pipeline: Any):
    generator = pipeline.generator
    front = generator.orbit(torch.zeros(1), torch.zeros(1))
    goal = Avatar(generator.mapping(normal(0, "goal", 0, (1, 16)))[0], generator).views(front)
    request = Request(image=goal[0].movedim(0, -1).numpy(), seed=0)
    errors = [
        (signed(inverted(pipeline, request, steps).views(front)) - signed(goal)).abs().mean() for steps in (0, 60)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_more_random_codes_come_nearer(pipeline: Any):
    request = Request(prompt=asked(0, 0)[0], seed=3)
    near = [ranked(pipeline, request, count).provenance["request"]["likeness"] for count in (1, 8)]
    assert near[1] >= near[0] - 1e-3


def test_avatars_of_one_word_are_compared_with_those_that_show_it(folder: Path, tmp_path: Path):
    space = StyleSpace(stylespace.Job(str(tmp_path), COUNT, 1, str(folder), 0))
    likely = space.judge.judge(space._fronts([space._random(0)])).words[0]
    shown = space._showing({"kind": likely["kind"]}, 0)
    assert len(shown) == SEEDS and all(words["kind"] == likely["kind"] for words in space.judge.judge(shown).words)
    assert space._word(0).items() <= asked(1, 0)[1].items() and len(space._word(0)) == 1


def test_distance_is_that_of_pairs():
    assert distance(torch.eye(3)) == 1 and distance(torch.ones(4, 1)) == 0


def test_what_measures_nothing_is_refused(tmp_path: Path):
    wrongs: list[dict[str, Any]] = [{"count": 1}, {"inversions": -1}, {"workers": 0}]
    for wrong in wrongs:
        with pytest.raises(StyleAvatarError, match="measures nothing"):
            stylespace.run(str(tmp_path), **wrong)
