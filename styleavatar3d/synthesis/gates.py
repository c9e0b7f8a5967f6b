"""Quality gates: what every synthesised picture is asked, what it must answer, and how often it may be drawn again.

Scores are numbers in the record; a threshold in the config makes a gate of one. Without thresholds nothing is asked and
nothing is scored. `docs/gates.md` says what each measures and how the shipped thresholds were found.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor

from styleavatar3d.config import Strict
from styleavatar3d.runtime.licences import NOT_STATED
from styleavatar3d.runtime.random import key
from styleavatar3d.shards.schema import Model, Record
from styleavatar3d.shards.writer import Sample
from styleavatar3d.synthesis.eyes import ClipEye, Eye, MediaPipeEye, MiniatureEye, open_eye
from styleavatar3d.synthesis.measures import framing, novelty, sharpness, thumbnails
from styleavatar3d.synthesis.overlap import overlapped
from styleavatar3d.synthesis.safety import SAFETY, Safety, SafetyConfig, describe_classifier, withheld
from styleavatar3d.synthesis.sources import Source, describe_weights

AT_MOST = ("view", "face")
"""Gates whose scores must not be higher than their thresholds; those of all others must not be lower."""
BACK = 135.0
"""Degrees of |yaw| from which no face is to be seen."""
_DIGITS = 4
_ANSWERS = {"miniature": MiniatureEye.answers, "clip": ClipEye.answers, "mediapipe": MediaPipeEye.answers}


class GatesConfig(Strict):
    """Thresholds; a gate without one is not asked."""

    estimator: Literal["", "miniature", "clip", "mediapipe"] = ""
    """who answers `view`, `face` and `text`"""
    weights: str = ""
    """source of its weights; by default the miniature's estimator"""
    revision: str = ""
    """commit of `weights` where that is a hub id"""
    words: Literal["full", "miniature"] = "full"
    """whose words of eight views CLIP compares with"""
    redraws: int = Field(default=2, ge=0, le=100)
    """how often a rejected picture is drawn again; if none passes, the best is kept as rejected"""
    view: float | None = Field(default=None, gt=0, le=180)
    """most degrees between the view seen and the one asked for"""
    face: float | None = Field(default=None, ge=0, le=1)
    """highest probability of a face where |yaw| >= 135"""
    coverage: float | None = Field(default=None, ge=0, le=1)
    """lowest share of the silhouette that the figure fills"""
    framing: float | None = Field(default=None, ge=0, le=1)
    """lowest intersection over union of figure and silhouette"""
    sharpness: float | None = Field(default=None, ge=0)
    """lowest variance of the Laplacian over that of the greys"""
    novelty: float | None = Field(default=None, ge=0, le=2)
    """lowest distance (1 - correlation) from every accepted picture of the same shard"""
    text: float | None = Field(default=None, ge=-1, le=1)
    """lowest agreement with the prompt: a cosine of CLIP, or the share of attributes the miniature's estimator reads"""

    @model_validator(mode="after")
    def _somebody_answers(self) -> "GatesConfig":
        known = _ANSWERS.get(self.estimator, frozenset())
        if silent := [name for name in ("view", "face", "text") if name in self.asked and name not in known]:
            able = [name for name, answers in _ANSWERS.items() if answers.issuperset(silent)]
            who = f"estimator {self.estimator!r}" if self.estimator else "no estimator"
            raise ValueError(f"{who} answers {', '.join(silent)}: set gates.estimator to {' or '.join(able)}")
        if self.estimator in ("clip", "mediapipe") and not self.weights:
            raise ValueError(f"estimator {self.estimator!r} needs weights: a path, or for clip a pinned hub id")
        return self

    @property
    def asked(self) -> dict[str, float]:
        """The gates that are set, with their thresholds."""
        names = ("view", "face", "coverage", "framing", "sharpness", "novelty", "text")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def looks(self) -> bool:
        """Whether an eye is needed."""
        return bool({"view", "face", "text"} & self.asked.keys())

    @property
    def source(self) -> Source:
        return Source(self.weights or "data/miniature/estimators", self.revision)


