"""Full-size prompts: the draw, what views hide, the file's strictness, and coverage."""

from collections import Counter

import pytest
import torch
import yaml

from styleavatar3d.assets import assets
from styleavatar3d.errors import ConfigError, StyleAvatarError
from styleavatar3d.figures.looks import draw_look
from styleavatar3d.shards.schema import mirror_words
from styleavatar3d.synthesis.coverage import chi_square, coverage, samples
from styleavatar3d.synthesis.drawing import describe_view, dice_of, draw_prompt, inclusion, settled_by, subset_sums
from styleavatar3d.synthesis.prompts import words
from styleavatar3d.synthesis.vocabulary import SHIPPED, PromptsConfig, load_vocabulary

FACE = {"face", "eyes", "eyebrows", "nose", "lips", "mouth", "beard", "moustache", "goatee", "stubble", "glasses",
        "sunglasses", "smile", "grin", "freckles", "makeup", "lipstick", "eyeliner", "expression", "smirk"}  # fmt: skip


@pytest.fixture
def tree():
    return yaml.safe_load((assets() / "data" / "prompts.yaml").read_text())


def written(tmp_path, tree):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return PromptsConfig(file=str(path))


def test_the_shipped_words_are_as_many_as_the_papers():
    shipped = load_vocabulary()
    assert len(shipped.styles) == 50 and len(shipped.attributes) >= 20 and shipped.draws == 5
    assert all(one.licence for style in shipped.styles.values() for one in style.models.values())


def test_the_same_arguments_give_the_same_words_in_any_order():
    asked = [(seed, index) for seed in (0, 7) for index in range(40)]
    first = {pair: draw_prompt(*pair, 30.0, 5.0) for pair in asked}
    assert {pair: draw_prompt(*pair, 30.0, 5.0) for pair in reversed(asked)} == first
    assert len({prompt.text for prompt in first.values()}) == len(asked)


def test_five_attributes_are_drawn_whatever_the_view_and_said_where_they_show():
    for index in range(300):
        front, back = draw_prompt(1, index, 0.0, 0.0), draw_prompt(1, index, 180.0, 0.0)
        assert front.drawn == back.drawn and len(front.drawn) == 1 + 3 + 5
        assert set(back.attributes) <= set(front.attributes) <= set(front.drawn)
        assert not FACE & set(words(back.text)), back.text
        assert {"face", "eyes", "nose", "mouth"} <= set(words(back.negative))
        assert len(front.text.split()) < 60  # CLIP reads 77 tokens


def test_nobody_gets_what_does_not_become_them():
    people = [draw_prompt(2, index, 0.0, 0.0).drawn for index in range(3000)]
    children = [one for one in people if one["age"] == "child"]
    assert len(children) > 200
    assert {one.get("facial hair") for one in children} <= {None, "smooth chin"}
    assert not any(one.get("makeup") in ("lipstick", "eyeliner") or one.get("hair style") == "bald" for one in children)
    assert not any("hair colour" in one and one.get("hair style") == "bald" for one in people)
    assert not any("eye colour" in one and one.get("eyewear") == "sunglasses" for one in people)
    assert {one["skin tone"] for one in people if one["kind"] == "robot" and "skin tone" in one} == {
        "white metal skin", "copper skin",
    }  # fmt: skip
    assert not any("a child" in draw_prompt(2, index, 0, 0).text and "man" in words(draw_prompt(2, index, 0, 0).text)
                   for index in range(100))  # fmt: skip


def test_colours_are_not_said_of_colourless_styles():
    config = PromptsConfig(styles={"bronze": 1}, attributes={"hair colour": 1000, "clothing colour": 1000})
    prompt = draw_prompt(0, 0, 0.0, 0.0, config)
    assert "hair colour" in prompt.drawn and "hair colour" not in prompt.attributes and "clothes" not in prompt.text


@pytest.mark.parametrize("yaw", [20.0, 45.0, 90.0, 140.0, -75.0])
def test_a_mirrored_view_is_said_in_mirrored_words(yaw):
    left, right = draw_prompt(3, 4, yaw, 20.0), draw_prompt(3, 4, -yaw, 20.0)
    assert mirror_words(left.text) == right.text and mirror_words(left.negative) == right.negative


def test_views_are_worded_by_yaw_and_pitch_band():
    shipped = load_vocabulary()
    said = {
        (yaw, pitch): describe_view(shipped, yaw, pitch)
        for yaw in range(-180, 180, 45)
        for pitch in (-30, -10, 0, 15, 40)
    }
    assert len({text for text, _ in said.values()}) == 40
    assert "nape of the neck" in said[-180, -30][0] and "nape of the neck" not in said[0, -30][0]
    assert "chin" in said[-180, 40][1] and "nostrils" in said[0, 40][1]
    bands = [describe_view(shipped, 0, pitch)[0] for pitch in (-90, -15, -15.1, 11.9, 12)]
    assert bands[0] == bands[2] != bands[1] and bands[3] != bands[4]


def test_a_set_is_drawn_with_the_product_of_its_weights():
    weights = (1.0, 2.0, 3.0)
    sums = subset_sums(weights)
    assert sums[0][:3] == (1.0, 6.0, 11.0)  # 1*2 + 1*3 + 2*3
    assert inclusion(sums, 1.0, 0, 2) == pytest.approx((1 * 2 + 1 * 3) / 11)
    assert inclusion(sums, 3.0, 2, 1) == 1.0 and inclusion(sums, 3.0, 2, 0) == 0.0


