"""The policy sees every prompt and picture; what it refuses is a verdict and never a crash."""

from pathlib import Path

import pytest
import torch
from synthesis.drawn import at_most, noise, sample_of, scene

from styleavatar3d.config import validate
from styleavatar3d.errors import ConfigError
from styleavatar3d.synthesis.gates import Gatekeeper, GatesConfig, draw_until_passed
from styleavatar3d.synthesis.safety import Safety, SafetyConfig, policy_digest

MASK = torch.full((1, 32, 32), 255, dtype=torch.uint8)
DEFAULT = Safety.open(SafetyConfig())


@pytest.mark.parametrize(
    "text",
    [
        "a nude woman", "NUDITY, clay style", "n4ked man", "ｎａｋｅｄ man", "na\u200bked man", "n a k e d man",
        "a nаked man",
        "decapitated statue", "severed\nheads", "severed-head", "a nu\u0301de bust", "kkk", "x" * 3000,
    ],
)  # fmt: skip
def test_prompts_are_refused_by_category_however_they_are_written(text: str):
    assert DEFAULT.refuse_prompt(text).partition(":")[0] in ("sexual", "gore", "hate", "length")


@pytest.mark.parametrize(
    "text",
    [
        "", "a young woman with red hair, clay style", "skilled sextant maker from Essex",
        "{0} %s %(x)s ../../etc/passwd",
        "\x00\x1b[31m" * 50, "\u202e abc", "cockatoo feathers and a torch", "👩‍🚀" * 200,
    ],
)  # fmt: skip
def test_harmless_prompts_are_allowed(text: str):
    assert DEFAULT.refuse_prompt(text) == ""


def test_no_prompt_of_ours_is_refused():
    from styleavatar3d.assets import assets
    from styleavatar3d.synthesis.prompts import vocabulary
    from styleavatar3d.synthesis.vocabulary import load_vocabulary

    full = load_vocabulary()
    said = [*vocabulary(), *(each.words for each in [*full.styles.values(), *full.views.values()])]
    said += [each.phrase(value) for each in full.attributes.values() for value in each.values]
    assert (assets() / "data" / "safety.yaml").is_file()
    assert [text for text in said if DEFAULT.refuse_prompt(text)] == []


def test_a_policy_is_a_file_and_its_words_have_a_digest(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("longest: 20\nrefuse: {brand: [acme*]}\n")
    config = SafetyConfig(policy=str(tmp_path / "mine.yaml"))
    mine = Safety.open(config)
    assert mine.refuse_prompt("an Acmeware cup") == "brand: acmeware" and mine.refuse_prompt("a nude") == ""
    assert mine.refuse_prompt("x" * 21).startswith("length") and len(policy_digest(config)) == 12
    nobody = Safety.open(SafetyConfig(policy=""))
    assert nobody.refuse_prompt("a nude") == "" and nobody.verdicts("", None)["prompt"] == "not asked"
    (tmp_path / "mine.yaml").write_text("refuse: {brand: acme}\n")
    with pytest.raises(ConfigError, match=r"refuse\.brand"):
        Safety.open(config)
    with pytest.raises(ConfigError, match="no such safety policy"):
        Safety.open(SafetyConfig(policy="nowhere.yaml"))
    with pytest.raises(ConfigError, match="need each other"):
        validate(SafetyConfig, {"classifier": "x"})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random vision transformer with two labels."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_a_refused_picture_is_drawn_again_and_never_stored(classifier: Path):
    everything = Safety.open(SafetyConfig(classifier=str(classifier), refuse={"nsfw": 1e-6}))
    keeper = Gatekeeper.open(GatesConfig(redraws=1), everything)
    assert keeper.models[0].sha256

    def make(scenes, attempt):
        return [sample_of(noise(one.index), MASK, one.index, attempt=attempt) for one in scenes]

    samples = draw_until_passed([scene(0), scene(1)], make, lambda one: make([one], 0)[0], keeper, at_most(2), list)
    for sample in samples:
        assert (sample.image == 127).all() and sample.record.refusals == [["safety"], ["safety"]]
        assert sample.record.safety["picture"].startswith("refused, nsfw: ")
    nothing = Safety.open(SafetyConfig(classifier=str(classifier), refuse={"nsfw": 1.0}))
    assert nothing.refuse_pictures(torch.stack([noise(0), noise(1)])) == ["", ""]


def test_a_classifier_is_checked_when_it_is_loaded(classifier: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="no such label"):
        Safety.open(SafetyConfig(classifier=str(classifier), refuse={"gore": 0.5}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Exception, match="cannot be read"):
        Safety.open(SafetyConfig(classifier=str(tmp_path), refuse={"nsfw": 0.5}))
