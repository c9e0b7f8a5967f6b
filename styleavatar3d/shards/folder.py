"""Your own pictures as data: a folder and a table of their cameras become shards like those of a synthesis."""

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from styleavatar3d.camera.cameras import Camera, view_name
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.runtime.checkpoint import StopSignal
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import clock
from styleavatar3d.shards.manifest import Entry, Plan, begin, commit, committed, manifest_hash
from styleavatar3d.shards.parquet import finish
from styleavatar3d.shards.pictures import Pictures, Pixels, Silhouette
from styleavatar3d.shards.schema import Coding, Figure, Record
from styleavatar3d.shards.table import Problems, Row, read_table
from styleavatar3d.shards.writer import Sample

SIZES = range(16, 1025)
_NO_MASKS = (
    "the discriminator's alpha channel is full for pictures without a mask, so that their background is learned "
    "as part of the head; masks or transparent backgrounds prevent it"
)


def import_folder(
    folder: str | os.PathLike[str],
    table: str | os.PathLike[str],
    out: str | os.PathLike[str],
    size: int = 64,
    licence: str = "",
    mask: str = "alpha",
    shard_size: int = 250,
    coding: Literal["auto", "png", "jpeg"] = "auto",
) -> dict[str, Any]:
    """Write the pictures named in `table` (see `read_table`) as shards at `out`; the same call resumes.

    Every picture is turned upright, cropped to its centred square, and reduced to `size` pixels. `mask` says where
    silhouettes are: "alpha" (transparency, where there is some), "none" (nowhere), or a folder of pictures of the
    same names ending in .png, white where the head is; a row's own `mask` cell comes first. `coding` says how the
    pictures are kept (see `Coding.choose`). Everything is checked
    before anything is written: one StyleAvatarError shows all bad rows. Raises Stopped on SIGTERM and Ctrl-C.
    """
    if size not in SIZES or shard_size < 1:
        raise StyleAvatarError("no pictures of that size", got=size, expected=f"{SIZES[0]} to {SIZES[-1]} pixels")
    pictures, problems = Pictures.find(folder, mask, size), Problems()
    rows = read_table(Path(table), licence, problems)
    with StopSignal() as stop:
        checked = _check(rows, pictures, problems, stop)
        problems.check(Path(table))
        storage, licences = Storage.open(out), sorted({row.licence for row in rows})
        plan = begin(storage, Plan(count=len(rows), shard_size=shard_size, resolution=size,
                                   config_hash=checked.identity, licences=licences,
                                   coding=Coding.choose(coding, size)))  # fmt: skip
        entries = write_shards(storage, plan, partial(_sample, rows, checked, pictures, plan), stop)
    report = {
        "out": storage.url,
        "pictures": len(rows),
        "masks": dict(sorted(checked.silhouettes.items())),
        "licences": licences,
        "hash": manifest_hash(entries),
    }
    return report | ({"note": _NO_MASKS} if checked.silhouettes["none"] else {})


class Checked(NamedTuple):
    """What names the whole data set, the sha256 of each picture, and how many silhouettes came from where."""

    identity: str
    sha256: list[str]
    silhouettes: Counter[Silhouette]


def _check(rows: Sequence[Row], pictures: Pictures, problems: Problems, stop: StopSignal) -> Checked:
    """Read every picture once, and note what is wrong."""
    progress, seen = Progress("checked", len(rows)), {}
    silhouettes: Counter[Silhouette] = Counter()
    whole = hashlib.sha256(json.dumps([pictures.size, pictures.rule]).encode())
    for row in rows:
        raise_if(stop)
        with problems.at(row.number):
            pixels = pictures.read(row)
            if pixels.sha256 in seen:
                raise StyleAvatarError(
                    f"the same picture as in row {seen[pixels.sha256]}", got=row.file, remedy="keep one of the two"
                )
            seen[pixels.sha256] = row.number
            silhouettes[pixels.silhouette] += 1
            whole.update(json.dumps([*row[1:], pixels.sha256, pixels.mask_sha256], sort_keys=True).encode())
        progress.add(1)
    return Checked(whole.hexdigest()[:12], list(seen), silhouettes)


def write_shards(storage: Storage, plan: Plan, sample: Callable[[int], Sample], stop: StopSignal) -> list[Entry]:
    """Commit the shards that are not there yet, made of `sample(index)`, and finish the data set."""
    done = committed(storage)
    todo = [shard for shard in range(plan.shards) if shard not in done]
    progress = Progress("written", sum(len(plan.indices(shard)) for shard in todo))
    for shard in todo:
        samples = []
        for index in plan.indices(shard):
            raise_if(stop)
            samples.append(sample(index))
            progress.add(1)
        commit(storage, shard, samples, plan.coding)
    return finish(storage)


def _sample(rows: Sequence[Row], checked: Checked, pictures: Pictures, plan: Plan, index: int) -> Sample:
    pixels = pictures.read(rows[index])
    if pixels.sha256 != checked.sha256[index]:
        raise StyleAvatarError("a picture changed during the import", got=rows[index].file)
    return Sample(_record(index, rows[index], pixels, plan), pixels.image, pixels.mask, {})


def _record(index: int, row: Row, pixels: Pixels, plan: Plan) -> Record:
    """No model took part, so `models`, `gates` and `guidance` are empty."""
    return Record(
        index=index,
        attempt=0,
        seed=0,
        camera=Camera.orbit(row.yaw, row.pitch, row.radius, row.focal).label().tolist(),
        yaw=row.yaw,
        pitch=row.pitch,
        prompt=row.prompt,
        negative="",
        kind=row.kind,
        style=row.style,
        view=view_name(row.yaw),
        attributes=row.attributes,
        guidance=[],
        models=[],
        figure=Figure(id=pixels.sha256, source=row.file, licence=row.licence),
        gates={},
        verdict="accepted",
        config_hash=plan.config_hash,
    )


def raise_if(stop: StopSignal) -> None:
    """Leave where the work can be taken up again."""
    if stop.requested:
        raise Stopped("the import was stopped", remedy="the same command goes on")


class Progress:
    """A line on stderr every few seconds and at the end."""

    def __init__(self, verb: str, count: int, seconds: float = 2.0):
        self.verb, self.count, self.seconds = verb, count, seconds
        self.done, self.began, self.said = 0, time.monotonic(), time.monotonic()

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said < self.seconds and self.done < self.count:
            return
        self.said = now
        rate = self.done / max(now - self.began, 1e-6)
        left = clock((self.count - self.done) / rate)
        print(f"import  {self.done}/{self.count} {self.verb}  {rate:.0f}/s  {left} left", file=sys.stderr, flush=True)
