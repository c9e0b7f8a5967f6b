"""The words of full-size prompts: styles, people, attributes, views and what each hides, read strictly from YAML.

The shipped words are the section `full` of `data/prompts.yaml`, whose head explains every key; a file of one's own has
such a section too. `PromptsConfig` says which file, and restricts or weighs what is drawn from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from styleavatar3d.assets import assets
from styleavatar3d.camera.cameras import SECTORS
from styleavatar3d.config import Strict, read_yaml, suggest, validate
from styleavatar3d.errors import ConfigError

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Degrees = Annotated[float, Field(gt=0, le=180)]
_PLACES = ("trigger", "view", "person", "style", "attributes", "framing")
Family = Literal["sd15", "sd21", "sdxl"]


class PromptsConfig(Strict):
    """Which words are drawn. Weights are relative; 0 leaves a thing out, and what is not named keeps its weight."""

    file: str = ""
    """YAML with a section `full`; empty for the shipped `data/prompts.yaml`"""
    styles: dict[str, Weight] = Field(default_factory=dict)
    """only these styles, with these weights; empty for all"""
    attributes: dict[str, Weight] = Field(default_factory=dict)
    """how often an attribute is among the drawn"""
    values: dict[str, dict[str, Weight]] = Field(default_factory=dict)
    """how often an attribute (gender, age and kind too) takes a value"""
    draws: int | None = Field(default=None, ge=0)
    """attributes a picture; by default as the file says"""
    style_models: Family | None = None
    """use the networks made for a style, and their trigger words, where there is one of this family"""


SHIPPED = PromptsConfig()
"""The shipped words, as they are."""


class Value(Strict):
    """What an attribute can be. A plain number in the file is its weight."""

    weight: Weight = 1.0
    say: str | None = None
    sets: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _number_is_weight(cls, value: Any) -> Any:
        return {"weight": value} if isinstance(value, (int, float)) else value


class Attribute(Strict):
    """Something a picture can say of a person; `{}` in `say` stands for the value's name."""

    values: dict[str, Value] = Field(min_length=1)
    say: str = "{}"
    weight: Weight = 1.0
    seen: Degrees = 180.0
    colour: bool = False

    def phrase(self, value: str) -> str:
        """How `value` is said."""
        said = self.values[value].say
        return self.say.replace("{}", value) if said is None else said


class StyleModel(Strict):
    """A network that was trained for one style."""

    id: str
    kind: Literal["checkpoint", "lora", "embedding"]
    licence: str
    trigger: str = ""
    revision: str = "main"


class Style(Strict):
    words: str
    weight: Weight = 1.0
    colourless: bool = False
    hides: tuple[str, ...] = ()
    models: dict[Family, StyleModel] = Field(default_factory=dict)


class View(Strict):
    words: str
    hides: tuple[str, ...] = ()


class Pitch(View):
    start: float = Field(alias="from", ge=-90, lt=90)


class Together(View):
    """What is said and hidden only where one of `views` meets one of `pitches`."""

    views: tuple[str, ...]
    pitches: tuple[str, ...]


class Vocabulary(Strict):
    """All words, checked: every tag is set by something higher up, and nobody is left without a value."""

    draws: int = Field(ge=0)
    prompt: str
    framing: str = ""
    negatives: tuple[str, ...] = ()
    views: dict[str, View]
    pitches: dict[str, Pitch] = Field(min_length=1)
    together: tuple[Together, ...] = ()
    styles: dict[str, Style] = Field(min_length=1)
    people: dict[str, Attribute]
    children: dict[str, str] = Field(default_factory=dict)
    looks: dict[str, dict[str, tuple[str, str]]] = Field(default_factory=dict)
    attributes: dict[str, Attribute]

    @model_validator(mode="after")
    def _check(self) -> Vocabulary:
        _same(self.views, SECTORS, "views")
        _same(self.people, ("gender", "age", "kind"), "people")
        starts = [pitch.start for pitch in self.pitches.values()]
        if starts[0] != -90 or starts != sorted(set(starts)):
            raise ValueError(f"pitches: bands begin at -90 and rise, got {starts}")
        for place in self.together:
            _known(place.views, self.views, "together.views")
            _known(place.pitches, self.pitches, "together.pitches")
        _known(self.children, self.people["gender"].values, "children")
        if clash := set(self.people) & set(self.attributes):
            raise ValueError(f"attributes: {', '.join(sorted(clash))} is of people already")
        _known(re.findall(r"\{(\w+)\}", self.prompt), _PLACES, "prompt: places")
        drawable = sum(attribute.weight > 0 for attribute in self.attributes.values())
        if self.draws > drawable:
            raise ValueError(f"draws: {self.draws} attributes are asked for, {drawable} have a weight above 0")
        if not any(style.weight for style in self.styles.values()):
            raise ValueError("styles: none has a weight above 0")
        everything = {**self.people, **self.attributes}
        for look, values in self.looks.items():
            for name, value in values.values():
                _known([name], everything, f"looks.{look}")
                _known([value] if value else [], everything[name].values, f"looks.{look}: {name}")
        _check_tags(everything)
        return self


