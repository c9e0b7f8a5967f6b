"""Where weights are: a local folder, a path in the shipped data, or a hub id with a pinned revision; and what they are.

A hub id is downloaded once into the hub's cache (or only looked for there) and is a local folder from then on, so that
everything else reads local folders. Only safetensors, JSON, text and the card are fetched: no pickle is ever loaded.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from styleavatar3d.assets import assets
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.licences import NOT_STATED, stated_licences
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.schema import Model

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PINNED = re.compile(r"[0-9a-f]{40}")
_TEXTS = ["*.json", "*/*.txt", "README.md"]
CONTROLNETS = "controlnets"
"""The folder inside a pipeline's with a ControlNet a kind of guidance."""
_NEVER = ["safety_checker/*", "*non_ema*", "*flax*", "*onnx*", "*openvino*"]


class Source(NamedTuple):
    """Weights by name: a path, a path in the shipped data, `owner/name` or `owner/name@revision` of the hub."""

    name: str
    revision: str = ""
    """commit of a hub id that does not name it itself"""
    variant: str = ""
    """of the files in a hub repository, such as "fp16"; networks of several parts only"""

    def locate(self, offline: bool = False, parts: bool = False) -> Path:
        """The folder or file.

        Args:
            offline: look for a hub id in the local cache only
            parts: its weights are in a folder a part, as those of a pipeline; those beside them are not wanted
        Raises:
            StyleAvatarError: there is no such path, a hub id is not pinned, or it cannot be had
        """
        if path := self.local():
            return path
        name, _, own = self.name.partition("@")
        if not _HUB_ID.fullmatch(name):
            raise StyleAvatarError(
                "there are no such weights",
                got=self.name,
                expected="a path, or a hub id such as owner/name@commit",
                remedy="check the path; `styleavatar3d train miniature` makes a small model",
            )
        if not _PINNED.fullmatch(own or self.revision):
            raise StyleAvatarError(
                "there is no such path, and a hub id must name its commit, so that a run can be repeated",
                got=f"{name}, revision {own or self.revision or 'not given'}",
                expected="the 40 hexadecimal digits of a commit",
                remedy=f"copy one from https://huggingface.co/{name}/commits/main and write {name}@COMMIT",
            )
        return _download(name, own or self.revision, _wanted(self.variant, parts), offline)

    def local(self) -> Path | None:
        """The path, if it is one."""
        return next((path for path in (Path(self.name), assets() / self.name) if path.exists()), None)


def _wanted(variant: str, parts: bool) -> list[str]:
    return [*_TEXTS, f"{'*/' if parts else ''}*{variant}*.safetensors"]


def _download(name: str, revision: str, wanted: list[str], offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name, revision=revision, local_files_only=offline, allow_patterns=wanted, ignore_patterns=_NEVER
        )
    except Exception as error:  # the hub's client raises many kinds: no network, no such commit, a gated model
        raise StyleAvatarError(
            f"weights of the hub cannot be had: {str(error).splitlines()[0]}",
            got=f"{name}@{revision}" + (", offline" if offline else ""),
            expected="the hub in reach, or these weights in its cache on this machine",
            remedy=f"`hf download {name} --revision {revision}` where there is a network, and give that folder",
        ) from error
    return Path(folder)


def describe_weights(source: Source, path: Path, apart: str = "") -> Model:
    """Id, revision, sha256 over all safetensors at `path` with their names, and licence as the card states it.

    Args:
        apart: a folder inside `path` whose weights are another model's
    """
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    digest = hashlib.sha256()
    folder = path.parent if path.is_file() else path
    for file in files:
        inside = file.relative_to(folder)
        if not apart or inside.parts[0] != apart:
            digest.update(str(inside).encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 24):
                    digest.update(block)
    name, _, own = source.name.partition("@")
    known = name if source.local() is None else path.name
    return Model(
        id=known, revision=own or source.revision or "local", sha256=digest.hexdigest(), licence=_licence(path, files)
    )


def _licence(path: Path, files: list[Path]) -> str:
    """What the card beside the weights states, or that of the model which they came with; of a file what it says."""
    from safetensors import safe_open

    cards = [path.parent] if path.is_file() else [path]
    if path.parent.name == CONTROLNETS:
        cards.append(path.parent.parent)
    for folder in cards:
        if (stated := stated_licences(Storage.open(folder))) != [NOT_STATED]:
            return ", ".join(stated)
    if path.is_file():
        with safe_open(files[0], "pt") as opened:
            return (opened.metadata() or {}).get("modelspec.license", NOT_STATED)
    return NOT_STATED
