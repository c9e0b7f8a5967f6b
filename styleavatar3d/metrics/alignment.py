"""Whether pictures show what was asked for, by the judge: the four-way view, and every attribute that was stated."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from styleavatar3d.metrics.judge import HEADS, Judge, view_of

UNSAID = ("none", "no", "human")
"""Values that a caption leaves out: nobody says "no glasses", or that a person is human."""


@dataclass(frozen=True)
class Request:
    """What one picture was to show: the camera's yaw in degrees, and the attributes that the prompt states."""

    yaw: float
    attributes: dict[str, str]


@dataclass(frozen=True)
class Score:
    """How often the judge found what was asked for, and how often a blind guess among the words would have."""

    name: str
    right: int
    count: int
    chance: float

    @property
    def share(self) -> float:
        return self.right / max(self.count, 1)


def alignment(
    judge: Judge, images: Float[Tensor, "count 3 height width"], requests: Sequence[Request]
) -> dict[str, Score]:
    """Scores of "view", of each stated attribute, and of "attributes", all of them together (images in [-1, 1])."""
    judgement = judge.judge(images)
    views = [view_of(yaw) == view_of(asked.yaw) for yaw, asked in zip(judgement.yaw.tolist(), requests, strict=True)]
    scores = {"view": Score("view", sum(views), len(views), 0.25)}
    for name, words in HEADS.items():
        found = [
            seen[name] == asked.attributes[name]
            for seen, asked in zip(judgement.words, requests, strict=True)
            if name in asked.attributes
        ]
        if found:
            scores[name] = Score(name, sum(found), len(found), 1 / len(words))
    return scores | {"attributes": together([score for name, score in scores.items() if name != "view"])}


def together(scores: Sequence[Score]) -> Score:
    """All judgements in one score; its chance is the mean over the judgements."""
    count = sum(score.count for score in scores)
    chance = sum(score.chance * score.count for score in scores) / max(count, 1)
    return Score("attributes", sum(score.right for score in scores), count, chance)


def stated(visible: dict[str, str], style: str) -> dict[str, str]:
    """The attributes that a full prompt states, of those that can be seen, and the style."""
    return {name: value for name, value in visible.items() if value not in UNSAID} | {"style": style}
