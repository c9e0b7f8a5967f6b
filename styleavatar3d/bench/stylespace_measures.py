"""What `bench stylespace` measures, avatar by avatar, into stores that any number of processes fill."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.pipelines import AvatarPipeline
from styleavatar3d.avatar.requests import Request
from styleavatar3d.bench.evaluate_prior import asked, numbers
from styleavatar3d.bench.held_out import portrait, signed
from styleavatar3d.bench.stylespace_methods import FIT, OF_PICTURES, OF_PROMPTS, Method
from styleavatar3d.figures.looks import WORDS, visible_attributes
from styleavatar3d.metrics.features import digest
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.metrics.store import FeatureStore, Measured
from styleavatar3d.runtime.random import key, normal
from styleavatar3d.stylespace.attributes import look_of

OWN, UNSEEN, PROMPTS, WORD = "own renders", "unseen renders", "prompts", "one word"
"""What avatars are made of: front views of the generator's random codes, renders of the world, captions of it, and one
of a caption's words."""
PICTURES = (OWN, UNSEEN)
SEEDS, RUNS, VIEWS, SIZE = 8, 5, 36, 64
_PART, _DRAWN, _AT_ONCE = 5, 2048, 64
"""Rows of a store's part; random codes among which those with a word are looked for, so many at once."""


class Edit(NamedTuple):
    """A change that is asked for in words, and of whom: what the judge says of the attribute before."""

    prompt: str
    attribute: str
    word: str
    before: tuple[str, ...]


EDITS = (
    Edit("add glasses", "glasses", "round glasses", ("none",)),
    Edit("make the hair blue", "hair_color", "blue", tuple(word for word in WORDS["hair_color"] if word != "blue")),
)


