"""Generators of the EG3D family as their authors stored them, brought into a folder of ours.

Two kinds of file are read: a state dict in safetensors with its settings in a JSON beside it, and an original training
pickle, through a reader that runs nothing. The result is a folder for `Generator.from_pretrained`, in single precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from styleavatar3d.config import validate
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic import ClassicGenerator
from styleavatar3d.gan.classic_config import ClassicConfig
from styleavatar3d.gan.import_settings import classic_config, family_of
from styleavatar3d.gan.training_pickle import read_training_pickle
from styleavatar3d.runtime.licences import CARD_FILE
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import CONFIG_FILE, load_weights, save_weights

LICENCES = {
    "eg3d": ["nvidia-source-code-eg3d"],
    "panohead": ["cc-by-nc-sa-4.0", "nvidia-source-code-eg3d"],
    "pyramid": ["not stated", "nvidia-source-code-eg3d"],
}
"""of the published weights of each family"""
_NON_COMMERCIAL = """The published weights of this family are mostly for
non-commercial use (research and evaluation), and so is everything that is made with them: data sets, avatars and the
models that learn from those. """
_MAX_BYTES = 4 << 30
_SHOWN = 5
_BODY_MODEL = "renderer."
"""what Portrait3D keeps of its body model; canonical rendering needs none of it"""


class Source(NamedTuple):
    """An original generator: its state dict under its own names, and the settings it was built with."""

    file: Path
    sha256: str
    weights: dict[str, Tensor]
    settings: dict[str, Any]


def import_generator(
    file: str,
    out: str,
    family: Literal["auto", "eg3d", "panohead", "pyramid"] = "auto",
    *,
    settings: str = "",
    check: str = "",
    licence: str = "",
    stand_ins: Sequence[str] = (),
) -> dict[str, Any]:
    """Read an original generator and write it to `out`, a folder or s3:// prefix; with `check`, also recompute the
    tensors of that file. Raises StyleAvatarError for everything that is not exactly a network of the family."""
    source = read_source(file, settings, stand_ins)
    shapes = {name: tuple(tensor.shape) for name, tensor in source.weights.items()}
    generator = ClassicGenerator(
        classic_config(family_of(shapes) if family == "auto" else family, source.settings, shapes)
    )
    fill(generator, source)
    licences = [licence] if licence else LICENCES[generator.config.family]
    storage = Storage.open(out)
    save_weights(storage, generator, generator.config.model_dump(mode="json"), half=False)
    storage.publish(CARD_FILE, _card(generator.config, source, licences).encode())
    result: dict[str, Any] = {
        "out": out,
        "family": generator.config.family,
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "sha256": source.sha256,
        "licences": ", ".join(licences),
    }
    if check:
        from styleavatar3d.gan.import_check import check_tensors

        result |= check_tensors(load_classic(storage, generator.config.model_dump()), check)
    return result


def load_classic(storage: Storage, tree: dict[str, Any], device: str | torch.device = "cpu") -> ClassicGenerator:
    """The generator of a folder whose config.json is `tree`, in evaluation mode and without gradients to weights."""
    config = validate(ClassicConfig, tree, source=f"{storage.url}/{CONFIG_FILE}")
    generator = ClassicGenerator(config)
    load_weights(generator, storage)
    return generator.to(device).eval().requires_grad_(False)


# --- reading ---


def read_source(file: str, settings: str = "", stand_ins: Sequence[str] = ()) -> Source:
    """A .safetensors file with its settings, or a training pickle, whose own settings `settings` overrides."""
    path = Path(file)
    if not path.is_file():
        raise StyleAvatarError("there is no such file", got=file, expected=".safetensors, or an original .pkl")
    if path.stat().st_size > _MAX_BYTES:
        raise StyleAvatarError(f"{file} is too large", got=f"{path.stat().st_size} bytes", expected="at most 4 GiB")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if path.suffix == ".safetensors":
        return Source(path, sha256, read_tensors(path), read_settings(settings or _beside(path)))
    data = path.read_bytes()
    if data[:4] == b"PK\x03\x04":
        raise StyleAvatarError(
            f"{file} is a torch zip archive",
            expected="an original training pickle, or safetensors",
            remedy="load it where you trust it, and save its state dict with safetensors.torch.save_file",
        )
    pickled = read_training_pickle(data, stand_ins)
    given = read_settings(settings) if settings else {}
    return Source(path, sha256, pickled.weights, pickled.settings | given)


def read_settings(file: str | Path) -> dict[str, Any]:
    """Settings under the originals' names: the whole JSON object, or what it holds as `config`."""
    tree = read_json_file(file)
    config = tree.get("config", tree)
    if not isinstance(config, dict):
        raise StyleAvatarError(f"config in {file} is no mapping", got=config)
    name = "neural_rendering_resolution"  # an attribute of the originals, not one of their settings
    return ({name: tree[name]} if name in tree else {}) | config


