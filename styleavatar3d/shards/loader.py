"""Reading shards: random access that trusts the manifest only, and who reads what as a pure function."""

import io
import os
import tarfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import mirror_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.random import generator
from styleavatar3d.runtime.storage import LocalStorage, Storage
from styleavatar3d.shards.manifest import Entry, read_manifest, read_plan
from styleavatar3d.shards.schema import mirror_words

_MAX_PIXELS = 1 << 24


class ShardDataset:
    """The accepted pictures of a data set, by position.

    `dataset[i]` is a dict of `image` uint8 [3, H, W], `mask` uint8 [1, H, W], `label` float32 [25] and `json`
    (the record as a dict). Shards on S3 are kept, verified, in `cache`. An object may be sent to worker processes.
    """

    def __init__(self, url: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None):
        self.storage = Storage.open(url)
        self.plan = read_plan(self.storage)
        self.entries = read_manifest(self.storage)
        self.cache = Path(cache or Path.home() / ".cache" / "styleavatar3d" / "shards")
        self.places = [
            (number, index)
            for number, entry in enumerate(self.entries)
            for index in sorted(set(range(entry.first, entry.first + entry.count)) - set(entry.rejected))
        ]
        self._members: dict[int, dict[str, tuple[int, int]]] = {}
        self._paths: dict[int, Path] = {}
        if not self.places:
            raise StyleAvatarError(
                "the data set holds no accepted picture",
                got=f"{self.storage.url}: {len(self.entries)} shards committed",
                expected="at least one",
                remedy="run the command that makes the data set until it is done",
            )

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> dict[str, Any]:
        number, index = self.places[position]
        key = f"{index:09d}"
        record = parse_json(self.read(number, f"{key}.json"), key)
        return {
            "image": decode_png(self.read(number, f"{key}.image.png"), "RGB"),
            "mask": decode_png(self.read(number, f"{key}.mask.png"), "L"),
            "label": torch.tensor(record["camera"], dtype=torch.float32),
            "json": record,
        }

    def load(self, positions: Iterable[int]) -> dict[str, Any]:
        """The samples at `positions`, stacked; `json` is a list."""
        samples = [self[int(position)] for position in positions]
        tensors = {name: torch.stack([sample[name] for sample in samples]) for name in ("image", "mask", "label")}
        return {**tensors, "json": [sample["json"] for sample in samples]}

    def guidance(self, position: int) -> dict[str, UInt8[Tensor, "3 height width"]]:
        """The guidance pictures kept with a sample, by kind."""
        number, index = self.places[position]
        start = f"{index:09d}.guidance-"
        names = [name for name in self._index(number) if name.startswith(start)]
        return {name[len(start) : -len(".png")]: decode_png(self.read(number, name), "RGB") for name in names}

    def read(self, number: int, member: str) -> bytes:
        """The bytes of one member of shard `number` (a position in `entries`)."""
        place = self._index(number).get(member)
        if place is None:
            raise StyleAvatarError("a shard lacks a member", got=member, expected=f"in {self.entries[number].name}")
        with self._paths[number].open("rb") as file:
            file.seek(place[0])
            return file.read(place[1])

    def _index(self, number: int) -> dict[str, tuple[int, int]]:
        if number not in self._members:
            path = self._paths[number] = self._local(self.entries[number])
            self._members[number] = index_tar(path)
        return self._members[number]

    def _local(self, entry: Entry) -> Path:
        path = self.storage.local_path(entry.name)
        if path is None:
            kept = LocalStorage(self.cache)
            name = f"{entry.sha256}.tar"
            if not kept.exists(name) and kept.publish(name, self.storage.read(entry.name)) != entry.sha256:
                kept.delete(name)
                raise _damaged(entry, "its sha256 is another")
            path = kept.local_path(name)
        if not path.exists() or path.stat().st_size != entry.bytes:
            raise _damaged(entry, "it is missing or has another size")
        return path


def index_tar(path: Path) -> dict[str, tuple[int, int]]:
    """Member name -> (offset, size) of the regular files of a tar."""
    try:
        with tarfile.open(path) as tar:
            return {member.name: (member.offset_data, member.size) for member in tar if member.isreg()}
    except tarfile.TarError as error:
        raise StyleAvatarError(f"{path} is no tar: {error}", remedy="run `styleavatar3d dataset validate`") from None


def decode_png(data: bytes, mode: str) -> UInt8[Tensor, "channel height width"]:
    """A picture as uint8; `mode` is "RGB" or "L"."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if picture.width * picture.height > _MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels")
        array = numpy.array(picture.convert(mode))
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise StyleAvatarError(f"a picture cannot be decoded: {error}", expected="a PNG or JPEG") from None
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1).contiguous()


def parse_json(data: bytes, key: str) -> dict[str, Any]:
    """The record as a plain dict (`Record.from_json` checks it, `dataset validate` does so for all)."""
    import json

    try:
        record = json.loads(data)
        if len(record["camera"]) != 25:
            raise ValueError(f"{len(record['camera'])} camera numbers")
    except (ValueError, KeyError, TypeError) as error:
        raise StyleAvatarError(
            f"record {key} is damaged: {error}", remedy="run `styleavatar3d dataset validate`"
        ) from None
    return record


def mirror(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample in a mirror: image, mask, label and the words left and right swap together."""
    record = sample["json"]
    label = mirror_labels(sample["label"][None])[0]
    words = {name: mirror_words(record[name]) for name in ("prompt", "negative", "view")}
    yaw = -180.0 if record["yaw"] == -180 else -record["yaw"]
    return {
        **sample,
        "image": sample["image"].flip(-1),
        "mask": sample["mask"].flip(-1),
        "label": label,
        "json": {**record, **words, "yaw": yaw, "camera": label.tolist()},
    }


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> Sequence[int]:
    """The permutation of `count` samples in which an epoch is read."""
    return tuple(torch.randperm(count, generator=generator(seed, "order", epoch)).tolist())


def indices_at(seed: int, position: int, batch: int, count: int, rank: int = 0, world: int = 1) -> list[int]:
    """What rank `rank` of `world` reads when `position` samples were read by all: its part of the next global `batch`.

    Pure, so any run resumes at any sample, and the global order does not depend on `world`.
    """
    places = range(position + rank, position + batch, world)
    return [order(seed, place // count, count)[place % count] for place in places]


def _damaged(entry: Entry, why: str) -> StyleAvatarError:
    return StyleAvatarError(
        f"shard {entry.name} is damaged: {why}",
        expected=f"{entry.bytes} bytes, sha256 {entry.sha256[:16]}",
        remedy=f"delete manifest/{entry.shard:06d}.json and run the command that made the data set again",
    )
