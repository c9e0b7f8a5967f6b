"""Strict configuration: frozen pydantic models, YAML files, `--section.key value` overrides.

YAML is data: it is read with the safe loader, never names code, and an unknown key is an error that says what was
probably meant. A config has the sections run, data, model, train (or sample) and track.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from styleavatar3d.assets import assets
from styleavatar3d.errors import ConfigError

_MAX_BYTES = 1 << 20


class Strict(BaseModel):
    """Base of every configuration model: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConfig(Strict):
    """Where a run lives and what seeds it."""

    out: str
    """folder or s3:// prefix of the run"""
    seed: int = 0


Config = TypeVar("Config", bound=Strict)


def load_config(cls: type[Config], path_or_name: str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file (a path, or a name under `configs/`), apply `--a.b value` overrides, validate.

    Raises ConfigError naming the dotted key, its value, and the nearest known key.
    """
    tree = read_yaml(find_config(path_or_name))
    for key, value in _pairs(overrides):
        _assign(tree, key.split("."), value)
    return validate(cls, tree, source=path_or_name)


def validate(cls: type[Config], tree: dict[str, Any], source: str = "config") -> Config:
    """Build the model from plain data, or raise one ConfigError that lists every problem."""
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(cls, problem)}" for problem in error.errors())
        raise ConfigError(f"{source} is not a valid {cls.__name__}:\n{problems}") from None


def find_config(path_or_name: str) -> Path:
    """The YAML file meant by a path or by a name under `configs/`, such as `gan/miniature`."""
    folder = assets() / "configs"
    for candidate in (Path(path_or_name), folder / path_or_name, folder / f"{path_or_name}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))
    raise ConfigError(
        "there is no such config",
        got=path_or_name,
        expected=f"a path to a YAML file, or one of: {', '.join(known)}",
        remedy=suggest(path_or_name, known),
    )


def save_config(config: Strict) -> str:
    """The resolved config as YAML text."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def config_hash(config: Strict) -> str:
    """12 hex digits that name the resolved config."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, as plain data; ConfigError if it is anything else."""
    import yaml

    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path} is too large for a config", got=path.stat().st_size, expected="at most 1 MiB")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError(f"{path} uses YAML aliases", expected="plain values; aliases can hide huge documents")
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no sections", got=type(tree).__name__, expected="a mapping of sections")
    return tree


def _pairs(overrides: Sequence[str]) -> list[tuple[str, Any]]:
    import yaml

    words = [part for word in overrides for part in (word.split("=", 1) if _is_assignment(word) else [word])]
    if len(words) % 2:
        raise ConfigError("an override has no value", got=words[-1], expected="--section.key value")
    pairs = []
    for key, value in zip(words[::2], words[1::2], strict=True):
        if not key.startswith("--"):
            raise ConfigError("an override does not start with --", got=key, expected="--section.key value")
        try:
            pairs.append((key[2:].replace("-", "_"), yaml.safe_load(value) if value else ""))
        except yaml.YAMLError:
            pairs.append((key[2:].replace("-", "_"), value))
    return pairs


def _is_assignment(word: str) -> bool:
    return word.startswith("--") and "=" in word


def _assign(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError("an override goes below a plain value", got=".".join(path), expected="--section.key")
    tree[path[-1]] = value


def _explain(cls: type[BaseModel], problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"]) or "(top)"
    if problem["type"] == "extra_forbidden":
        known = list(_model_at(cls, problem["loc"][:-1]).model_fields)
        return f"{path}: unknown key. {suggest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{path}: missing, and it has no default"
    if problem["type"] == "value_error":
        return f"{path}: {problem['ctx']['error']}"
    return f"{path}: {problem['msg']} (got {problem.get('input')!r})"


def _model_at(cls: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    """The model that holds the last name of `path`, through mappings and lists of models."""
    kind: Any = cls
    for name in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or key: field for key, field in kind.model_fields.items()}
            kind = fields[str(name)].annotation if str(name) in fields else None
        else:
            kind = next((part for part in reversed(get_args(kind)) if part is not Ellipsis), None)
        cls = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else cls
    return cls


def suggest(word: str, known: Iterable[str]) -> str:
    """The known name nearest to `word`, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"