@dataclass(frozen=True)
class Job:
    """What is to be measured; plain values, so that it can be sent to other processes."""

    out: str
    """folder or s3:// prefix of what was measured; the same job goes on there"""
    count: int
    seed: int
    model: str
    """folder of a pipeline and of judge/"""
    inversions: int

    def number(self, method: str) -> int:
        """Of how many pictures or prompts this method makes avatars."""
        return min(self.inversions, self.count) if method in FIT else self.count

    @property
    def varied(self) -> int:
        """How many conditions are followed from several seeds."""
        return max(self.count // 5, 1)


class StyleSpace:
    """A job with its networks, each loaded when it is first needed."""

    def __init__(self, job: Job):
        self.job = job

    @cached_property
    def pipeline(self) -> Any:
        return AvatarPipeline.from_pretrained(self.job.model)

    @cached_property
    def judge(self) -> Judge:
        return Judge.from_pretrained(Path(self.job.model) / "judge")

    @cached_property
    def about(self) -> dict[str, Any]:
        """Whose avatars are measured, and who looks at them."""
        networks = {"prior": self.pipeline.prior, "judge": self.judge, "estimator": self.pipeline.estimator}
        return {
            "seed": self.job.seed, "generator": self.pipeline.sha256, "encoders": self.pipeline.clip.identity,
            **{name: digest(network.state_dict()) for name, network in networks.items() if network},
        }  # fmt: skip

    def store(self, name: str, count: int, part: int = _PART) -> FeatureStore:
        folder = re.sub("[^a-z0-9]+", "-", name)
        return FeatureStore(f"{self.job.out}/{folder}", count, self.about | {"measured": name}, part)

    def stores(self) -> Iterator[tuple[str, FeatureStore, Callable[[range], Measured]]]:
        for name, (count, measure) in self._tasks().items():
            if count:
                yield name, self.store(name, count), measure

    def read(self, name: str) -> Callable[[str], Tensor]:
        """The tensors of a store that is full."""
        return self.store(name, self._tasks()[name][0]).gather

    def _tasks(self) -> dict[str, tuple[int, Callable[[range], Measured]]]:
        """By the name of each store: how many rows it has, and what measures them."""
        count = self.job.count
        tasks = {OWN: (count, self.own), UNSEEN: (count, self.unseen), "starts": (count, self.starts)}
        for kind, methods in {OWN: OF_PICTURES, UNSEEN: OF_PICTURES, PROMPTS: OF_PROMPTS}.items():
            for name, method in methods.items():
                tasks[f"{kind}, {name}"] = self.job.number(name), partial(self.made, kind, method)
            tasks[f"{kind}, seeds"] = self.job.varied, partial(self.varied, kind)
        tasks[f"{WORD}, seeds"] = self.job.varied, self.varied_word
        return tasks | {edit.prompt: (count, partial(self.edited, edit)) for edit in EDITS}

    # --- what is measured ---

    def own(self, which: range) -> Measured:
        """Pictures of random codes, and the codes."""
        avatars = [self._random(index) for index in which]
        return self._seen(avatars) | {"codes": torch.stack([avatar.codes for avatar in avatars])}

    def unseen(self, which: range) -> Measured:
        """Pictures of held-out figures."""
        return self._look(signed(torch.stack([portrait(index, self.job.seed) for index in which])))

    def made(self, kind: str, method: Method, which: range) -> Measured:
        """The avatars that a method makes, and the CPU seconds of each."""
        avatars, seconds = [], []
        for index in which:
            request, started = self._request(kind, index), time.process_time()
            avatars.append(method(self.pipeline, request))
            seconds.append(time.process_time() - started)
        codes = torch.stack([avatar.codes for avatar in avatars])
        return self._seen(avatars) | {"codes": codes, "seconds": torch.tensor(seconds)}

    def starts(self, which: range) -> Measured:
        """Plain draws of the generator."""
        return self._seen([self._start(index) for index in which])

    def edited(self, edit: Edit, which: range) -> Measured:
        """Plain draws after a change, where it is one ("applies"); the others as they are."""
        avatars = [self._start(index) for index in which]
        words = self.judge.judge(self._fronts(avatars)).words
        applies = [_visible(seen).get(edit.attribute) in edit.before for seen in words]
        started = time.process_time()
        for i, index in enumerate(which):
            if applies[i]:
                avatars[i] = self.pipeline(prompt=edit.prompt, start=avatars[i], seed=index)
        seconds = (time.process_time() - started) / max(sum(applies), 1)
        rows = {"applies": torch.tensor(applies), "seconds": torch.full((len(which),), seconds)}
        return self._seen(avatars) | rows

    def varied(self, kind: str, which: range) -> Measured:
        """How far the avatars of several seeds are from each other."""
        requests = [self._request(kind, index, SEEDS) for index in which]
        fronts = [self._fronts(self.pipeline.make(request)) for request in requests]
        return {"distance": torch.stack([distance(self.pipeline.clip.images(some)) for some in fronts])}

    def varied_word(self, which: range) -> Measured:
        """The same of avatars of which one word is asked, and of random ones in which the judge finds that word."""
        shown = [self._showing(self._word(index), index) for index in which]
        own = [distance(self.pipeline.clip.images(some)) if len(some) > 1 else torch.tensor(nan) for some in shown]
        return self.varied(WORD, which) | {"own": torch.stack(own)}

    def latency(self, which: range) -> Measured:
        """Wall and CPU seconds from a prompt to one view and to a full turn."""
        self.pipeline.make(Request(prompt="an old man", steps=1, candidates=1))[0].render()  # imports, compiled kernels
        return {"seconds": torch.stack([self._timed(self._request(PROMPTS, index)) for index in which])}

    def _timed(self, request: Request) -> Float[Tensor, "2 2"]:
        """[first view, turn] x [wall, CPU]."""
        started = _clocks()
        [avatar] = self.pipeline.make(request)
        avatar.render(size=SIZE)
        first = _clocks()
        avatar.turn(VIEWS, SIZE)
        return torch.stack([first, _clocks()]) - started

    # --- what is asked for, and what is seen ---

    def _request(self, kind: str, index: int, number: int = 1) -> Request:
        if kind == WORD:
            return Request(attributes=self._word(index), seed=index, number=number)
        if kind == PROMPTS:
            return Request(prompt=asked(self.job.seed, index)[0], seed=index, number=number)
        picture = self._front(self._random(index))[0] if kind == OWN else portrait(index, self.job.seed)
        return Request(image=picture.movedim(0, -1).numpy(), seed=index, number=number)

    def _word(self, index: int) -> dict[str, str]:
        """One of what a held-out prompt states."""
        stated = sorted(asked(self.job.seed, index)[1].items())
        return dict(stated[index % len(stated) :][:1])

    def _showing(self, word: dict[str, str], index: int) -> Float[Tensor, "some 3 size size"]:
        """Front views of random codes, the first in which the judge finds this word; fewer if they are rare."""
        wanted, found, generator = numbers([word])[0], [], self.pipeline.generator
        for first in range(0, _DRAWN, _AT_ONCE):
            z = normal(self.job.seed, f"of one word, {index}", first, (_AT_ONCE, generator.config.z_dim))
            fronts = self._fronts([Avatar(code, generator) for code in generator.mapping(z.to(generator.w_mean))])
            shows = (numbers(self.judge.judge(fronts).words) == wanted)[:, wanted >= 0].all(1)
            found += list(fronts[shows])
            if len(found) >= SEEDS:
                break
        return torch.stack(found[:SEEDS]) if found else fronts[:0]

    def _random(self, index: int) -> Avatar:
        """Of the mapping network, truncation 1."""
        generator = self.pipeline.generator
        z = normal(self.job.seed, "own pictures", index, (1, generator.config.z_dim)).to(generator.w_mean)
        return Avatar(generator.mapping(z)[0], generator)

    def _start(self, index: int) -> Avatar:
        return self.pipeline(seed=key(self.job.seed, "start", index))

    def _front(self, avatar: Avatar) -> Tensor:
        return avatar.views(self.pipeline.generator.orbit(torch.zeros(1), torch.zeros(1)))

    def _fronts(self, avatars: Sequence[Avatar]) -> Float[Tensor, "count 3 size size"]:
        return signed(torch.cat([self._front(avatar) for avatar in avatars]))

    def _seen(self, avatars: Sequence[Avatar]) -> Measured:
        return self._look(self._fronts(avatars))

    def _look(self, pictures: Float[Tensor, "count 3 size size"]) -> Measured:
        """What judge and encoder see."""
        return {
            "features": self.judge.features(pictures),
            "words": numbers(self.judge.judge(pictures).words),
            "clip": self.pipeline.clip.images(pictures),
        }


def distance(embeddings: Float[Tensor, "count clip"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine over all pairs of unit vectors."""
    count = len(embeddings)
    return 1 - ((embeddings @ embeddings.T).sum() - count) / (count * (count - 1))


def _clocks() -> Float[Tensor, "2"]:
    """Wall and CPU seconds."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def _visible(words: dict[str, str]) -> dict[str, str]:
    """Of what the judge says of a front view, what can be told there."""
    return visible_attributes(look_of(words), words["style"], 0.0)
