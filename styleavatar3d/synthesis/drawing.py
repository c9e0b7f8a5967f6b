"""Full-size prompts: a pure draw of style, person and attributes, and the exact law that it follows.

Gender, age, kind and style are always drawn. Of the attributes a set of `draws` is taken, a set's probability being
proportional to the product of its weights (a conditional Bernoulli draw), whatever the person; then each in turn takes
a value among those that the person's tags leave. Both can be summed exactly, which `law` does for the coverage report.
After StyleAvatar3D (arXiv 2305.19012, data generation): prompt = style, view and attributes, and a negative that
names what the view hides.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from styleavatar3d.camera.cameras import view_name
from styleavatar3d.config import suggest
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import Look
from styleavatar3d.runtime.random import uniform
from styleavatar3d.synthesis.vocabulary import (
    SHIPPED,
    Attribute,
    PromptsConfig,
    Style,
    StyleModel,
    Vocabulary,
    allowed,
    load_vocabulary,
)

PEOPLE = ("gender", "age", "kind")
NOT_DRAWN = ""

Person = dict[str, str]
"""What was drawn: style, gender, age, kind and the attributes, by name."""
_States = Mapping[tuple[int, frozenset[str]], float]
"""(attributes still to be drawn, tags) -> probability"""


class DrawnPrompt(NamedTuple):
    """A prompt and what it says. `attributes` are those that a viewer can tell in this style from this view, `drawn`
    are all; `model` is the network made for the style, where the config asks for such."""

    text: str
    negative: str
    style: str
    kind: str
    attributes: dict[str, str]
    drawn: dict[str, str]
    model: StyleModel | None


def draw_prompt(
    seed: int,
    index: int,
    yaw: float,
    pitch: float,
    config: PromptsConfig = SHIPPED,
    given: Mapping[str, str] | None = None,
) -> DrawnPrompt:
    """The prompt of picture `index`, seen from `yaw`, `pitch` (true degrees): the same arguments, the same words.

    Args:
        given: values that are settled already, by name ("style", "age", "hair style", ...): they are said beside the
            drawn ones, and nothing is drawn that contradicts them; an empty value leaves an attribute out.
            `settled_by` gives those of a parametric head

    What is drawn depends on (seed, index), the config and `given`; the view decides which of it can be said.
    """
    dice = dice_of(config)
    drawn = dice.draw(uniform(seed, "prompt", index, dice.count).tolist(), given or {})
    return say(dice.words, drawn, yaw, pitch, config)


def settled_by(look: Look, config: PromptsConfig = SHIPPED) -> dict[str, str]:
    """What a parametric head's own shape settles of its prompt: for `draw_prompt`'s `given`."""
    looks = dice_of(config).words.looks
    pairs = (values.get(getattr(look, name)) for name, values in looks.items())
    return dict(pair for pair in pairs if pair is not None)


def say(words: Vocabulary, drawn: Person, yaw: float, pitch: float, config: PromptsConfig) -> DrawnPrompt:
    """Put what was drawn into words for one view."""
    style = words.styles[drawn["style"]]
    model = style.models.get(config.style_models) if config.style_models else None
    told = dict(_told(words, style, drawn, yaw))
    view, hidden = describe_view(words, yaw, pitch)
    phrases = [words.attributes[name].phrase(value) for name, value in told.items() if name in words.attributes]
    parts = {
        "trigger": f"{model.trigger}, " if model and model.trigger else "",
        "view": view,
        "person": describe_person(words, drawn),
        "style": style.words,
        "attributes": ", ".join(phrases),
        "framing": words.framing,
    }
    text = re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], words.prompt)
    text = ", ".join(filter(None, (part.strip() for part in text.split(","))))
    negative = ", ".join(dict.fromkeys([*hidden, *style.hides, *words.negatives]))
    return DrawnPrompt(text, negative, drawn["style"], drawn["kind"], told, drawn, model)


def describe_view(words: Vocabulary, yaw: float, pitch: float) -> tuple[str, list[str]]:
    """Words for a camera at `yaw`, `pitch` (degrees), and what it cannot see."""
    sector = view_name(yaw)
    band = [name for name, place in words.pitches.items() if pitch >= place.start or place.start == -90][-1]
    both = [place for place in words.together if sector in place.views and band in place.pitches]
    places = [words.views[sector], words.pitches[band], *both]
    said = ", ".join(place.words for place in places if place.words)
    return said, [word for place in places for word in place.hides]


def describe_person(words: Vocabulary, drawn: Person) -> str:
    """Such as "an elderly woman", "a boy", "a humanoid robot"."""
    age, gender = drawn["age"], drawn["gender"]
    if age == "child":
        age, gender = "", words.children.get(gender, gender)
    text = words.people["kind"].phrase(drawn["kind"]).replace("{age}", age).replace("{gender}", gender)
    return re.sub(r"\ba(?= [aeiou])", "an", " ".join(text.split()))


def _told(words: Vocabulary, style: Style, drawn: Person, yaw: float) -> Iterator[tuple[str, str]]:
    """What of `drawn` a viewer can tell from this yaw in this style."""
    angle = abs((yaw + 180.0) % 360.0 - 180.0)
    kind = words.people["kind"].phrase(drawn["kind"])
    for name, attribute in {**words.people, **words.attributes}.items():
        unsaid = name in ("gender", "age") and f"{{{name}}}" not in kind
        if name in drawn and angle <= attribute.seen and not unsaid and not (attribute.colour and style.colourless):
            yield name, drawn[name]


class Options(NamedTuple):
    """What a variable can become for a person: values, their running shares, and the person's tags after each."""

    values: list[str]
    sums: list[float]
    tags: list[frozenset[str]]

    @classmethod
    def of(cls, weights: Mapping[str, float], tags: list[frozenset[str]]) -> Options:
        sums = list(accumulate(weights.values()))
        return cls(list(weights), [part / sums[-1] for part in sums], tags)

    def at(self, number: float) -> int:
        """Which one a number in [0, 1) means."""
        return min(bisect_right(self.sums, number), len(self.values) - 1)

    def shares(self) -> list[float]:
        """Their probabilities."""
        return [high - low for low, high in zip([0.0, *self.sums], self.sums, strict=False)]


