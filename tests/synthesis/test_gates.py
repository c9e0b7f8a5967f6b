"""Gates: wrong pictures are told from right ones, and what is drawn again is a pure function of what was asked."""

import pytest
import torch
from synthesis.drawn import at_most, noise, rendered_sample, sample_of, scene
from torch.nn import functional as F

from styleavatar3d.assets import assets
from styleavatar3d.config import validate
from styleavatar3d.errors import ConfigError
from styleavatar3d.shards.schema import Record
from styleavatar3d.shards.writer import Sample
from styleavatar3d.synthesis.gates import (
    MINIATURE,
    Gatekeeper,
    GatesConfig,
    describe_judges,
    draw_until_passed,
    pass_gates,
    picture_seed,
)
from styleavatar3d.synthesis.safety import Policy, Safety, SafetyConfig

MASK = torch.full((1, 32, 32), 255, dtype=torch.uint8)
POLICY = Safety(Policy(refuse={"gore": ["gore"]}))


def smooth(seed: int) -> torch.Tensor:
    """A blurred picture."""
    small = noise(seed, 4)[None].float()
    return F.interpolate(small, (32, 32), mode="bicubic").clamp(0, 255)[0].to(torch.uint8)


def keeper(**gates: object) -> Gatekeeper:
    return Gatekeeper.open(GatesConfig.model_validate(gates), POLICY)


class Maker:
    """Draws noise, and something blurred where `fails(index, attempt)`; remembers what it was asked."""

    def __init__(self, fails):
        self.fails, self.asked = fails, []

    def __call__(self, scenes, attempt: int) -> list[Sample]:
        self.asked.append((attempt, [one.index for one in scenes]))
        return [self.draw(one.index, attempt) for one in scenes]

    def draw(self, index: int, attempt: int) -> Sample:
        seed = picture_seed(0, index, attempt)
        image = smooth(seed) if self.fails(index, attempt) else noise(seed)
        return sample_of(image, MASK, index, attempt=attempt)


def withhold(one) -> Sample:
    return sample_of(noise(0), MASK, one.index)


def run(make: Maker, gates: Gatekeeper, count: int = 7, batch: int = 3) -> list[Sample]:
    return draw_until_passed([scene(index) for index in range(count)], make, withhold, gates, at_most(batch), list)


def test_no_gate_is_set_by_default_and_nothing_is_scored():
    assert GatesConfig().asked == {}
    make = Maker(lambda index, attempt: True)
    samples = run(make, keeper())
    assert make.asked == [(0, [0, 1, 2]), (0, [3, 4, 5]), (0, [6])]
    assert all(sample.record.gates == {} and sample.record.verdict == "accepted" for sample in samples)


