"""Which of several candidates is nearest to what was asked for."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.stylespace.attributes import likelihood
from styleavatar3d.stylespace.statistics import Statistics

_ANGLE = 5.0
"""What a likeness of one is worth in log-probability of a word: candidates differ by about 0.1 in the first and by
about 0.5 in the second."""


class Goal(NamedTuple):
    """What is asked for."""

    image: Float[Tensor, "1 clip"] | None
    text: Float[Tensor, "1 clip"] | None
    words: Mapping[str, str]
    """Attributes that it should have."""
    changed: Mapping[str, str]
    """Those of them that it is asked for; an avatar to start from has the others already."""


def likeness(goal: Goal, seen: Float[Tensor, "batch clip"], statistics: Statistics) -> Float[Tensor, "batch"]:
    """Mean cosine between what is seen (standard embeddings) and the picture and the text, as far as they are given."""
    wanted = [] if goal.image is None else [statistics.image(goal.image)]
    wanted += [] if goal.text is None else [statistics.pictured(goal.text)]
    if not wanted:
        return seen.new_zeros(len(seen))
    return torch.stack([torch.cosine_similarity(seen, one.to(seen)) for one in wanted]).mean(0)


def score(
    goal: Goal, near: Float[Tensor, "batch"], read: Float[Tensor, "batch words"] | None
) -> Float[Tensor, "batch"]:
    """The likeness, and how probably the words show if somebody has read them (logits); changed words count twice."""
    if read is None:
        return near
    return _ANGLE * near + likelihood(read, goal.words) + likelihood(read, goal.changed)