MINIATURE = GatesConfig(
    estimator="miniature", view=45, face=0.5, coverage=0.8, framing=0.8, sharpness=0.25, novelty=0.02, text=0.5
)
"""Thresholds for the miniature: together they pass 97 of 100 renders (`styleavatar3d bench gates`)."""


def pass_gates(scores: dict[str, float], config: GatesConfig) -> tuple[Literal["accepted", "rejected"], list[str]]:
    """The verdict, and the gates that a picture of these scores fails. A gate without a score is not failed."""
    failed = [name for name in config.asked if name in scores and _excess(name, scores[name], config) > 0]
    return ("rejected" if failed else "accepted"), failed


def _excess(name: str, score: float, config: GatesConfig) -> float:
    """How far a score is beyond its threshold, over the threshold; negative on the good side."""
    limit = config.asked[name]
    beyond = score - limit if name in AT_MOST else limit - score
    return beyond / max(abs(limit), 1e-6)


def picture_seed(seed: int, index: int, attempt: int) -> int:
    """What picture `index` of a run is drawn with, the first time (attempt 0) and again."""
    first = key(seed, "picture", index)
    return key(first, "attempt", attempt) if attempt else first


@runtime_checkable
class Asked(Protocol):
    """A scene, as far as gates know one."""

    @property
    def prompt(self) -> Any:
        """With the words in `.text`."""
        ...

    @property
    def index(self) -> int: ...


Scene = TypeVar("Scene", bound=Asked)


class Gatekeeper(NamedTuple):
    """A worker's gates: thresholds, the eye, the safety policy."""

    config: GatesConfig
    eye: Eye | None
    safety: Safety
    models: list[Model]
    """The networks that judge; they take part in no picture."""

    @classmethod
    def open(cls, config: GatesConfig, safety: Safety, device: str | torch.device = "cpu") -> "Gatekeeper":
        """Load what the config asks for. Raises StyleAvatarError for weights that are not there."""
        if not config.looks:
            return cls(config, None, safety, safety.models)
        path = config.source.locate()
        assert config.estimator  # the config has checked it
        eye = open_eye(config.estimator, path, config.words, device)
        return cls(config, eye, safety, [describe_eye(config, path), *safety.models])

    def score(self, samples: Sequence[Sample]) -> list[dict[str, float]]:
        """All scores that are asked for, novelty apart; a score that nobody can tell is left out."""
        images, masks = (_stacked(samples, part) for part in ("image", "mask"))
        records, asked = [sample.record for sample in samples], self.config.asked
        found: dict[str, Tensor] = {}
        if self.eye:
            found |= self.eye.look(images, records)
            behind = torch.tensor([abs(record.yaw) >= BACK for record in records])
            found["face"] = torch.where(behind, found["face"], math.nan) if "face" in found else behind * math.nan
        if "coverage" in asked or "framing" in asked:
            found |= dict(zip(("coverage", "framing"), framing(images, masks), strict=True))
        if "sharpness" in asked:
            found["sharpness"] = sharpness(images, masks)
        columns = {name: found[name].tolist() for name in asked if name in found}
        rows = [{name: values[i] for name, values in columns.items()} for i in range(len(samples))]
        return [{name: round(value, _DIGITS) for name, value in row.items() if math.isfinite(value)} for row in rows]

    def judge(self, samples: Sequence[Sample], kept: list[Tensor]) -> Iterator[Sample]:
        """The samples with scores and verdicts. `kept` holds the thumbnails of what was accepted, and gets more."""
        thumbs = thumbnails(_stacked(samples, "image")) if "novelty" in self.config.asked else None
        refusals = self.safety.refuse_pictures(_stacked(samples, "image"))
        for i, (sample, scores) in enumerate(zip(samples, self.score(samples), strict=True)):
            if thumbs is not None:
                others = torch.stack(kept) if kept else thumbs[:0]
                scores["novelty"] = round(novelty(thumbs[i], others), _DIGITS)
            verdict, failed = pass_gates(scores, self.config)
            if refusals[i]:
                verdict, failed, sample = "rejected", [*failed, SAFETY], withheld(sample)
            if verdict == "accepted" and thumbs is not None:
                kept.append(thumbs[i])
            said = self.safety.verdicts("", refusals[i])
            about = {"gates": scores, "verdict": verdict, "refusals": [failed] if failed else [], "safety": said}
            yield sample._replace(record=sample.record.model_copy(update=about))