def load_vocabulary(config: PromptsConfig = SHIPPED) -> Vocabulary:
    """The words that `config` asks for, its weights applied.

    Raises ConfigError with the dotted path of what is wrong, and the nearest known name.
    """
    return _load(config.model_dump_json())


@lru_cache(maxsize=16)
def _load(text: str) -> Vocabulary:
    config = PromptsConfig.model_validate_json(text)
    path = Path(config.file) if config.file else assets() / "data" / "prompts.yaml"
    if not path.is_file():
        raise ConfigError("there is no such prompts file", got=str(path), expected="a YAML file with a section `full`")
    tree = read_yaml(path).get("full")
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} has no section `full`",
            expected="the words of full-size prompts, as in data/prompts.yaml",
            remedy="copy that section of the shipped file and change it",
        )
    plain = validate(Vocabulary, tree, source=str(path))
    return _weighed(plain, config)


def _weighed(words: Vocabulary, config: PromptsConfig) -> Vocabulary:
    tree = words.model_dump(by_alias=True)
    if config.styles:
        _must_be_known(config.styles, tree["styles"], "prompts.styles")
        tree["styles"] = {name: {**tree["styles"][name], "weight": w} for name, w in config.styles.items()}
    _must_be_known(config.attributes, tree["attributes"], "prompts.attributes")
    for name, weight in config.attributes.items():
        tree["attributes"][name]["weight"] = weight
    everything = {**tree["people"], **tree["attributes"]}
    _must_be_known(config.values, everything, "prompts.values")
    for name, weights in config.values.items():
        _must_be_known(weights, everything[name]["values"], f"prompts.values.{name}")
        for value, weight in weights.items():
            everything[name]["values"][value]["weight"] = weight
    if config.draws is not None:
        tree["draws"] = config.draws
    return validate(Vocabulary, tree, source="the config's prompts")


def allowed(attribute: Attribute, tags: frozenset[str]) -> dict[str, float]:
    """Weights of the values that a person with these tags can take."""
    return {
        name: value.weight
        for name, value in attribute.values.items()
        if value.weight and not tags.intersection(value.unless) and (not value.only or tags.intersection(value.only))
    }


def _check_tags(attributes: Mapping[str, Attribute]) -> None:
    """Walk through everybody who can be drawn: each tag must be known when asked for, each attribute have a value."""
    known: set[str] = set()
    reachable = {frozenset[str]()}
    for name, attribute in attributes.items():
        for value in attribute.values.values():
            _known((*value.unless, *value.only), known, f"{name}: tags (set by what stands higher)")
        if stuck := [sorted(tags) for tags in reachable if not allowed(attribute, tags)]:
            person = ", ".join(min(stuck, key=lambda tags: (len(tags), tags))) or "anybody"
            raise ValueError(f"{name}: no value is left for a person who is {person}")
        after = {tags.union(attribute.values[choice].sets) for tags in reachable for choice in allowed(attribute, tags)}
        always = name in ("gender", "age", "kind")
        reachable = after if always else reachable | after if attribute.weight else reachable
        known.update(tag for value in attribute.values.values() for tag in value.sets)


def _same(names: Mapping[str, Any], wanted: Sequence[str], where: str) -> None:
    _known(names, wanted, where)
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"{where}: missing {', '.join(missing)}")


def _known(names: Sequence[str] | Mapping[str, Any], known: Any, where: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: unknown '{name}'. {suggest(name, known)}")


def _must_be_known(names: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: unknown '{name}'", remedy=suggest(name, known))
