"""Other layouts of a data set: EG3D's folders and zips from and to shards, nerfstudio's `transforms.json` to them."""

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy
import torch

from styleavatar3d.camera.cameras import view_name, yaw_pitch
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.checkpoint import StopSignal
from styleavatar3d.runtime.pictures import eight_bits, open_picture
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards import eg3d, parquet
from styleavatar3d.shards.archives import ENDINGS, Archive, open_archive
from styleavatar3d.shards.eg3d import LABELS, Labelled
from styleavatar3d.shards.folder import Progress, raise_if, write_shards
from styleavatar3d.shards.lenses import FRAMING
from styleavatar3d.shards.manifest import Entry, Plan, begin, manifest_hash
from styleavatar3d.shards.mistakes import camera_mistakes, describe, meeting_point, refuse_mistakes, wrong_numbers
from styleavatar3d.shards.nerfstudio import TRANSFORMS, read_transforms
from styleavatar3d.shards.schema import Coding, Figure, Record
from styleavatar3d.shards.table import UNSTATED, check_licence
from styleavatar3d.shards.tools import check_sample
from styleavatar3d.shards.writer import Sample, members_of

SIZES = range(16, 4097)
_SHOWN = 20
_OVERHEAD = 65536
"""bytes that a picture may have beyond eight a pixel, and be kept as it is"""


class Foreign(NamedTuple):
    """A data set in another layout: where its files are, its labels in our convention, and what it is."""

    archive: Archive
    pairs: list[Labelled]
    kind: Literal["eg3d", "nerfstudio"]
    up: str


def convert(
    source: str,
    out: str,
    licence: str = "",
    coding: Literal["keep", "auto", "png", "jpeg"] = "keep",
    shard_size: int = 250,
    fit: bool = False,
    unusual: bool = False,
) -> dict[str, Any]:
    """Shards become an EG3D zip, an EG3D folder or a table: `out` ends in .zip, in nothing or in .parquet. An EG3D
    folder or zip, or a `transforms.json`, becomes shards.

    Into shards: `licence` is that of the pictures. `coding` "keep" leaves PNG and JPEG as they are, byte for byte.
    `fit` moves the point at which all cameras look to the origin and scales distances so that heads fill the picture as
    ours do. Labels are refused with the name of the mistake they hold; `unusual` lets pass those that are merely
    unlikely. The same call resumes.
    """
    if not is_foreign(source):
        return (parquet.export if out.endswith(".parquet") else eg3d.export)(source, out)
    foreign = read_foreign(source)
    moved, beside = {}, eg3d.read_beside(foreign.archive)
    if fit:
        foreign, moved = _fit(foreign)
    _check_labels(foreign, unusual)
    with StopSignal() as stop:
        if beside and not fit:
            entries, plan = _restore(foreign, beside, out, stop)
        else:
            check_licence(licence)
            entries, plan = _import(foreign, out, licence, coding, shard_size, stop)
    report = {"out": str(out), "from": foreign.kind, "pictures": len(foreign.pairs), "resolution": plan.resolution}
    return report | moved | ({"up": foreign.up} if foreign.up else {}) | {"hash": manifest_hash(entries)}


def is_foreign(url: str | os.PathLike[str]) -> bool:
    """Whether this is a zip, a JSON file, or a folder that is no shard set."""
    text = os.fspath(url)
    path = Path(text)
    if "://" in text:
        return False
    if path.is_dir() and not (path / "manifest").is_dir():
        head = (path / LABELS).read_bytes()[:4096] if (path / LABELS).is_file() else b""
        return (path / TRANSFORMS).is_file() or (bool(head) and b'"shard_size"' not in head)
    return path.suffix.lower() in (".zip", ".json")


def read_foreign(source: str | os.PathLike[str]) -> Foreign:
    """Labels of an EG3D folder or zip, or of a `transforms.json` (in a folder, a zip, or by its own path)."""
    path = Path(source)
    if path.suffix.lower() == ".json":
        if path.name == LABELS:
            return read_foreign(path.parent)
        archive = open_archive(path.parent)
        return Foreign(archive, *_nerfstudio(archive, path.name))
    archive = open_archive(path)
    names = archive.names()
    if LABELS in names:
        return Foreign(archive, eg3d.read_labels(archive), "eg3d", "")
    if TRANSFORMS in names:
        return Foreign(archive, *_nerfstudio(archive, TRANSFORMS))
    raise StyleAvatarError("no cameras are in there", got=str(source), expected=f"{LABELS} or {TRANSFORMS} at its top")


