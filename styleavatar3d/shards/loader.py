"""Reading shards: random access that trusts the manifest only. In which order is a pure function, see `order.py`.

Nothing here grows with the number of samples but one small array a shard that was opened lately.
"""

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from styleavatar3d.camera.cameras import mirror_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import LocalStorage, Storage
from styleavatar3d.shards.archive import BLOCK, Layout, parse_header, scan
from styleavatar3d.shards.manifest import Entry, read_entry, read_index, read_plan
from styleavatar3d.shards.order import Batches, indices_at, order
from styleavatar3d.shards.schema import KEY_DIGITS, Record, mirror_words

__all__ = ["ShardDataset", "batches", "decode", "indices_at", "mirror", "order", "stack"]

_MAX_PIXELS = 1 << 24
_OPEN_FILES = 256
_KNOWN_LAYOUTS = 1024
_REQUESTS = 16
_MODES = {"image": "RGB", "mask": "L"}

Value = TypeVar("Value")


class ShardDataset(Dataset):
    """The accepted pictures of a data set, by position.

    `dataset[i]` is a dict of `image` uint8 [3, H, W], `mask` uint8 [1, H, W], `label` float32 [25] and `json`
    (the record as a dict); `parts` names those that are wanted, the label always comes. Shards on S3 are kept,
    verified, in `cache`, or read sample by sample with `whole=False`, which keeps nothing. An object may be sent to
    worker processes, or be there when they fork: places in files are never shared.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        cache: str | os.PathLike[str] | None = None,
        parts: Sequence[str] = ("image", "mask", "json"),
        whole: bool = True,
    ):
        if not set(parts) <= {*_MODES, "json"}:
            raise StyleAvatarError("a sample has no such part", got=", ".join(parts), expected="image, mask, json")
        self.storage, self.parts, self.whole = Storage.open(url), tuple(parts), whole
        self.plan = read_plan(self.storage)
        self.entries = read_index(self.storage)
        self.cache = Path(cache or Path.home() / ".cache" / "styleavatar3d" / "shards")
        self.ends = numpy.cumsum([entry.count - len(entry.rejected) for entry in self.entries], dtype=numpy.int64)
        self._forget()
        if not len(self):
            raise StyleAvatarError(
                "the data set holds no accepted picture",
                got=f"{self.storage.url}: {len(self.entries)} shards committed",
                expected="at least one",
                remedy="run the command that makes the data set until it is done",
            )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def place(self, position: int) -> tuple[int, int]:
        """(number of the shard in `entries`, index of the record) of the accepted picture at `position`."""
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        position %= len(self)
        number = int(numpy.searchsorted(self.ends, position, "right"))
        entry = self.entries[number]
        place = position - int(self.ends[number - 1] if number else 0)
        rejected = numpy.sort(numpy.asarray(entry.rejected, numpy.int64)) - entry.first
        before = numpy.searchsorted(rejected - numpy.arange(len(rejected)), place, "right")
        return number, entry.first + place + int(before)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """The samples at `positions`, read in one go: what a DataLoader asks for."""
        return self.samples([self.place(int(position)) for position in positions])

    def samples(self, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
        """The samples at (shard number, record index), rejected ones too."""
        found = []
        wanted = ("json", *(part for part in self.parts if part != "json"))
        for place, files in zip(places, self.files(places, wanted), strict=True):
            with self.naming(*place):
                found.append(self._sample(place[1], files))
        return found

    def load(self, positions: Iterable[int]) -> dict[str, Any]:
        """The samples at `positions`, stacked; `json` is a list."""
        return stack(self.__getitems__(list(positions)))

    def guidance(self, position: int) -> dict[str, UInt8[Tensor, "3 height width"]]:
        """The guidance pictures kept with a sample, by kind."""
        number, index = self.place(position)
        parts = [part for part in self.layout(number).parts if part.startswith("guidance-")]
        files = self.files([(number, index)], parts)[0] if parts else {}
        return {part.removeprefix("guidance-"): decode(data, "RGB") for part, data in files.items()}

    def record(self, number: int, index: int) -> Record:
        """The checked record of a sample."""
        with self.naming(number, index):
            return Record.from_json(self.files([(number, index)], ["json"])[0]["json"])

    def read(self, number: int, member: str) -> bytes:
        """The bytes of one member of shard `number` (a position in `entries`)."""
        key, _, part = member.partition(".")
        return next(iter(self.files([(number, int(key))], [part])[0].values()))

    def files(self, places: Sequence[tuple[int, int]], parts: Sequence[str]) -> list[dict[str, bytes]]:
        """The files of samples by part, the ending left out: {"image": bytes, "json": bytes}.

        What lies between the first and the last wanted part of a sample is read with them, in one request.
        """
        found = []
        for number, index in places:
            with self.naming(number, index):
                found.append(_find(self.layout(number), index, parts))
        spans = [
            (number, min(at for _, at, _ in spots) - BLOCK, max(at + size for _, at, size in spots))
            for (number, _), spots in zip(places, found, strict=True)
        ]
        data = self._fetch(spans)
        return [
            self._cut(*place, spots, start, piece)
            for place, spots, (_, start, _), piece in zip(places, found, spans, data, strict=True)
        ]

    def layout(self, number: int) -> Layout:
        """Where the members of shard `number` lie: from its manifest record, or from the tar of an earlier version."""
        return self._layouts.get(number, self._read_layout)

    @contextmanager
    def naming(self, number: int, index: int) -> Iterator[None]:
        """Say which shard and key a StyleAvatarError inside is about."""
        try:
            yield
        except StyleAvatarError as error:
            raise StyleAvatarError(f"{self.entries[number].name}, record {index:0{KEY_DIGITS}d}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_layouts", "_opened")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._layouts: Recent[Layout] = Recent(_KNOWN_LAYOUTS)
        self._opened: Recent[Any] = Recent(_OPEN_FILES, lambda file: file.close())

    def _sample(self, index: int, files: dict[str, bytes]) -> dict[str, Any]:
        record = Record.from_json(files["json"])
        if record.index != index:
            raise StyleAvatarError(f"the record says index {record.index}")
        sample = {part: decode(files[part], _MODES[part]) for part in self.parts if part != "json"}
        sample["label"] = torch.tensor(record.camera, dtype=torch.float32)
        return sample | ({"json": record.model_dump()} if "json" in self.parts else {})

    def _read_layout(self, number: int) -> Layout:
        entry = self.entries[number]
        if not entry.sizes:
            stated = read_entry(self.storage, entry.shard)
            if stated.sha256 != entry.sha256:
                raise _damaged(entry, "the index speaks of another shard than the manifest")
            entry = stated
        layout = entry.layout() or scan(self._path(entry).read_bytes(), entry.name, entry.first, entry.count)
        if len(layout.sizes) != entry.count or (layout.offsets + layout.sizes).max() > entry.bytes:
            raise _damaged(entry, "its manifest record contradicts itself")
        return layout

    def _fetch(self, spans: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """The bytes start..stop of shards."""
        if self.whole or self.storage.local_path() is not None:
            files = (self._opened.get(number, self._open).fileno() for number, _, _ in spans)
            return [os.pread(file, stop - start, start) for file, (_, start, stop) in zip(files, spans, strict=True)]
        requests = [(self.entries[number].name, start, stop) for number, start, stop in spans]
        with ThreadPoolExecutor(min(_REQUESTS, len(requests))) as pool:
            return list(pool.map(lambda request: self.storage.read_range(*request), requests))

    def _cut(self, number: int, index: int, spots: list, start: int, data: bytes) -> dict[str, bytes]:
        """The members in a span, each checked against its own header."""
        files, entry = {}, self.entries[number]
        for part, offset, size in spots:
            member, at = f"{index:0{KEY_DIGITS}d}.{part}", offset - start
            if len(data) < at + size or not _is_header(data[at - BLOCK : at], member, size):
                raise _damaged(entry, f"{member} is not where the manifest says")
            files[part.rpartition(".")[0] or part] = data[at : at + size]
        return files

    def _open(self, number: int) -> Any:
        return self._path(self.entries[number]).open("rb", buffering=0)

    def _path(self, entry: Entry) -> Path:
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


class Recent(OrderedDict[int, Value], Generic[Value]):
    """The `most` values that were asked for last; `drop` says goodbye to the others."""

    def __init__(self, most: int, drop: Callable[[Value], object] = lambda value: None):
        super().__init__()
        self.most, self.drop = most, drop

    def get(self, key: int, make: Callable[[int], Value]) -> Value:  # type: ignore[override]
        if key not in self:
            self[key] = make(key)
            if len(self) > self.most:
                self.drop(self.popitem(last=False)[1])
        self.move_to_end(key)
        return self[key]


def batches(
    dataset: ShardDataset,
    batch: int,
    seed: int,
    position: int = 0,
    until: int | None = None,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> DataLoader:
    """Shuffled, stacked samples from `position` on, exactly as `Batches` shares them out; see there.

    To resume, give the number of samples that all ranks have read: `batch` for every batch taken. Neither `workers` nor
    `world` changes what comes when.
    """
    sampler = Batches(len(dataset), batch, seed, position, until, rank, world)
    return DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=stack)


def stack(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples as one batch; `json` becomes a list."""
    return {
        name: [sample[name] for sample in samples] if name == "json" else torch.stack([s[name] for s in samples])
        for name in samples[0]
    }


