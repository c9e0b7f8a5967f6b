"""A policy that sees every prompt before it is drawn and every picture before it is kept; its verdicts are recorded.

Words decide about prompts, by category; about pictures an image classifier, where the config names one. What is
refused is neither drawn nor stored: its record says so, its picture is grey, and loaders pass over it as over every
rejected one.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import UInt8
from pydantic import Field, model_validator
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.config import Strict, read_yaml, validate
from styleavatar3d.errors import ConfigError
from styleavatar3d.shards.schema import Model
from styleavatar3d.shards.writer import Sample
from styleavatar3d.synthesis.sources import Source, describe_weights

SAFETY = "safety"
"""What a refusal is called among the gates."""
GREY = 127
_DISGUISES = str.maketrans("013457@$!|аеорсхуікмтνοα", "oieastasiiaeopcxyikmtvoa")
"""Digits and signs that stand for letters, and Cyrillic and Greek letters that look like Latin ones."""
_SPELT = re.compile(r"\b\w(?:[\W_]+\w\b){2,}")


class SafetyConfig(Strict):
    """The policy: words for prompts, a classifier for pictures."""

    policy: str = "data/safety.yaml"
    """YAML with `longest` and `refuse`, category to words; a path, or one in the shipped data; empty for no policy"""
    classifier: str = ""
    """source of an image classifier: a folder, or a hub id with its commit"""
    revision: str = ""
    """commit of `classifier` where that is a hub id"""
    refuse: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """label of the classifier to the probability from which a picture is refused"""

    @model_validator(mode="after")
    def _classifier_has_labels(self) -> "SafetyConfig":
        if bool(self.classifier) != bool(self.refuse):
            raise ValueError("a classifier and the labels that it is to refuse need each other")
        return self


class Policy(Strict):
    """What prompts may not say. A word is refused wherever it stands whole; one that ends in * however it goes on."""

    longest: int = Field(default=2000, ge=1)
    """characters"""
    refuse: dict[str, list[str]]


class Safety:
    """A loaded policy."""

    def __init__(self, policy: Policy | None, classifier: Any = None, refuse: dict[str, float] | None = None):
        self.policy, self.classifier, self.refuse = policy, classifier, refuse or {}
        self.models: list[Model] = []
        self._patterns = {name: _pattern(words) for name, words in policy.refuse.items() if words} if policy else {}

    @classmethod
    def open(cls, config: SafetyConfig, device: str | torch.device = "cpu") -> "Safety":
        """Read the policy and load the classifier. Raises StyleAvatarError for what is not there or not sound."""
        policy = read_policy(config.policy) if config.policy else None
        if not config.classifier:
            return cls(policy)
        from styleavatar3d.encoders.classifier import ImageClassifier

        classifier = ImageClassifier.from_pretrained(_source(config).locate(), device)
        if unknown := [label for label in config.refuse if label not in classifier.labels]:
            raise ConfigError(
                "the image classifier has no such label", got=", ".join(unknown), expected=", ".join(classifier.labels)
            )
        safety = cls(policy, classifier, dict(config.refuse))
        safety.models = describe_classifier(config)
        return safety

    def refuse_prompt(self, text: str) -> str:
        """Category and word for which a prompt is refused; empty if it may be drawn."""
        if self.policy is None:
            return ""
        if len(text) > self.policy.longest:
            return f"length: {len(text)} characters"
        for reading in readings(text):
            for category, pattern in self._patterns.items():
                if found := pattern.search(reading):
                    return f"{category}: {found[0]}"
        return ""

    def refuse_pictures(self, images: UInt8[Tensor, "batch 3 height width"]) -> list[str | None]:
        """For each picture the label for which it is refused, empty if it may be kept; None if nobody was asked."""
        if self.classifier is None:
            return [None] * len(images)
        return [self._refuse(shares) for shares in self.classifier.probabilities(images)]

    def _refuse(self, shares: dict[str, float]) -> str:
        over = {label: shares[label] for label, limit in self.refuse.items() if shares[label] >= limit}
        worst = max(over, key=lambda label: over[label], default="")
        return worst and f"{worst}: {over[worst]:.2f}"

    def verdicts(self, prompt: str, picture: str | None) -> dict[str, str]:
        """What the record says of both: allowed, refused and why, or not asked."""
        return {"prompt": _verdict(prompt if self.policy else None), "picture": _verdict(picture)}


def read_policy(path: str) -> Policy:
    """A policy from YAML; ConfigError if it is none."""
    found = next((place for place in (Path(path), assets() / path) if place.is_file()), None)
    if found is None:
        raise ConfigError("there is no such safety policy", got=path, expected="a YAML file, or empty for no policy")
    return validate(Policy, read_yaml(found), source=path)


def describe_classifier(config: SafetyConfig) -> list[Model]:
    """The weights that judge pictures, if the config names any."""
    return [describe_weights(_source(config), _source(config).locate())] if config.classifier else []


def policy_digest(config: SafetyConfig) -> str:
    """12 hex digits over the policy's words, which decide what is drawn; empty without one."""
    if not config.policy:
        return ""
    return hashlib.sha256(read_policy(config.policy).model_dump_json().encode()).hexdigest()[:12]


def readings(text: str) -> list[str]:
    """A text in lower case without marks and hidden characters; again with disguised letters and spelt words read."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    plain = "".join(each for each in folded if unicodedata.category(each) not in ("Cf", "Mn", "Cc") or each.isspace())
    bare = plain.translate(_DISGUISES)
    return list(dict.fromkeys([plain, bare, _SPELT.sub(lambda spelt: re.sub(r"[\W_]", "", spelt[0]), bare)]))


def withheld(sample: Sample) -> Sample:
    """The sample with a grey picture."""
    image = sample.image
    return sample._replace(image=torch.full_like(image, GREY) if isinstance(image, Tensor) else image)


def _source(config: SafetyConfig) -> Source:
    return Source(config.classifier, config.revision)


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    said = [re.escape(" ".join(readings(word.rstrip("*"))[0].split())).replace(r"\ ", r"[\W_]+") for word in words]
    ends = [r"\w*" if word.endswith("*") else "" for word in words]
    return re.compile(r"(?<![^\W_])(?:" + "|".join(map("".join, zip(said, ends, strict=True))) + r")(?![^\W_])")


def _verdict(refusal: str | None) -> str:
    return "not asked" if refusal is None else f"refused, {refusal}" if refusal else "allowed"
