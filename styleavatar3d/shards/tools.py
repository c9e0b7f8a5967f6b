"""Looking at a data set: what is in it, a sheet of it, and whether it is sound."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

from styleavatar3d.camera.cameras import Camera, yaw_pitch
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.archive import scan
from styleavatar3d.shards.loader import ShardDataset, decode, order
from styleavatar3d.shards.manifest import INDEX, Entry, Plan, manifest_hash, read_index, read_manifest, read_plan
from styleavatar3d.shards.mistakes import camera_mistakes, describe
from styleavatar3d.shards.rejections import count_rejections
from styleavatar3d.shards.schema import Record, is_camera, parse_json

_ANGLE_TOLERANCE = 0.01
_SHOWN_PROBLEMS = 100


def inspect(url: str) -> dict[str, Any]:
    """Counts, sizes, hashes, licences, what the gates refused, and how many accepted pictures there are of each kind,
    style and view."""
    dataset, counts = ShardDataset(url, parts=("json",)), {name: Counter() for name in ("kind", "style", "view")}
    entries = dataset.entries

    def records() -> Iterator[dict[str, Any]]:
        for number, entry in enumerate(entries):
            for sample in dataset.samples([(number, index) for index in _indices(entry)]):
                for name, counter in counts.items():
                    counter[sample["json"][name]] += sample["json"]["verdict"] == "accepted"
                yield sample["json"]

    refused = count_rejections(records())
    return {
        "url": dataset.storage.url,
        "complete": len(entries) == dataset.plan.shards,
        "shards": len(entries),
        "planned_shards": dataset.plan.shards,
        "pictures": len(dataset),
        "rejected": sum(len(entry.rejected) for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
        "resolution": dataset.plan.resolution,
        "coding": dataset.plan.coding.image,
        "config_hash": dataset.plan.config_hash,
        "hash": manifest_hash(entries),
        "licences": dataset.plan.licences,
        "gates": {name: refused[name] for name in ("drawn_again", "draws", "by_gate", "by_yaw", "by_style")},
        **{name: dict((+counter).most_common()) for name, counter in counts.items()},
    }


def preview(url: str, out: str = "preview.png", count: int = 64) -> dict[str, Any]:
    """Write a sheet of `count` pictures drawn at random, each row sorted by yaw. Returns {"file", "pictures"}."""
    from PIL import Image

    dataset = ShardDataset(url)
    count = min(max(count, 1), len(dataset))
    columns = math.ceil(math.sqrt(count))
    samples = [dataset[place] for place in order(0, 0, len(dataset), numpy.arange(count)).tolist()]
    rows = [samples[start : start + columns] for start in range(0, count, columns)]
    size = dataset.plan.resolution
    sheet = torch.full((3, len(rows) * size, columns * size), 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, sample in enumerate(sorted(row, key=lambda sample: sample["json"]["yaw"])):
            sheet[:, y * size : (y + 1) * size, x * size : (x + 1) * size] = sample["image"]
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet.permute(1, 2, 0).numpy()).save(path)
    except (OSError, ValueError) as error:
        raise StyleAvatarError("cannot write the sheet", got=out, expected="a path that ends in .png") from error
    return {"file": str(path), "pictures": count}


def validate(url: str) -> dict[str, Any]:
    """Check every byte: hashes, counts, pictures, records, cameras, and that words agree with cameras.

    `url` is a shard set, or what `convert` reads: an EG3D folder or zip, or a `transforms.json`.
    Returns {"sound", "shards", "pictures", "problems": [text, ...]}; a shard set needs a picture, the others a label.
    """
    from styleavatar3d.shards.convert import is_foreign, validate_foreign

    if is_foreign(url):
        return validate_foreign(url)
    storage = Storage.open(url)
    plan, problems, cameras = read_plan(storage), [], {}
    entries = read_manifest(storage)
    for entry in entries:
        problems += _shard_problems(storage, plan, entry, cameras)
    mistakes = camera_mistakes(list(cameras.values()), plan.resolution)
    problems += [describe(mistake, list(cameras)) for mistake in mistakes]
    if missing := plan.shards - len(entries):
        problems.append(f"{missing} of {plan.shards} shards are not committed yet")
    if storage.exists(INDEX) and manifest_hash(read_index(storage)) != manifest_hash(entries):
        problems.append(f"{INDEX} speaks of other shards than the manifest: delete it and finish the data set again")
    more = [f"... and {len(problems) - _SHOWN_PROBLEMS} more"] if len(problems) > _SHOWN_PROBLEMS else []
    return {
        "sound": not problems,
        "shards": len(entries),
        "pictures": sum(entry.count - len(entry.rejected) for entry in entries),
        "problems": [*problems[:_SHOWN_PROBLEMS], *more],
    }


def _shard_problems(storage: Storage, plan: Plan, entry: Entry, cameras: dict[str, list[float]]) -> Iterator[str]:
    """What is wrong with a shard; the cameras of its records are added to `cameras`."""
    if list(plan.indices(entry.shard)) != list(_indices(entry)):
        yield f"{entry.name}: holds other indices than planned"
    try:
        data = storage.read(entry.name)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise StyleAvatarError(f"{entry.name}: the bytes are not those that were committed")
        layout = scan(data, entry.name, entry.first, entry.count)
    except StyleAvatarError as error:
        yield error.what
        return
    sound = True
    for row, index in enumerate(_indices(entry)):
        name = f"{entry.name}, record {index:09d}"
        try:
            spots = {part: spot for part in layout.parts if (spot := layout.find(row, part))}
            files = {part: data[at : at + size] for part, (at, size) in spots.items()}
            check_sample(files, index, plan.resolution, lambda camera, name=name: cameras.update({name: camera}))
        except StyleAvatarError as error:
            sound = False
            yield f"{name}: {error.what}"
    if sound and (stated := entry.layout()) and (stated.parts != layout.parts or (stated.sizes != layout.sizes).any()):
        yield f"{entry.name}: members lie elsewhere than the manifest says"


def check_sample(
    files: dict[str, bytes], index: int, size: int, told: Callable[[list[float]], object] = lambda camera: None
) -> None:
    """Raise StyleAvatarError unless the files of a sample are complete, of one size, and agree with each other. Its
    camera is `told` before anything else of the record is looked at."""
    names = [part.partition(".")[0] for part in files]
    for name in ("image", "mask", "json"):
        if names.count(name) != 1:
            raise StyleAvatarError(f"{name} is there {names.count(name)} times")
    if not isinstance(tree := parse_json(files["json"]), dict):
        raise StyleAvatarError("the record is no JSON object")
    if isinstance(camera := tree.get("camera"), list):
        told(camera)
        tree["camera"] = _SOUND  # the whole set tells best what is wrong with one
    record = Record.from_tree(tree)
    if record.index != index:
        raise StyleAvatarError(f"the record says index {record.index}")
    for part, data in files.items():
        if part != "json":
            shape = tuple(decode(data, "L" if part == "mask.png" else "RGB").shape[1:])
            if shape != (size, size):
                raise StyleAvatarError(f"{part} is {shape} instead of {size} x {size}")
    if camera and is_camera(camera):
        _check_angles(record.model_copy(update={"camera": camera}))


_SOUND = Camera.orbit(0.0).label().tolist()


def _check_angles(record: Record) -> None:
    """Raise unless yaw, pitch and the name of the view are the camera's, and say how they came to differ."""
    for name, found in zip(("yaw", "pitch"), yaw_pitch(torch.tensor([record.camera])), strict=True):
        said, true = getattr(record, name), found.item()
        if _apart(said, true) > _ANGLE_TOLERANCE:
            slips = {
                "it is in radians": math.radians(true), "its sign is turned (mirrored)": -true,
                "it counts as EG3D's h does, from 90": true + 90, "v counts down from 90": 90 - true,
            }  # fmt: skip
            why = [f": {slip}" for slip, value in slips.items() if _apart(said, value) < _ANGLE_TOLERANCE]
            raise StyleAvatarError(f"{name} {said} is not the camera's {true:.3f}{(why or [''])[0]}")
    side = "left" if record.yaw > 0 else "right"
    if ("left" in record.view or "right" in record.view) and side not in record.view:
        raise StyleAvatarError(f"the view is called '{record.view}' at yaw {record.yaw:.1f}")


def _apart(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


def _indices(entry: Entry) -> range:
    return range(entry.first, entry.first + entry.count)
