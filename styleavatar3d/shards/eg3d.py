"""EG3D's layout of a data set: a folder or zip of pictures with `dataset.json`, {"labels": [[name, 25 numbers], ...]}.

Labels have our layout, axes and units (docs/cameras.md). What EG3D has no place for (records, masks, guidance, rejected
pictures) travels beside the pictures under `styleavatar3d/`, one tar a shard, where its readers do not look; so
nothing is lost on the way there and back.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.archive import scan
from styleavatar3d.shards.archives import Archive, FolderWriter, ZipWriter, check_name
from styleavatar3d.shards.loader import ShardDataset
from styleavatar3d.shards.manifest import Entry, Plan
from styleavatar3d.shards.schema import Record, canonical_json, parse_json
from styleavatar3d.shards.writer import Sample, ending, header

LABELS = "dataset.json"
BESIDE = "styleavatar3d"
_PLAN = f"{BESIDE}/plan.json"
_REMEDY = f"delete the folder {BESIDE} from the archive to import its pictures and labels alone"


class Labelled(NamedTuple):
    """One picture of a foreign data set: its name in the archive and its label as it stands there."""

    name: str
    label: list[float]


class Beside(NamedTuple):
    """What an export kept beside the pictures: `named` if they are called as their records say, not by number;
    `pictures` is a sha256 over them all."""

    plan: Plan
    named: bool
    pictures: str


def read_labels(archive: Archive) -> list[Labelled]:
    """The labels in their own order. Raises StyleAvatarError if the file is none, or a name stands twice."""
    tree = parse_json(archive.read(LABELS))
    labels = tree.get("labels") if isinstance(tree, dict) else None
    if not isinstance(labels, list) or not labels:
        raise StyleAvatarError(
            f"{archive.name}/{LABELS} holds no labels",
            got=repr(labels),
            expected='{"labels": [["00000/img00000000.png", [25 numbers]], ...]}',
            remedy="every picture needs its camera: EG3D's own `dataset.json` has them, StyleGAN's has classes",
        )
    found, seen = [], set()
    for number, entry in enumerate(labels):
        match entry:
            case [str(name), list(label)]:
                found.append(Labelled(check_name(name.replace("\\", "/")), label))
            case _:
                raise StyleAvatarError(f"label {number} is no label", got=entry, expected='["name.png", [25 numbers]]')
        if found[-1].name in seen:
            raise StyleAvatarError("duplicated key: a picture has two labels", got=name, remedy="keep one of the two")
        seen.add(found[-1].name)
    return found


def read_beside(archive: Archive) -> Beside | None:
    """What an export left there, if it did."""
    if _PLAN not in archive.names():
        return None
    try:
        tree = parse_json(archive.read(_PLAN))
        return Beside(Plan.model_validate(tree["plan"]), bool(tree["named"]), str(tree["pictures"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StyleAvatarError(f"{_PLAN} is damaged: {error}", remedy=_REMEDY) from None


def restore(archive: Archive, beside: Beside, labels: dict[str, list[float]], shard: int) -> list[Sample]:
    """The samples of a shard as they were before the export. Raises StyleAvatarError if a label was changed."""
    indices, name, samples = beside.plan.indices(shard), f"{BESIDE}/{shard:06d}.tar", []
    tar = archive.read(name)
    layout = scan(tar, name, indices.start, len(indices))
    for row in range(len(indices)):
        spots = {part: spot for part in layout.parts if (spot := layout.find(row, part))}
        files = {part: tar[at : at + size] for part, (at, size) in spots.items()}
        if "json" not in files:
            raise StyleAvatarError(f"{name}, {indices[row]}: there is no record", remedy=_REMEDY)
        record = Record.from_json(files.pop("json"))
        if record.verdict == "accepted":
            called = [_name(record, beside.named, kind) for kind in ("png", "jpg")]
            source = next((known for known in called if known in labels), "")
            if labels.get(source) != record.camera:
                raise StyleAvatarError(f"{name}, {record.key}: {called[0]} has another label", remedy=_REMEDY)
            data = archive.read(source)
            files[f"image.{ending(data)}"] = data
        samples.append(_sample(record, files, name))
    return samples


def check_pictures(beside: Beside, samples: Iterable[Sample], count: int) -> None:
    """Raise StyleAvatarError unless the accepted pictures are the `count` ones of the export."""
    digest = hashlib.sha256()
    for sample in samples:
        if sample.record.verdict == "accepted" and isinstance(sample.image, bytes):
            digest.update(hashlib.sha256(sample.image).digest())
            count -= 1
    if count or digest.hexdigest() != beside.pictures:
        raise StyleAvatarError("the pictures are not those of the records beside them", remedy=_REMEDY)


def _sample(record: Record, files: dict[str, bytes], name: str) -> Sample:
    plain = {part.partition(".")[0]: data for part, data in files.items()}
    try:
        image, mask = plain.pop("image"), plain.pop("mask")
    except KeyError as error:
        raise StyleAvatarError(f"{name}, record {record.key}: there is no {error}", remedy=_REMEDY) from None
    return Sample(record, image, mask, {part.removeprefix("guidance-"): data for part, data in plain.items()})


def export(url: str, out: str) -> dict[str, Any]:
    """Write the accepted pictures of a complete shard set as EG3D reads them: a zip if `out` ends so, else a folder.

    Pictures are copied as they are, byte for byte.
    """
    dataset, path, pairs = ShardDataset(url), Path(out), []
    if len(dataset.entries) < dataset.plan.shards:
        raise StyleAvatarError(
            "only a complete data set is converted",
            got=f"{len(dataset.entries)} of {dataset.plan.shards} shards",
            remedy="run the command that makes it until it is done",
        )
    digest, named = hashlib.sha256(), _are_named(dataset)
    with ZipWriter(path) if path.suffix == ".zip" else FolderWriter(path) as writer:
        for number, entry in enumerate(dataset.entries):
            kept = io.BytesIO()
            with tarfile.open(fileobj=kept, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for record, files in _whole(dataset, number, entry):
                    if record.verdict == "accepted":
                        image = files.pop("image.png", None) or files.pop("image.jpg")
                        pairs.append((_name(record, named, ending(image)), record.camera))
                        writer.write(pairs[-1][0], image)
                        digest.update(hashlib.sha256(image).digest())
                    for part, data in sorted(files.items()):
                        tar.addfile(header(f"{record.key}.{part}", len(data)), io.BytesIO(data))
            writer.write(f"{BESIDE}/{entry.shard:06d}.tar", kept.getvalue())
        beside = {"plan": dataset.plan.model_dump(), "named": named, "pictures": digest.hexdigest()}
        writer.write(_PLAN, canonical_json(beside))
        writer.write(LABELS, canonical_json({"labels": pairs}))
    return {"out": out, "pictures": len(pairs), "rejected": dataset.plan.count - len(pairs)}


def _are_named(dataset: ShardDataset) -> bool:
    """Whether the records name files that can be names again: each another, each ending as its picture does."""
    seen: set[str] = set()
    for number, entry in enumerate(dataset.entries):
        for record, files in _whole(dataset, number, entry):
            source, kind = record.figure.source, "image.png" if "image.png" in files else "image.jpg"
            fits = source.lower().endswith((".png",) if kind == "image.png" else (".jpg", ".jpeg"))
            if not fits or source in seen or source.startswith(f"{BESIDE}/"):
                return False
            try:
                seen.add(check_name(source))
            except StyleAvatarError:
                return False
    return True


def _name(record: Record, named: bool, kind: str) -> str:
    return record.figure.source if named else f"{record.index // 1000:05d}/img{record.index:08d}.{kind}"


def _whole(dataset: ShardDataset, number: int, entry: Entry) -> Iterator[tuple[Record, dict[str, bytes]]]:
    """The records of a shard, each with all its files by part."""
    layout = dataset.layout(number)
    for row, index in enumerate(range(entry.first, entry.first + entry.count)):
        parts = [part for part in layout.parts if layout.find(row, part)]
        files = dataset.files([(number, index)], parts)[0]
        with dataset.naming(number, index):
            record = Record.from_json(files["json"])
        yield record, {part: files[part.rpartition(".")[0] or part] for part in parts}
