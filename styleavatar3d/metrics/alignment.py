"""Whether pictures show what was asked for, by the judge: camera, face, and every attribute that was stated."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from styleavatar3d.camera.cameras import quarter_name
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.metrics.judge import Judge, Judgement

UNSAID = ("none", "no", "human")
"""Values that a caption leaves out: nobody says "no glasses", or that a person is human."""
CORE = ("hair_color", "hair", "style", "skin", "glasses", "beard", "kind")
"""The attributes by which a figure is first described; they are also counted together."""
BACK = 135.0
"""Degrees of |yaw| from which no face is to be seen."""


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
    """Scores of "view", of "core" and of all "attributes" together, and of each one stated (images in [-1, 1])."""
    return scores_of(judge.judge(images), requests)


def scores_of(judgement: Judgement, requests: Sequence[Request]) -> dict[str, Score]:
    """The same from a judgement that is already there."""
    turned = zip(judgement.yaw.tolist(), requests, strict=True)
    views = [quarter_name(yaw) == quarter_name(asked.yaw) for yaw, asked in turned]
    single = []
    for name, words in WORDS.items():
        found = [
            seen[name] == asked.attributes[name]
            for seen, asked in zip(judgement.words, requests, strict=True)
            if name in asked.attributes
        ]
        if found:
            single.append(Score(name, sum(found), len(found), 1 / len(words)))
    core = together("core", [score for score in single if score.name in CORE])
    both = [Score("view", sum(views), len(views), 0.25), core, together("attributes", single)]
    return {score.name: score for score in [*both, *single]}


def together(name: str, scores: Sequence[Score]) -> Score:
    """All judgements in one score; its chance is the mean over the judgements."""
    count = sum(score.count for score in scores)
    chance = sum(score.chance * score.count for score in scores) / max(count, 1)
    return Score(name, sum(score.right for score in scores), count, chance)


def yaw_errors(judgement: Judgement, yaw: Float[Tensor, "count"]) -> dict[str, float]:
    """Median and 90th percentile, in degrees, of how far the judged view is turned from the asked one."""
    error = ((judgement.yaw - yaw + 180) % 360 - 180).abs()
    return {"median": round(error.median().item(), 2), "90th percentile": round(error.quantile(0.9).item(), 2)}


def faces_at_the_back(judgement: Judgement, yaw: Float[Tensor, "count"]) -> Score:
    """Of the pictures to be seen from behind, how many show a face all the same; the fewer the better."""
    behind = yaw.abs() >= BACK
    return Score("face", int((judgement.face[behind] > 0.5).sum()), int(behind.sum()), 0.5)


def stated(seen: dict[str, str]) -> dict[str, str]:
    """Of what can be seen, style included, what a full prompt states."""
    return {name: value for name, value in seen.items() if value not in UNSAID}


def majority(words: Sequence[str]) -> str:
    """The commonest word; the first of several."""
    return max(words, key=words.count)


def agreement(words: Sequence[str]) -> float:
    """The share of verdicts that agree with the majority."""
    return words.count(majority(words)) / len(words)