def validate_foreign(source: str) -> dict[str, Any]:
    """What is wrong with a data set in another layout, as `validate` says it for shards."""
    problems: list[str] = []
    try:
        foreign = read_foreign(source)
    except StyleAvatarError as error:
        return {"sound": False, "shards": 0, "pictures": 0, "problems": [_one_line(error)]}
    names = [pair.name for pair in foreign.pairs]
    mistakes = camera_mistakes([pair.label for pair in foreign.pairs])
    problems += [describe(mistake, names) for mistake in mistakes]
    sizes: Counter[int] = Counter()
    for name in names:
        try:
            sizes[read_picture(foreign.archive, name).size] += 1
        except StyleAvatarError as error:
            problems.append(f"{name}: {_one_line(error)}")
    if len(sizes) > 1:
        problems.append(f"wrong sizes: {', '.join(f'{count} of {size} pixels' for size, count in sizes.most_common())}")
    problems += _strays(foreign)
    return {"sound": not problems, "shards": 0, "pictures": len(names), "problems": problems[:100]}


class Picture(NamedTuple):
    """A square picture as it goes into a shard: its file, or pixels where the file cannot be kept."""

    image: torch.Tensor | bytes
    mask: torch.Tensor
    size: int
    sha256: str


def read_picture(archive: Archive, name: str, coding: str = "keep") -> Picture:
    """The picture and its silhouette: its alpha channel, or everything. Raises StyleAvatarError unless it is square."""
    data = archive.read(name)
    image = open_picture(io.BytesIO(data), name)
    if image.width != image.height or image.width not in SIZES:
        raise StyleAvatarError(
            "wrong size", got=f"{name}: {image.width} x {image.height}", expected=f"square, {SIZES[0]} to {SIZES[-1]}"
        )
    size, digest = image.width, hashlib.sha256(data).hexdigest()
    full = torch.full((1, size, size), 255, dtype=torch.uint8)
    plain = image.mode == "RGB" and image.format in ("PNG", "JPEG") and not image.has_transparency_data
    if plain and coding == "keep" and len(data) <= 8 * size * size + _OVERHEAD:
        return Picture(data, full, size, digest)
    pixels = torch.from_numpy(numpy.array(eight_bits(image).convert("RGBA"))).permute(2, 0, 1).contiguous()
    return Picture(pixels[:3], pixels[3:] if image.has_transparency_data else full, size, digest)


def _nerfstudio(archive: Archive, name: str) -> tuple[list[Labelled], Literal["nerfstudio"], str]:
    pairs, up = read_transforms(archive, name)
    return pairs, "nerfstudio", up


def _check_labels(foreign: Foreign, unusual: bool) -> None:
    names = [pair.name for pair in foreign.pairs]
    refuse_mistakes(camera_mistakes([pair.label for pair in foreign.pairs]), names, not unusual)
    if strays := _strays(foreign):
        raise StyleAvatarError(strays[0], remedy="complete the labels, or take the pictures away")


def _strays(foreign: Foreign) -> list[str]:
    """Pictures without a label, in a layout that wants one for each."""
    if foreign.kind != "eg3d":
        return []
    pictures = {n for n in foreign.archive.names() if n.lower().endswith(ENDINGS) and not n.startswith(eg3d.BESIDE)}
    bare = sorted(pictures - {pair.name for pair in foreign.pairs})
    return [f"{len(bare)} pictures have no label: {', '.join(bare[:3])}"] if bare else []


def _fit(foreign: Foreign) -> tuple[Foreign, dict[str, Any]]:
    """The data set with its cameras moved and scaled to ours, and by how much."""
    given, names = [pair.label for pair in foreign.pairs], [pair.name for pair in foreign.pairs]
    refuse_mistakes(wrong_numbers(given), names)
    labels = numpy.array(given, numpy.float64)
    point = meeting_point(labels[:, :16].reshape(-1, 4, 4))
    if point is None:
        refuse_mistakes(camera_mistakes(given), names)
        raise StyleAvatarError("the cameras look at no common point", remedy="place them by hand, without --fit")
    labels[:, [3, 7, 11]] -= point
    radius = numpy.linalg.norm(labels[:, [3, 7, 11]], axis=1)
    scale = float(numpy.median(labels[:, 16] / radius) / FRAMING)
    labels[:, [3, 7, 11]] *= scale
    pairs = [Labelled(pair.name, label) for pair, label in zip(foreign.pairs, labels.tolist(), strict=True)]
    return foreign._replace(pairs=pairs), {"moved_by": (-point).tolist(), "scaled_by": scale}


