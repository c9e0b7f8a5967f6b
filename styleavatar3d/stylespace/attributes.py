"""Attributes of a figure as numbers, and captions of a figure of which only the attributes are known."""

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.config import suggest
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import ATTRIBUTES, SKINS, WORDS, Look, visible_attributes

NUMBERS = sum(len(words) for words in WORDS.values())
_SURE = 0.5
"""A word is only said of a picture if it is this probable."""


def encode(stated: Sequence[Mapping[str, str]]) -> Float[Tensor, "batch words"]:
    """A one for each word that is stated. Raises StyleAvatarError for an attribute or a word that nobody knows."""
    return torch.stack([torch.cat([_one_hot(name, words) for name in WORDS]) for words in map(checked, stated)])


def checked(stated: Mapping[str, str]) -> dict[str, str]:
    """The attributes themselves, if all of them and all their words are known."""
    for name, word in stated.items():
        if name not in WORDS:
            raise StyleAvatarError(
                "there is no such attribute", got=name, expected=", ".join(WORDS), remedy=suggest(name, WORDS)
            )
        if word not in WORDS[name]:
            expected, remedy = ", ".join(WORDS[name]), suggest(str(word), WORDS[name])
            raise StyleAvatarError(
                f"the attribute '{name}' has no such word", got=word, expected=expected, remedy=remedy
            )
    return dict(stated)


def split(numbers: Float[Tensor, "batch words"]) -> dict[str, Float[Tensor, "batch some"]]:
    """One block of columns for each attribute."""
    return dict(zip(WORDS, numbers.split([len(words) for words in WORDS.values()], 1), strict=True))


def shown(estimator: Any, views: Sequence[Float[Tensor, "batch 3 size size"]]) -> Float[Tensor, "batch words"]:
    """How probably each word shows in figures: mean over one or several views of them."""
    read_each = [[part.softmax(1) for part in split(read(estimator, some)).values()] for some in views]
    return torch.stack([torch.cat(parts, 1) for parts in read_each]).mean(0)


def share_shown(probabilities: Float[Tensor, "batch words"], stated: Mapping[str, str]) -> Float[Tensor, "batch"]:
    """The share of the stated words that is expected to show; 0 if none is stated."""
    known = split(probabilities)
    parts = [known[name][:, WORDS[name].index(word)] for name, word in stated.items()]
    return torch.stack(parts).mean(0) if parts else probabilities.new_zeros(len(probabilities))


def share_kept(
    after: Float[Tensor, "batch words"], before: Float[Tensor, "1 words"], changed: Collection[str]
) -> Float[Tensor, "batch"]:
    """Mean over all attributes but the changed ones of the probability that two pictures' words share, in [0, 1]."""
    ours, theirs = split(after), split(before)
    parts = [torch.minimum(ours[name], theirs[name]).sum(1) for name in WORDS if name not in changed]
    return torch.stack(parts).mean(0) if parts else after.new_ones(len(after))


def likeliest(logits: Float[Tensor, "1 words"]) -> dict[str, str]:
    """A word for every attribute of one picture."""
    return {name: WORDS[name][int(part.argmax())] for name, part in split(logits).items()}


def seen_from_the_front(logits: Float[Tensor, "1 words"]) -> dict[str, str]:
    """Of a picture read by an estimator, the words that are probable and that a viewer could verify."""
    words = likeliest(logits)
    shown = visible_attributes(look_of(words), words["style"], 0.0) | {"style": words["style"]}
    sure = {name for name, part in split(logits).items() if part.softmax(1).max() >= _SURE}
    return {name: word for name, word in shown.items() if name in sure}


def some_of(said: Float[Tensor, "batch words"], draw: torch.Generator) -> Float[Tensor, "batch words"]:
    """The same with some attributes left out, from none to all of them."""
    share = torch.rand(len(said), 1, generator=draw)
    kept = (torch.rand(len(said), len(WORDS), generator=draw) < share).float()
    return said * kept.repeat_interleave(torch.tensor([len(words) for words in WORDS.values()]), 1)


def look_of(words: Mapping[str, str]) -> Look:
    """A look of which every attribute is known by its word; its shape is nobody's."""
    told: dict[str, Any] = {name: words[name] for name in ATTRIBUTES if name != "smile"}
    return Look(**told, smile=words["smile"] == "yes")


def changed(words: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """A word for every attribute, some of them changed; another kind brings its own skin if none is named."""
    kind = changes.get("kind", words["kind"])
    skin = words["skin"] if words["skin"] in SKINS[kind] else SKINS[kind][0]
    return {**words, "skin": skin, **changes}


def read(estimator: Any, views: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch words"]:
    """Logits of an estimator's words for square pictures of any size."""
    return torch.cat(list(estimator(Estimator.fitted(views)).words.values()), 1)


def caption(words: Mapping[str, str], said: Collection[str]) -> str:
    """The prompt that says those words of a figure, and nothing else."""
    from styleavatar3d.synthesis.prompts import compose

    return compose(look_of(words), words["style"], 0.0, 0.0, drop={name for name in WORDS if name not in said}).text


def captions(words: Mapping[str, str], seen: Collection[str], count: int, key: str) -> list[str]:
    """What users may write of a figure with these words, `seen` of which can be said; most leave something out.

    The draw depends on `key` alone.
    """
    from styleavatar3d.miniature.captions import sentence
    from styleavatar3d.synthesis.prompts import compose

    def one(number: int) -> str:
        draw = random.Random(f"caption/{key}/{number}")
        left_out = draw.choice((0.0, 0.0, 0.3, 0.6, 0.8))
        drop = {name for name in WORDS if name not in seen or draw.random() < left_out}
        drop |= {"view"} if draw.random() < left_out else set()
        look, style = look_of(words), words["style"]
        if draw.random() < 0.5:
            return sentence(look, style, 0.0, 0.0, drop, draw)
        return compose(look, style, 0.0, 0.0, drop=drop).text

    return [one(number) for number in range(count)]


def _one_hot(name: str, stated: Mapping[str, str]) -> Float[Tensor, "some"]:
    return torch.tensor([float(stated.get(name) == word) for word in WORDS[name]])