def read_json_file(file: str | Path) -> dict[str, Any]:
    """A JSON object from a file, or StyleAvatarError."""
    try:
        tree = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StyleAvatarError(f"{file} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise StyleAvatarError(f"{file} is no JSON object", got=type(tree).__name__)
    return tree


def _beside(path: Path) -> Path:
    """The JSON with the settings of a state dict."""
    stems = [path.stem, path.stem.removesuffix("_weights"), "config"]
    candidates = [path.with_name(f"{stem}.json") for stem in dict.fromkeys(stems)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise StyleAvatarError(
            f"there are no settings beside {path}",
            expected=" or ".join(candidate.name for candidate in candidates),
            remedy="write the settings with which the original was built, or name their file with --settings",
        )
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or StyleAvatarError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise StyleAvatarError(f"{path} is not a safetensors file: {error}") from None


# --- filling ---


def fill(generator: ClassicGenerator, source: Source) -> None:
    """Copy a state dict into the network that it must be exactly, by names and shapes.

    Filters may be missing, because they are constant, but must be ours where they are given; so must a body model's
    remains, which are ignored.
    """
    wanted = generator.state_dict()
    found = {name: tensor for name, tensor in source.weights.items() if not name.startswith(_BODY_MODEL)}
    filters = {name: tensor for name, tensor in wanted.items() if name.endswith("resample_filter")}
    _refuse_names("missing", source, wanted.keys() - found.keys() - filters.keys())
    _refuse_names("not of this network", source, found.keys() - wanted.keys())
    misshapen = [name for name in found if found[name].shape != wanted[name].shape]
    details = [f"{name} {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}" for name in misshapen]
    _refuse_names("of another shape than the settings say", source, details)
    _refuse_names("not real numbers", source, [name for name in found if not found[name].is_floating_point()])
    found = {name: tensor.float() for name, tensor in found.items()}
    _refuse_names("not finite", source, [name for name in found if not found[name].isfinite().all()])
    foreign = [name for name in filters if name in found and not torch.allclose(found[name], filters[name])]
    _refuse_names("of another resampling kernel than 1 3 3 1", source, foreign)
    generator.load_state_dict(found | {name: filters[name] for name in filters.keys() - found.keys()})


def _refuse_names(what: str, source: Source, names: Sequence[str] | set[str]) -> None:
    if names:
        listed = sorted(names)
        more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise StyleAvatarError(
            f"tensors of {source.file} are {what}:\n    " + "\n    ".join(listed[:_SHOWN]) + more,
            remedy="check --family, and that the settings are those of these weights",
        )


# --- writing ---


def _card(config: ClassicConfig, source: Source, licences: Sequence[str]) -> str:
    """What the weights are and where they come from, as a README with a metadata head."""
    published = licences == LICENCES[config.family]
    terms = _NON_COMMERCIAL if published else "Whoever imported them stated it. "
    return f"""---
library_name: styleavatar3d
tags: [3d-gan, avatar, imported]
licence: {json.dumps(list(licences), ensure_ascii=False)}
imported_from: {json.dumps(source.file.name, ensure_ascii=False)}
sha256_of_source: {source.sha256}
---
# Imported generator of the {config.family} family, {config.image_resolution} px

These weights were not made by this project. They were imported from `{source.file.name}` (sha256 `{source.sha256}`).

**Their licence is that of their source: {", ".join(licences)}.** {terms}Read it before you use or share them.

`Generator.from_pretrained(folder)` of `styleavatar3d.gan.generator` loads `model.safetensors` by `config.json`.
"""