def test_chi_square_against_the_tables():
    test = chi_square(torch.tensor([60.0, 40.0]).double(), torch.tensor([50.0, 50.0]).double())
    assert test.statistic == pytest.approx(4.0) and test.freedom == 1 and test.p == pytest.approx(0.0455, abs=1e-4)
    pooled = chi_square(torch.tensor([96.0, 2.0, 2.0]).double(), torch.tensor([94.0, 3.0, 3.0]).double())
    assert pooled.freedom == 1


def test_the_law_is_a_law_and_agrees_with_every_attribute_being_equally_likely():
    for name, chances in dice_of(SHIPPED).law().items():
        assert sum(chances.values()) == pytest.approx(1.0), name
        if name not in ("gender", "age", "kind"):
            assert 1 - chances[""] == pytest.approx(5 / len(load_vocabulary().attributes))


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))])
def test_the_draws_cover_everything(count):
    report = coverage(count=count)
    assert report["covered"] and report["below"] == []
    assert min(one["p"] for one in report["attributes"].values()) > 0.001
    assert all(value["count"] > 0 for one in report["attributes"].values() for value in one["values"].values())


def test_coverage_notices_a_draw_that_is_not_the_law(monkeypatch):
    from styleavatar3d.synthesis import coverage as module

    def loaded(seed, purpose, index, count):
        numbers = torch.rand(count, generator=torch.Generator().manual_seed(index))
        return torch.cat([numbers[:1] * 0.8, numbers[1:]])

    monkeypatch.setattr(module, "uniform", loaded)
    report = coverage(count=2000)
    assert not report["covered"] and "style" in report["below"]


def test_weights_of_the_config_restrict_and_override():
    config = PromptsConfig(
        styles={"anime": 3, "pencil": 1}, attributes={"facial hair": 0},
        values={"age": {"child": 0}, "headwear": {"cap": 50}}, draws=7,
    )  # fmt: skip
    drawn = [draw_prompt(0, index, 0.0, 0.0, config).drawn for index in range(2000)]
    styles = Counter(one["style"] for one in drawn)
    assert set(styles) == {"anime", "pencil"} and 1380 < styles["anime"] < 1620
    assert all(len(one) == 4 + 7 and one["age"] != "child" and "facial hair" not in one for one in drawn)
    hats = Counter(one["headwear"] for one in drawn if "headwear" in one)
    assert hats["cap"] > 0.5 * hats.total()
    assert coverage(config, count=2000)["covered"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PromptsConfig(styles={"anmie": 1}), "did you mean 'anime'"),
        (PromptsConfig(attributes={"haircolour": 1}), "did you mean 'hair colour'"),
        (PromptsConfig(values={"headwear": {"capp": 1}}), "prompts.values.headwear: unknown 'capp'"),
        (PromptsConfig(values={"facial hair": {"smooth chin": 0}}), "no value is left for a person who is child"),
        (PromptsConfig(draws=99), "99 attributes are asked for"),
        (PromptsConfig(file="nowhere.yaml"), "there is no such prompts file"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config, message):
    with pytest.raises(ConfigError, match=message):
        load_vocabulary(config)


def test_a_file_of_ones_own_is_read_strictly(tmp_path, tree):
    mine = {"full": tree["full"]}
    mine["full"]["attributes"]["hair style"]["values"]["quiff"] = {"say": "a tall quiff", "weight": 2000}
    config = written(tmp_path, mine)
    seen = {draw_prompt(0, index, 0, 0, config).drawn.get("hair style") for index in range(100)}
    assert seen <= {None, "quiff"} and "quiff" in seen


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("attributes.nose.vlaues", {}, "attributes.nose.vlaues: unknown key. did you mean 'values'"),
        (
            "attributes.nose.values.long.wieght",
            1,
            "attributes.nose.values.long.wieght: unknown key. did you mean 'weight'",
        ),
        ("styles.anime.words", 3, "styles.anime.words: Input should be a valid string"),
        ("attributes.nose.seen", 400, "attributes.nose.seen"),
        ("attributes.nose.values.long", {"unless": ["robott"]}, "unknown 'robott'. did you mean 'robot'"),
        ("pitches.level.from", 50, "bands begin at -90 and rise"),
        ("views.font", {"words": "x"}, "did you mean 'front'"),
        ("prompt", "{veiw}", "did you mean 'view'"),
    ],
)
def test_a_wrong_file_says_where(tmp_path, tree, path, value, message):
    place = tree["full"]
    *above, last = path.split(".")
    for name in above:
        if isinstance(place[name], (int, float)):
            place[name] = {"weight": place[name]}
        place = place[name]
    place[last] = value
    with pytest.raises(ConfigError, match=message):
        load_vocabulary(written(tmp_path, {"full": tree["full"]}))


def test_what_a_figure_settles_is_not_contradicted():
    for index in range(60):
        look = draw_look(0, index)
        given = settled_by(look)
        prompt = draw_prompt(0, index, 0.0, 0.0, given=given)
        assert all(prompt.drawn.get(name, "") == value for name, value in given.items())
        assert look.hat != "none" or "headwear" not in prompt.drawn
        assert look.hair != "bald" or "hair colour" not in prompt.drawn
    with pytest.raises(StyleAvatarError, match="did you mean 'bald'"):
        draw_prompt(0, 0, 0, 0, given={"hair style": "bold"})


def test_a_network_made_for_a_style_joins_only_when_asked_for():
    config = PromptsConfig(styles={"pixel art": 1})
    assert draw_prompt(0, 0, 0, 0, config).model is None
    prompt = draw_prompt(0, 0, 0, 0, config.model_copy(update={"style_models": "sdxl"}))
    assert prompt.model is not None and prompt.model.kind == "lora" and prompt.text.startswith("pixel, front view")


def test_samples_are_seen_from_all_around():
    assert len({one["text"] for one in samples(count=12)}) == 12
