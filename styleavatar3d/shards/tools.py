"""Looking at a data set: what is in it, a sheet of it, and whether it is sound."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from styleavatar3d.camera.cameras import check_labels, yaw_pitch
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.loader import ShardDataset, decode_png, order
from styleavatar3d.shards.manifest import manifest_hash
from styleavatar3d.shards.schema import Record

_ANGLE_TOLERANCE = 0.01
_SHOWN_PROBLEMS = 100


def inspect(url: str) -> dict[str, Any]:
    """Counts, sizes, hashes, licences, and how many pictures there are of each kind, style and view."""
    dataset = ShardDataset(url)
    records = [dataset.read(number, f"{index:09d}.json") for number, index in dataset.places]
    parsed = [Record.from_json(record) for record in records]
    entries = dataset.entries
    return {
        "url": dataset.storage.url,
        "complete": len(entries) == dataset.plan.shards,
        "shards": len(entries),
        "planned_shards": dataset.plan.shards,
        "pictures": len(dataset),
        "rejected": sum(len(entry.rejected) for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
        "resolution": dataset.plan.resolution,
        "config_hash": dataset.plan.config_hash,
        "hash": manifest_hash(entries),
        "licences": dataset.plan.licences,
        **{name: dict(Counter(getattr(r, name) for r in parsed).most_common()) for name in ("kind", "style", "view")},
    }


def preview(url: str, out: str = "preview.png", count: int = 64) -> dict[str, Any]:
    """Write a sheet of `count` pictures drawn at random, each row sorted by yaw. Returns {"file", "pictures"}."""
    from PIL import Image

    dataset = ShardDataset(url)
    count = min(max(count, 1), len(dataset))
    columns = math.ceil(math.sqrt(count))
    samples = [dataset[place] for place in order(0, 0, len(dataset))[:count]]
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

    Returns {"sound", "shards", "pictures", "problems": [text, ...]}.
    """
    dataset = ShardDataset(url)
    problems = [problem for number in range(len(dataset.entries)) for problem in _shard_problems(dataset, number)]
    missing = dataset.plan.shards - len(dataset.entries)
    if missing:
        problems.append(f"{missing} of {dataset.plan.shards} shards are not committed yet")
    return {
        "sound": not problems,
        "shards": len(dataset.entries),
        "pictures": len(dataset),
        "problems": problems[:_SHOWN_PROBLEMS],
    }


def _shard_problems(dataset: ShardDataset, number: int) -> Iterator[str]:
    entry = dataset.entries[number]
    try:
        data = dataset.storage.read(entry.name)
    except StyleAvatarError as error:
        yield error.what
        return
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        yield f"{entry.name}: the bytes are not those that were committed"
        return
    if list(dataset.plan.indices(entry.shard)) != list(range(entry.first, entry.first + entry.count)):
        yield f"{entry.name}: holds other indices than planned"
    for index in range(entry.first, entry.first + entry.count):
        try:
            _check_sample(dataset, number, index)
        except StyleAvatarError as error:
            yield f"{entry.name}, record {index:09d}: {error.what}"


def _check_sample(dataset: ShardDataset, number: int, index: int) -> None:
    key, size = f"{index:09d}", dataset.plan.resolution
    record = Record.from_json(dataset.read(number, f"{key}.json"))
    if record.index != index:
        raise StyleAvatarError(f"the record says index {record.index}")
    for part, mode in (("image", "RGB"), ("mask", "L")):
        shape = decode_png(dataset.read(number, f"{key}.{part}.png"), mode).shape[1:]
        if shape != (size, size):
            raise StyleAvatarError(f"{part} is {tuple(shape)} instead of {size} x {size}")
    label = torch.tensor([record.camera])
    check_labels(label)
    for name, found in zip(("yaw", "pitch"), yaw_pitch(label), strict=True):
        difference = (found.item() - getattr(record, name) + 180) % 360 - 180
        if abs(difference) > _ANGLE_TOLERANCE:
            raise StyleAvatarError(f"{name} {getattr(record, name)} is not the camera's {found.item():.3f}")
    side = "left" if record.yaw > 0 else "right"
    if ("left" in record.view or "right" in record.view) and side not in record.view:
        raise StyleAvatarError(f"the view is called '{record.view}' at yaw {record.yaw:.1f}")