def decode(data: bytes, mode: str) -> UInt8[Tensor, "channel height width"]:
    """A PNG or JPEG as uint8; `mode` is "RGB" or "L".

    Pillow, for it decodes JPEG with libjpeg-turbo and PNG with zlib-ng, releases the interpreter while it does, and is
    there anyway: what another binding of the same library would save is lost in the noise of a training step.
    """
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        if picture.width * picture.height > _MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height} pixels")
        array = numpy.array(picture if picture.mode == mode else picture.convert(mode))
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise StyleAvatarError(f"a picture cannot be decoded: {error}", expected="a PNG or JPEG") from None
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


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


def _find(layout: Layout, index: int, parts: Sequence[str]) -> list[tuple[str, int, int]]:
    """(part with its ending, offset, size) of the wanted parts of a sample."""
    spots = []
    for part in parts:
        names = [part] if "." in part or part == "json" else [f"{part}.png", f"{part}.jpg"]
        places = [(name, *place) for name in names if (place := layout.find(index - layout.first, name))]
        if len(places) != 1:
            raise StyleAvatarError("the shard lacks a member", got=part, expected=", ".join(layout.parts))
        spots += places
    return spots


def _is_header(header: bytes, member: str, size: int) -> bool:
    try:
        return parse_header(header, "") == (member, size)
    except StyleAvatarError:
        return False


def _damaged(entry: Entry, why: str) -> StyleAvatarError:
    return StyleAvatarError(
        f"shard {entry.name} is damaged: {why}",
        expected=f"{entry.bytes} bytes, sha256 {entry.sha256[:16]}",
        remedy=f"delete manifest/{entry.shard:06d}.json and run the command that made the data set again",
    )
