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


class Choices:
    """Names with weights."""

    def __init__(self, weights: Mapping[str, float]):
        self.names, self._sums = list(weights), list(accumulate(weights.values()))

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, number: float) -> str:
        """The name at `number` in [0, 1) of the weights' running sum."""
        return self.names[min(bisect_right(self._sums, number * self._sums[-1]), len(self.names) - 1)]

    def shares(self) -> Iterator[tuple[str, float]]:
        """The names with their probabilities."""
        for name, low, high in zip(self.names, [0.0, *self._sums], self._sums, strict=False):
            yield name, (high - low) / self._sums[-1]


class Dice:
    """What is thrown for a vocabulary, and with which probabilities."""

    def __init__(self, words: Vocabulary):
        self.words = words
        self.variables = {**{name: words.people[name] for name in PEOPLE}, **words.attributes}
        self.pool = [name for name, attribute in words.attributes.items() if attribute.weight]
        self.styles = {name: style.weight for name, style in words.styles.items() if style.weight}
        self._half = 1 + len(self.variables)
        self.count = self._half + len(self.variables)
        self._asked = {name: _tags_asked(attribute) for name, attribute in self.variables.items()}
        self._styles = Choices(self.styles)
        self._choices: dict[tuple[str, frozenset[str]], Choices] = {}

    def draw(self, dice: Sequence[float], given: Mapping[str, str]) -> Person:
        """The person that these `count` numbers in [0, 1) make."""
        self._check(given)
        drawn = {"style": given.get("style") or self._styles.pick(dice[0])}
        tags = frozenset(tag for name in given if name != "style" for tag in self._sets(name, given[name]))
        pool = [name for name in self.pool if name not in given and self.choices(name, tags)] if given else self.pool
        left = min(self.words.draws, len(pool))
        places = {name: at for at, name in enumerate(pool)}
        sums = subset_sums(tuple(self.variables[name].weight for name in pool))
        for number, (name, attribute) in enumerate(self.variables.items()):
            if name in given:
                drawn |= {name: given[name]} if given[name] else {}
                continue
            if name not in PEOPLE:
                if not left or name not in places:
                    continue
                if dice[self._half + number] >= inclusion(sums, attribute.weight, places[name], left):
                    continue
                left -= 1
            if choices := self.choices(name, tags):  # nobody runs out of values unless `given` takes them
                drawn[name] = choices.pick(dice[1 + number])
                tags |= self._sets(name, drawn[name])
        return drawn

    def choices(self, name: str, tags: frozenset[str]) -> Choices:
        """The values that are left to a person with these tags."""
        asked = tags & self._asked[name]
        if (name, asked) not in self._choices:
            self._choices[name, asked] = Choices(allowed(self.variables[name], asked))
        return self._choices[name, asked]

    def _sets(self, name: str, value: str) -> frozenset[str]:
        return frozenset(self.variables[name].values[value].sets) if value else frozenset()

    def _check(self, given: Mapping[str, str]) -> None:
        known = {"style": list(self.words.styles)} | {name: list(one.values) for name, one in self.variables.items()}
        for name, value in given.items():
            if value not in known.get(name, ()) and not (name in self.words.attributes and value == NOT_DRAWN):
                remedy = suggest(value, known[name]) if name in known else suggest(name, known)
                raise StyleAvatarError("nothing of this name can be given", got=f"{name}: {value}", remedy=remedy)

    def law(self, through: tuple[str, str] | None = None) -> dict[str, dict[str, float]]:
        """Exact probabilities of every value of every person's variable, `NOT_DRAWN` included.

        Only draws that go through `through` (a name and a value) count; what stands above that name is left out.
        """
        states = {(self.words.draws, frozenset[str]()): 1.0}
        sums = subset_sums(tuple(self.variables[name].weight for name in self.pool))
        found: dict[str, dict[str, float]] = {}
        passed = through is None
        at = 0
        for name, attribute in self.variables.items():
            if name not in PEOPLE and name not in self.pool:
                continue
            always, mass = name in PEOPLE, dict.fromkeys([*attribute.values, NOT_DRAWN], 0.0)
            after: dict[tuple[int, frozenset[str]], float] = {}
            for (left, tags), chance in states.items():
                taken = 1.0 if always else inclusion(sums, attribute.weight, at, left)
                choices = self.choices(name, tags)
                outcomes = [(value, chance * taken * share) for value, share in choices.shares()]
                for value, part in [*outcomes, (NOT_DRAWN, chance * (1 - taken))]:
                    if part == 0 or (through and name == through[0] and value != through[1]):
                        continue
                    mass[value] += part
                    key = (
                        left - (value != NOT_DRAWN and not always),
                        self._still_asked(name, tags | self._sets(name, value)),
                    )
                    after[key] = after.get(key, 0.0) + part
            states, at = after, at + (not always)
            passed = passed or (through is not None and name == through[0])
            if passed:
                found[name] = mass
        return found

    def _still_asked(self, name: str, tags: frozenset[str]) -> frozenset[str]:
        """The tags that anything below `name` asks for: others need not be told apart."""
        below = list(self.variables)[list(self.variables).index(name) + 1 :]
        return tags & frozenset().union(*(self._asked[other] for other in below))


@lru_cache(maxsize=256)
def subset_sums(weights: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """[i][k]: the sum, over all sets of k of weights[i:], of the products (elementary symmetric polynomials)."""
    rows: list[tuple[float, ...]] = [(1.0,)]
    for weight in reversed(weights):
        last = rows[-1]
        rows.append(tuple(a + weight * b for a, b in zip((*last, 0.0), (0.0, *last), strict=True)))
    return tuple(reversed(rows))


def inclusion(sums: Sequence[Sequence[float]], weight: float, at: int, left: int) -> float:
    """Probability that the item `at` is among the `left` that are still to be taken of those from `at` on."""
    return weight * sums[at + 1][left - 1] / sums[at][left] if left else 0.0


def _tags_asked(attribute: Attribute) -> frozenset[str]:
    return frozenset(tag for value in attribute.values.values() for tag in (*value.unless, *value.only))


@lru_cache(maxsize=16)
def _dice(config: str) -> Dice:
    return Dice(load_vocabulary(PromptsConfig.model_validate_json(config)))


def dice_of(config: PromptsConfig) -> Dice:
    """The dice of a config, made once."""
    return _dice(config.model_dump_json())