def test_what_fails_is_drawn_again_with_a_derived_seed_until_it_passes():
    make = Maker(lambda index, attempt: index in (1, 4, 5) and attempt < index // 2 + 1)
    samples = run(make, keeper(sharpness=1.0, redraws=3))
    assert make.asked[3:] == [(1, [1, 4, 5]), (2, [4, 5]), (3, [4, 5])]
    assert [sample.record.attempt for sample in samples] == [0, 1, 0, 0, 3, 3, 0]
    assert all(sample.record.verdict == "accepted" for sample in samples)
    assert samples[4].record.refusals == [["sharpness"]] * 3 and samples[0].record.refusals == []
    assert samples[4].record.seed == picture_seed(0, 4, 3) != picture_seed(0, 4, 0)
    assert [sample.record.index for sample in samples] == list(range(7))


def test_the_best_of_what_never_passes_is_kept_as_rejected():
    make = Maker(lambda index, attempt: True)
    samples = run(make, keeper(sharpness=1.0, redraws=2), count=3)
    for sample in samples:
        drawn = [make.draw(sample.record.index, attempt) for attempt in range(3)]
        scores = [keeper(sharpness=1.0).score([one])[0]["sharpness"] for one in drawn]
        assert sample.record.verdict == "rejected" and sample.record.refusals == [["sharpness"]] * 3
        assert sample.record.gates["sharpness"] == max(scores)
        assert sample.record.attempt == scores.index(max(scores))


def test_verdicts_do_not_depend_on_the_batch_and_records_survive_json():
    def samples(batch: int) -> list[Record]:
        make = Maker(lambda index, attempt: (index + attempt) % 3 == 0)
        return [one.record for one in run(make, keeper(sharpness=1.0, novelty=0.05), batch=batch)]

    assert samples(2) == samples(7)
    assert [Record.from_json(record.to_json()) for record in samples(2)] == samples(2)


def test_a_picture_that_is_there_already_is_not_new():
    def make(scenes, attempt: int) -> list[Sample]:
        return [sample_of(noise(5 if attempt == 0 else one.index), MASK, one.index, attempt=attempt) for one in scenes]

    samples = draw_until_passed([scene(i) for i in range(3)], make, withhold, keeper(novelty=0.05), at_most(2), list)
    assert [sample.record.attempt for sample in samples] == [0, 1, 1]
    assert samples[1].record.refusals == [["novelty"]] and samples[0].record.gates["novelty"] == 1.0
    brighter = (noise(5).float() * 0.8 + 30).round().to(torch.uint8)
    kept: list = []
    said = list(keeper(novelty=0.05).judge([sample_of(noise(5), MASK), sample_of(brighter, MASK)], kept))
    assert said[1].record.verdict == "rejected" and len(kept) == 1


def test_a_refused_prompt_is_never_drawn_and_leaves_a_grey_rejected_record():
    make = Maker(lambda index, attempt: False)
    scenes = [scene(0), scene(1, "a bust with GORE"), scene(2)]
    samples = draw_until_passed(scenes, make, withhold, keeper(), at_most(2), list)
    assert make.asked == [(0, [0, 2])]
    refused = samples[1].record
    assert refused.verdict == "rejected" and refused.refusals == [["safety"]]
    assert refused.safety == {"prompt": "refused, gore: gore", "picture": "not asked"}
    assert (samples[1].image == 127).all() and samples[0].record.safety["prompt"] == "allowed"


def test_verdicts_follow_the_thresholds():
    config = GatesConfig(estimator="miniature", view=30, face=0.5, coverage=0.8, text=0.5)
    good = {"view": 30.0, "face": 0.5, "coverage": 0.8, "text": 0.5}
    assert pass_gates(good, config) == ("accepted", [])
    for name, bad in {"view": 30.1, "face": 0.51, "coverage": 0.79, "text": 0.4}.items():
        assert pass_gates(good | {name: bad}, config) == ("rejected", [name])
    assert pass_gates({"view": 10.0, "text": 0.9}, config) == ("accepted", [])


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"view": 30}, "no estimator answers view"),
        ({"estimator": "mediapipe", "weights": "x", "text": 0.2}, "answers text: .*miniature or clip"),
        ({"estimator": "clip", "text": 0.2}, "needs weights"),
        ({"sharpnes": 1.0}, "did you mean 'sharpness'"),
        ({"view": 400}, "view"),
    ],
)
def test_a_gate_that_nobody_can_answer_is_an_error_of_the_config(gates: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        validate(GatesConfig, gates)


@pytest.mark.skipif(not (assets() / "data/miniature/estimators").is_dir(), reason="needs the shipped weights")
def test_weights_that_judge_are_named_only_where_somebody_is_asked():
    (judge,) = describe_judges(MINIATURE, SafetyConfig())
    assert judge.id == "estimators" and len(judge.sha256) == 64 and judge.licence == "apache-2.0"
    assert describe_judges(GatesConfig(sharpness=0.2), SafetyConfig()) == []


@pytest.mark.skipif(not (assets() / "data/miniature/estimators").is_dir(), reason="needs the shipped weights")
def test_the_miniature_sees_wrong_views_faces_at_the_back_and_other_words():
    gates = Gatekeeper.open(MINIATURE, POLICY)
    right = [rendered_sample(yaw) for yaw in (0.0, 60.0, -90.0, 170.0)]
    wrong = [rendered_sample(yaw, asked) for yaw, asked in ((0.0, 90.0), (60.0, -60.0), (0.0, 179.0))]
    assert [sample.record.verdict for sample in gates.judge(right, [])] == ["accepted"] * 4
    failed = [sample.record.refusals[0] for sample in gates.judge(wrong, [])]
    assert all("view" in names for names in failed) and "face" in failed[2] and "face" not in failed[0]
    assert "face" not in gates.score(right)[0]
    other = right[0]._replace(record=wrong_words(right[0].record))
    assert gates.score([other])[0]["text"] < 0.5 < gates.score(right)[0]["text"]


def wrong_words(record: Record) -> Record:
    said = {"hair": "afro", "hair_color": "blue", "shirt_color": "red", "skin": "dark", "eyes": "green"}
    return record.model_copy(update={"attributes": record.attributes | said, "style": "bronze"})
