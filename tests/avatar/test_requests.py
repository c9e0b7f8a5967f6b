"""Requests: what is refused, what lists mean, and tables of them."""

import pytest

from styleavatar3d.avatar.requests import Request, parse_attributes, read_table, spread
from styleavatar3d.errors import StyleAvatarError

LONG = "an old woman with long red hair, round glasses and a green turtleneck, clay style"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"prompt": 3},
        {"seed": True},
        {"seed": 1.5},
        {"attributes": {"hairdo": "bob"}},
        {"attributes": {"hair": "green"}},
        {"seed": 1, "negative": "a beard"},
        {"seed": 1, "truncation": 9.0},
        {"prompt": "a man", "candidates": 0},
        {"prompt": "a man", "number": 0},
        {"prompt": "a man", "strength": 0.0},
        {"prompt": "a man", "steps": 0},
    ],
)
def test_requests_that_mean_nothing_are_refused(asked):
    with pytest.raises(StyleAvatarError):
        Request(**asked)


def test_the_more_is_asked_for_the_more_is_insisted():
    one, some, many = (Request(prompt=f"a {words}") for words in ("man", "bald man with glasses, clay style", LONG))
    assert (one.scale, one.pull) == (1.5, 1.0) and (many.scale, many.pull) == (2.25, 0.9)
    assert one.scale < some.scale < many.scale and one.pull > some.pull > many.pull
    for closely in ({"image": "a.png"}, {"prompt": "somebody mysterious"}, {"prompt": "a man", "start": object()}):
        assert Request(**closely).scale == 3.0
    own = Request(prompt="a man", guidance={"text": 2.0}, truncation=0.5)
    assert own.scale == {"text": 2.0} and own.pull == 0.5 and own.told()["guidance"] == {"text": 2.0}
    assert Request(seed=1).pull == 0.7
    assert Request(prompt="a man", attributes={"gender": "woman", "hair": "bob"}).words == {
        "gender": "woman",
        "hair": "bob",
    }


def test_an_unknown_attribute_names_the_nearest():
    with pytest.raises(StyleAvatarError, match="did you mean 'hair'"):
        Request(attributes={"hairs": "bob"})


def test_lists_are_spread_and_must_be_of_one_length():
    requests, several = spread({"prompt": ["a man", "a woman"], "seed": 3})
    assert several and [request.prompt for request in requests] == ["a man", "a woman"]
    assert [request.seed for request in requests] == [3, 3]
    assert spread({"prompt": "a man"})[1] is False
    with pytest.raises(StyleAvatarError, match="different lengths"):
        spread({"prompt": ["a man"], "seed": [1, 2]})


def test_a_table_is_a_list_of_requests(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(
        "name,prompt,image,attributes,seed,guidance,number\n"
        'one,"a man, clay style",,hair=long; glasses=none,7,2.5,2\n'
        'two,,faces/a.png,,,"{""image"": 2}",\n'
    )
    one, two = read_table(table)
    assert one == {
        "name": "one", "prompt": "a man, clay style", "attributes": {"hair": "long", "glasses": "none"}, "seed": 7,
        "guidance": 2.5, "number": 2,
    }  # fmt: skip
    assert two == {"name": "two", "image": str(tmp_path / "faces/a.png"), "guidance": {"image": 2}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("promt\na man\n", "did you mean 'prompt'"),
        ("prompt,seed\na man,x\n", "line 2.*no number"),
        ("attributes\nhair:long\n", "line 2.*no attributes"),
        ("prompt\na man, clay style\n", "line 2.*more cells"),
        ("prompt\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(StyleAvatarError, match=f"(?s){message}"):
        read_table(tmp_path / "table.csv")


def test_tables_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("absent.csv", "bytes.csv"):
        with pytest.raises(StyleAvatarError, match="cannot be read"):
            read_table(tmp_path / name)


def test_attributes_are_parsed():
    assert parse_attributes(" hair = long, glasses=none ") == {"hair": "long", "glasses": "none"}
    assert parse_attributes("") == {}
    with pytest.raises(StyleAvatarError, match="no such word"):
        parse_attributes("hair=long; glasses=pink")