def _restore(foreign: Foreign, beside: eg3d.Beside, out: str, stop: StopSignal) -> tuple[list[Entry], Plan]:
    """Shards as they were before they became an EG3D archive, to the byte, after everything was checked."""
    plan, labels = beside.plan, dict(foreign.pairs)
    shard_of = lru_cache(1)(lambda shard: eg3d.restore(foreign.archive, beside, labels, shard))

    def checked() -> Iterator[Sample]:
        for shard in range(plan.shards):
            for sample in shard_of(shard):
                raise_if(stop)
                check_sample(members_of(sample), sample.record.index, plan.resolution)
                yield sample

    def sample(index: int) -> Sample:
        return shard_of(index // plan.shard_size)[index % plan.shard_size]

    eg3d.check_pictures(beside, checked(), len(labels))
    storage = Storage.open(out)
    begin(storage, plan)
    return write_shards(storage, plan, sample, stop), plan


def _import(
    foreign: Foreign, out: str, licence: str, coding: str, shard_size: int, stop: StopSignal
) -> tuple[list[Entry], Plan]:
    """Shards of pictures and labels alone."""
    archive, pairs, problems = foreign.archive, foreign.pairs, _Problems()
    progress, sizes, digests = Progress("checked", len(pairs)), Counter(), []
    for pair in pairs:
        raise_if(stop)
        with problems.at(pair.name):
            picture = read_picture(archive, pair.name)
            sizes[picture.size] += 1
            digests.append(picture.sha256)
        progress.add(1)
    if len(sizes) > 1:
        problems.found.append(f"wrong sizes: {', '.join(f'{n} of {size} pixels' for size, n in sizes.most_common())}")
    problems.check(archive.name)
    size = next(iter(sizes))
    identity = hashlib.sha256(json.dumps([coding, licence, pairs, digests]).encode()).hexdigest()[:12]
    kept = Coding() if coding == "keep" else Coding.choose(coding, size)  # type: ignore[arg-type]
    plan = Plan(
        count=len(pairs), shard_size=shard_size, resolution=size, config_hash=identity, licences=[licence], coding=kept
    )
    yaws, pitches = yaw_pitch(torch.tensor([pair.label for pair in pairs]))

    def sample(index: int) -> Sample:
        picture, pair = read_picture(archive, pairs[index].name, coding), pairs[index]
        if picture.sha256 != digests[index]:
            raise StyleAvatarError("a picture changed during the conversion", got=pair.name)
        record = _record(index, pair, yaws[index].item(), pitches[index].item(), digests[index], plan)
        return Sample(record, picture.image, picture.mask, {})

    storage = Storage.open(out)
    begin(storage, plan)
    return write_shards(storage, plan, sample, stop), plan


def _record(index: int, pair: Labelled, yaw: float, pitch: float, sha256: str, plan: Plan) -> Record:
    return Record(
        index=index,
        attempt=0,
        seed=0,
        camera=pair.label,
        yaw=yaw,
        pitch=pitch,
        prompt="",
        negative="",
        kind=UNSTATED,
        style=UNSTATED,
        view=view_name(yaw),
        attributes={},
        guidance=[],
        models=[],
        figure=Figure(id=sha256, source=pair.name, licence=plan.licences[0]),
        gates={},
        verdict="accepted",
        config_hash=plan.config_hash,
    )


class _Problems:
    """What is wrong with which picture, so that all of it can be mended before the next try."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        try:
            yield
        except StyleAvatarError as error:
            self.found.append(f"{name}: {_one_line(error)}")

    def check(self, source: str) -> None:
        if self.found:
            more = [f"... and {len(self.found) - _SHOWN} more"] if len(self.found) > _SHOWN else []
            lines = [f"{source} cannot be converted; nothing was written", *self.found[:_SHOWN], *more]
            raise StyleAvatarError("\n  ".join(lines), remedy="mend these and run the same command again")


def _one_line(error: StyleAvatarError) -> str:
    return " ".join(str(error).split())
