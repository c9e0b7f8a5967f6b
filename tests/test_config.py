"""Configuration errors name the key, the value, and what was meant."""

import time

import pytest

from styleavatar3d.config import RunConfig, Strict, config_hash, load_config, save_config
from styleavatar3d.errors import ConfigError


class Train(Strict):
    kimg: float = 1.0
    layers: tuple[int, ...] = (1, 2)


class Toy(Strict):
    run: RunConfig
    train: Train = Train()


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "toy.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_values_and_overrides(write):
    config = load_config(Toy, write("run: {out: there}\ntrain: {kimg: 3}"), ["--train.kimg", "5", "--run.seed=7"])
    assert (config.run.out, config.train.kimg, config.run.seed) == ("there", 5, 7)
    assert load_config(Toy, write(save_config(config))) == config


def test_an_override_may_be_a_list(write):
    assert load_config(Toy, write("run: {out: x}"), ["--train.layers", "[4, 5]"]).train.layers == (4, 5)


def test_an_unknown_key_says_what_was_meant(write):
    with pytest.raises(ConfigError, match=r"train\.kimgs: unknown key. did you mean 'kimg'\?"):
        load_config(Toy, write("run: {out: x}\ntrain: {kimgs: 3}"))


def test_an_unknown_override_says_what_was_meant(write):
    with pytest.raises(ConfigError, match=r"run\.sed: unknown key. did you mean 'seed'\?"):
        load_config(Toy, write("run: {out: x}"), ["--run.sed", "3"])


def test_a_missing_key_is_named(write):
    with pytest.raises(ConfigError, match=r"run\.out: missing"):
        load_config(Toy, write("run: {seed: 3}"))


def test_a_wrong_type_names_key_and_value(write):
    with pytest.raises(ConfigError, match=r"train\.kimg: .*'many'"):
        load_config(Toy, write("run: {out: x}\ntrain: {kimg: many}"))


def test_several_problems_are_told_at_once(write):
    with pytest.raises(ConfigError) as error:
        load_config(Toy, write("run: {}\ntrain: {kimgs: 1, kimg: no}"))
    assert all(part in str(error.value) for part in ("run.out", "train.kimgs", "train.kimg"))


def test_an_override_without_value_is_refused(write):
    with pytest.raises(ConfigError, match="no value"):
        load_config(Toy, write("run: {out: x}"), ["--run.seed"])


def test_an_unknown_config_lists_the_known_ones():
    with pytest.raises(ConfigError, match="there is no such config"):
        load_config(Toy, "nowhere/tobefound")


def test_configs_are_frozen_and_their_hash_is_their_content(write):
    config = load_config(Toy, write("run: {out: x}"))
    with pytest.raises(Exception, match="frozen"):
        config.run = RunConfig(out="y")
    assert config_hash(config) == config_hash(load_config(Toy, write("train: {}\nrun: {out: x}")))


@pytest.mark.parametrize(
    "text",
    [
        "run: !!python/object/apply:os.system ['touch /tmp/styleavatar3d-was-executed']",
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b]",
        "- just\n- a list",
        "run: {out: [",
        "\x00\x01",
    ],
)
def test_hostile_yaml_is_refused_quickly(write, text):
    start = time.thread_time()  # of this thread alone: the machine may be busy
    with pytest.raises(ConfigError):
        load_config(Toy, write(text))
    assert time.thread_time() - start < 2
