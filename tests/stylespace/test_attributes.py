"""Attributes as numbers and back, and captions that say no more than what was seen."""

from types import SimpleNamespace

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.miniature.stated import stated_attributes
from styleavatar3d.stylespace import attributes

LOOK = {"kind": "human", "gender": "man", "age": "old", "skin": "tan", "hair": "curly", "hair_color": "red",
        "eyes": "blue", "beard": "full beard", "glasses": "none", "hat": "none", "shirt": "striped shirt",
        "shirt_color": "green", "smile": "yes", "style": "cel"}  # fmt: skip


def logits(words: dict[str, str], sure: float = 9.0) -> torch.Tensor:
    return attributes.encode([words]) * sure


def test_each_stated_word_has_a_place():
    numbers = attributes.encode([{"hair": "bob", "style": "clay"}, {}])
    assert numbers.shape == (2, attributes.NUMBERS) and numbers.sum(1).tolist() == [2.0, 0.0]
    parts = attributes.split(numbers)
    assert parts["hair"][0, WORDS["hair"].index("bob")] == 1 and parts["style"][0, WORDS["style"].index("clay")] == 1


@pytest.mark.parametrize("words", [{"haircut": "bob"}, {"hair": "bobb"}, {"hair": ""}])
def test_unknown_attributes_are_refused_with_the_known_ones(words):
    with pytest.raises(StyleAvatarError) as caught:
        attributes.encode([words])
    assert "expected" in str(caught.value)


def test_the_share_that_shows_is_the_mean_probability():
    both = torch.cat([logits(LOOK), logits(LOOK | {"hair": "bald"})])
    certain = torch.cat([part.softmax(1) for part in attributes.split(both * 9).values()], 1)
    shares = attributes.share_shown(certain, {"hair": "curly", "smile": "yes"})
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.5]), atol=1e-3, rtol=0)
    assert attributes.share_shown(certain, {}).tolist() == [0.0, 0.0]


def test_what_is_kept_is_told_without_what_should_change():
    before, other = logits(LOOK), logits(LOOK | {"hair_color": "blue", "hair": "bald"})
    certain = [
        torch.cat([part.softmax(1) for part in attributes.split(one * 9).values()], 1) for one in (before, other)
    ]
    both = torch.cat(certain)
    kept = attributes.share_kept(both, certain[0], {"hair_color"})
    torch.testing.assert_close(kept, torch.tensor([1.0, 1 - 1 / (len(WORDS) - 1)]), atol=1e-3, rtol=0)
    assert attributes.share_kept(both, certain[0], WORDS).tolist() == [1.0, 1.0]


def test_what_shows_is_read_in_every_view():
    """What an estimator sees in one of three views it believes by a third."""

    class Eye:
        def __call__(self, views):
            bright = views[:, 0, 16, 16, None]
            words = {name: torch.zeros(len(views), len(known)) for name, known in WORDS.items()}
            words["smile"] = torch.cat([-99 * bright, 99 * bright], 1)
            return SimpleNamespace(words=words)

    views = [-torch.ones(1, 3, 64, 64) for _ in range(3)]
    views[0][:, :, 16, 16] = 1
    smile = attributes.split(attributes.shown(Eye(), views))["smile"][0]
    torch.testing.assert_close(smile, torch.tensor([2 / 3, 1 / 3]))


def test_only_what_is_sure_and_visible_is_seen():
    assert attributes.likeliest(logits(LOOK)) == LOOK
    seen = attributes.seen_from_the_front(logits(LOOK))
    assert seen == LOOK
    unsure = logits(LOOK, 9.0)
    attributes.split(unsure)["hair"][:] = 0
    assert seen.keys() - attributes.seen_from_the_front(unsure).keys() == {"hair"}
    marble = attributes.seen_from_the_front(logits(LOOK | {"style": "marble"}))
    assert not marble.keys() & {"skin", "hair_color", "eyes", "shirt_color"}


def test_captions_say_nothing_that_was_not_seen():
    seen = {name: LOOK[name] for name in ("gender", "hair", "style")}
    for text in attributes.captions(LOOK, seen, 40, "test"):
        assert stated_attributes(text).items() <= seen.items(), text
    assert attributes.captions(LOOK, seen, 5, "a") == attributes.captions(LOOK, seen, 5, "a")
    assert attributes.captions(LOOK, seen, 5, "a") != attributes.captions(LOOK, seen, 5, "b")
    assert stated_attributes(attributes.caption(LOOK, seen)) == seen


def test_a_change_of_kind_brings_its_own_skin():
    assert attributes.changed(LOOK, {"hair": "bob"}) == LOOK | {"hair": "bob"}
    assert attributes.changed(LOOK, {"kind": "orc"})["skin"] == "green"
    assert attributes.changed(LOOK, {"kind": "alien", "skin": "purple"})["skin"] == "purple"


def test_some_of_leaves_whole_attributes_out():
    said = attributes.encode([LOOK] * 500)
    kept = attributes.some_of(said, torch.Generator().manual_seed(0))
    assert ((kept == 0) | (kept == said)).all()
    share = kept.sum(1) / len(LOOK)
    assert 0.4 < share.mean() < 0.6 and (share < 0.15).any() and (share > 0.85).any()