class Dice:
    """What is thrown for a vocabulary, and with which probabilities."""

    def __init__(self, words: Vocabulary):
        self.words = words
        self.variables = {**{name: words.people[name] for name in PEOPLE}, **words.attributes}
        self.pool = [name for name, attribute in words.attributes.items() if attribute.weight]
        styles = {name: style.weight for name, style in words.styles.items() if style.weight}
        self.styles = Options.of(styles, [frozenset()] * len(styles))
        self._half = 1 + len(self.variables)
        self.count = self._half + len(self.variables)
        asked = [_tags_asked(attribute) for attribute in self.variables.values()]
        self._below = {name: frozenset().union(*asked[i + 1 :]) for i, name in enumerate(self.variables)}
        """tags that anything below asks for: others need not be told apart"""
        self._options: dict[tuple[str, frozenset[str], frozenset[str]], Options | None] = {}

    def draw(self, dice: Sequence[float], given: Mapping[str, str]) -> Person:
        """The person that these `count` numbers in [0, 1) make."""
        drawn = {"style": given.get("style") or self.styles.values[self.styles.at(dice[0])]}
        tags, barred = self._check(given) if given else (frozenset(), frozenset())
        free = (name for name in self.pool if name not in given and self.options(name, tags, barred))
        pool = list(free) if given else self.pool
        taken, at, left = self.taken(pool), 0, min(self.words.draws, len(pool))
        for number, name in enumerate(self.variables):
            if name in given:
                drawn |= {name: given[name]} if given[name] else {}
                continue
            if name not in PEOPLE:
                if at == len(pool) or name != pool[at]:
                    continue
                at += 1
                if dice[self._half + number] >= taken[at - 1][left]:
                    continue
                left -= 1
            if options := self.options(name, tags, barred):  # nobody runs out of values unless `given` takes them
                choice = options.at(dice[1 + number])
                drawn[name], tags = options.values[choice], options.tags[choice]
        return drawn

    def options(self, name: str, tags: frozenset[str], barred: frozenset[str] = frozenset()) -> Options | None:
        """The values that are left to a person with these tags, if any; none of them sets a `barred` tag."""
        if (name, tags, barred) not in self._options:
            weights = allowed(self.variables[name], tags)
            weights = {value: weight for value, weight in weights.items() if not barred & self._sets(name, value)}
            after = [(tags | self._sets(name, value)) & self._below[name] for value in weights]
            self._options[name, tags, barred] = Options.of(weights, after) if weights else None
        return self._options[name, tags, barred]

    def taken(self, pool: Sequence[str]) -> list[list[float]]:
        """[place in the pool][how many are still to be taken]: the probability that this one is."""
        return _taken(tuple(self.variables[name].weight for name in pool), min(self.words.draws, len(pool)))

    def law(self, through: tuple[str, str] | None = None) -> dict[str, dict[str, float]]:
        """Exact probabilities of every value of every person's variable, `NOT_DRAWN` included.

        Only draws that go through `through` (a name and a value) count; what stands above that name is left out.
        """
        states = {(self.words.draws, frozenset[str]()): 1.0}
        found: dict[str, dict[str, float]] = {}
        taken = iter(self.taken(self.pool))
        for name in (*PEOPLE, *self.pool):
            only = through[1] if through and through[0] == name else None
            states, mass = self._pass(name, states, None if name in PEOPLE else next(taken), only)
            if only is not None or found or through is None:
                found[name] = mass
        return found

    def _pass(
        self, name: str, states: _States, taken: Sequence[float] | None, only: str | None
    ) -> tuple[_States, dict[str, float]]:
        """Where everybody is after `name`, and the probability of each of its values; `taken` None: it always is."""
        mass = dict.fromkeys([*self.variables[name].values, NOT_DRAWN], 0.0)
        after: defaultdict[tuple[int, frozenset[str]], float] = defaultdict(float)
        below, nothing = self._below[name], frozenset[str]()
        for (left, tags), chance in states.items():
            drawn = chance if taken is None else chance * taken[left]
            if drawn < chance and only in (None, NOT_DRAWN):
                mass[NOT_DRAWN] += chance - drawn
                after[left, tags & below] += chance - drawn
            options = self._options.get((name, tags, nothing)) or self.options(name, tags)
            if not drawn or not options:
                continue
            rest, low = left - (taken is not None), 0.0
            for value, high, marked in zip(*options, strict=True):
                if only is None or value == only:
                    mass[value] += drawn * (high - low)
                    after[rest, marked] += drawn * (high - low)
                low = high
        return after, mass

    def _sets(self, name: str, value: str) -> frozenset[str]:
        return frozenset(self.variables[name].values[value].sets) if value else frozenset()

    def _check(self, given: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
        """The tags of what is given, and those that it rules out; StyleAvatarError if there is no such thing."""
        known = {"style": list(self.words.styles)} | {name: list(one.values) for name, one in self.variables.items()}
        for name, value in given.items():
            if value not in known.get(name, ()) and not (name in self.words.attributes and value == NOT_DRAWN):
                remedy = suggest(value, known[name]) if name in known else suggest(name, known)
                raise StyleAvatarError("nothing of this name can be given", got=f"{name}: {value}", remedy=remedy)
        values = [self.variables[name].values[value] for name, value in given.items() if name != "style" and value]
        barred = frozenset(tag for value in values for tag in value.unless)
        return frozenset(tag for value in values for tag in value.sets), barred


@lru_cache(maxsize=256)
def _taken(weights: tuple[float, ...], draws: int) -> list[list[float]]:
    sums = subset_sums(weights)
    return [[inclusion(sums, weight, at, left) for left in range(draws + 1)] for at, weight in enumerate(weights)]


def subset_sums(weights: Sequence[float]) -> list[tuple[float, ...]]:
    """[i][k]: the sum, over all sets of k of weights[i:], of the products (elementary symmetric polynomials)."""
    rows: list[tuple[float, ...]] = [(1.0,)]
    for weight in reversed(weights):
        last = rows[-1]
        rows.append(tuple(a + weight * b for a, b in zip((*last, 0.0), (0.0, *last), strict=True)))
    return rows[::-1]


def inclusion(sums: Sequence[Sequence[float]], weight: float, at: int, left: int) -> float:
    """Probability that the item `at` is among the `left` that are still to be taken of those from `at` on."""
    enough = left < len(sums[at])
    return weight * sums[at + 1][left - 1] / sums[at][left] if left and enough else 0.0


def _tags_asked(attribute: Attribute) -> frozenset[str]:
    return frozenset(tag for value in attribute.values.values() for tag in (*value.unless, *value.only))


@lru_cache(maxsize=16)
def _dice(config: str) -> Dice:
    return Dice(load_vocabulary(PromptsConfig.model_validate_json(config)))


def dice_of(config: PromptsConfig) -> Dice:
    """The dice of a config, made once."""
    return _dice(config.model_dump_json())