def describe_judges(gates: GatesConfig, safety: SafetyConfig) -> list[Model]:
    """All weights on which verdicts depend."""
    eyes = [describe_eye(gates, gates.source.locate())] if gates.looks else []
    return [*eyes, *describe_classifier(safety)]


def describe_eye(config: GatesConfig, path: Path) -> Model:
    """The weights that judge. Those of MediaPipe are one file without a card."""
    if config.estimator != "mediapipe":
        return describe_weights(config.source, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Model(id=path.name, revision="local", sha256=digest, licence=NOT_STATED)


def draw_until_passed(
    scenes: Sequence[Scene],
    make: Callable[..., Sequence[Sample]],
    withhold: Callable[[Scene], Sample],
    keeper: Gatekeeper,
    batches: Callable[[Sequence[Scene]], list[list[Scene]]],
    finish: Callable[[list[Sample]], list[Sample]],
) -> list[Sample]:
    """The pictures of a shard: all are drawn once, then those rejected again, and again.

    Which pictures share a batch follows from the verdicts before, so the shard stays a function of (config, index).
    Each batch is judged and finished while the next is drawn.

    Args:
        scenes: in the order of their indices
        make: draws a batch of scenes; the second argument is the attempt, for `picture_seed` and the record
        withhold: the sample of a scene whose prompt is refused; it is drawn by no model
        keeper: the gates
        batches: which scenes are drawn together
        finish: what is done to pictures once they are judged
    Returns:
        one sample a scene: the first that passed, else the best, as rejected
    """
    best: dict[int, Sample] = {}
    kept: list[Tensor] = []
    todo = []
    for scene in scenes:
        if refusal := keeper.safety.refuse_prompt(scene.prompt.text):
            best[scene.index] = finish([_refused(withhold(scene), keeper.safety, refusal)])[0]
        else:
            todo.append(scene)
    for attempt in range(keeper.config.redraws + 1):
        drawn = overlapped(
            batches(todo), partial(make, attempt=attempt), lambda samples: finish(list(keeper.judge(samples, kept)))
        )
        for sample in itertools.chain.from_iterable(drawn):
            index = sample.record.index
            best[index] = _better(best.get(index), sample, keeper.config)
        todo = [scene for scene in todo if best[scene.index].record.verdict == "rejected"]
    return [best[scene.index] for scene in scenes]


def _better(before: Sample | None, now: Sample, config: GatesConfig) -> Sample:
    """The better of two attempts, with the refusals of both."""
    if before is None:
        return now
    best = min(before, now, key=lambda sample: _badness(sample.record, config))
    refusals = [*before.record.refusals, *now.record.refusals]
    return best._replace(record=best.record.model_copy(update={"refusals": refusals}))


def _badness(record: Record, config: GatesConfig) -> tuple[bool, bool, int, float]:
    """Accepted before rejected, shown before withheld, then by failed gates and by how far they are missed."""
    excess = [_excess(name, score, config) for name, score in record.gates.items()]
    failed = [value for value in excess if value > 0]
    hidden = record.safety.get("picture", "").startswith("refused")
    return record.verdict == "rejected", hidden, len(failed), sum(failed)


def _refused(sample: Sample, safety: Safety, refusal: str) -> Sample:
    about = {"verdict": "rejected", "refusals": [[SAFETY]], "safety": safety.verdicts(refusal, None)}
    sample = withheld(sample)
    return sample._replace(record=sample.record.model_copy(update=about))


def _stacked(samples: Sequence[Sample], part: Literal["image", "mask"]) -> Tensor:
    pictures = [getattr(sample, part) for sample in samples]
    return torch.stack(pictures)
