"""Your own pictures as data: a folder and a table of their cameras become shards like those of a synthesis."""

import hashlib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from styleavatar3d.camera.cameras import Camera, view_name
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.runtime.checkpoint import StopSignal
from styleavatar3d.runtime.pictures import eight_bits, open_picture
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import clock
from styleavatar3d.shards.manifest import Plan, begin, commit, committed, manifest_hash, read_manifest
from styleavatar3d.shards.schema import Figure, Record
from styleavatar3d.shards.table import Problems, Row, read_table
from styleavatar3d.shards.writer import Sample

GREY = 127
"""what stands where a mask shows nothing, as behind the figures of the little world"""
SIZES = range(16, 1025)
_MOST_BYTES = 256 << 20
_EMPTY = 16
"""a mask whose brightest pixel is below this shows nothing"""
_NO_MASKS = (
    "the discriminator's alpha channel is full for pictures without a mask, so that their background is learned "
    "as part of the head; masks or transparent backgrounds prevent it"
)

Silhouette = Literal["alpha", "file", "none"]


def import_folder(
    folder: str | os.PathLike[str],
    table: str | os.PathLike[str],
    out: str | os.PathLike[str],
    size: int = 64,
    licence: str = "",
    mask: str = "alpha",
    shard_size: int = 250,
) -> dict[str, Any]:
    """Write the pictures named in `table` (see `read_table`) as shards at `out`; the same call resumes.

    Every picture is turned upright, cropped to its centred square, and reduced to `size` pixels. `mask` says where
    silhouettes are: "alpha" (transparency, where there is some), "none" (nowhere), or a folder of pictures of the
    same names ending in .png, white where the head is; a row's own `mask` cell comes first. Everything is checked
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
                                   config_hash=checked.identity, licences=licences))  # fmt: skip
        _write(rows, checked, pictures, storage, plan, stop)
    report = {
        "out": storage.url,
        "pictures": len(rows),
        "masks": dict(sorted(checked.silhouettes.items())),
        "licences": licences,
        "hash": manifest_hash(read_manifest(storage)),
    }
    return report | ({"note": _NO_MASKS} if checked.silhouettes["none"] else {})


class Pixels(NamedTuple):
    """A picture as it goes into a shard, where its silhouette came from, and the sha256 of its files."""

    image: UInt8[Tensor, "3 size size"]
    mask: UInt8[Tensor, "1 size size"]
    silhouette: Silhouette
    sha256: str
    mask_sha256: str


class Pictures(NamedTuple):
    """Where pictures and masks are, and how large they become. `masks` is where mask cells point."""

    folder: Path
    masks: Path
    rule: Literal["alpha", "files", "none"]
    size: int

    @staticmethod
    def find(folder: str | os.PathLike[str], mask: str, size: int) -> "Pictures":
        """Check that the folders are there."""
        root = _folder(folder, "there is no such folder of pictures")
        if mask in ("alpha", "none"):
            return Pictures(root, root, mask, size)
        return Pictures(root, _folder(mask, "there is no such folder of masks"), "files", size)

    def read(self, row: Row) -> Pixels:
        """The pixels of a row. Raises StyleAvatarError if a file is missing, elsewhere, damaged or too small."""
        data = _read(self.folder, row.file)
        image = _upright(data, row.file)
        name = row.mask or (str(Path(row.file).with_suffix(".png")) if self.rule == "files" else "")
        mask_data = _read(self.masks, name) if name else b""
        transparent = image.has_transparency_data
        image = image.convert("RGBA")
        if name:
            image.putalpha(_mask(mask_data, name, image.size))
        elif self.rule == "none":
            grey = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
            image = Image.alpha_composite(grey, image)
        silhouette = "file" if name else "alpha" if transparent and self.rule == "alpha" else "none"
        if numpy.max(image.getchannel("A")) < _EMPTY:
            raise StyleAvatarError(
                "the mask shows nothing",
                got=name or f"{row.file}: transparent everywhere",
                expected="255 where the head is",
            )
        pixels = _reduced(image, self.size, row.file)
        return Pixels(pixels[:3], pixels[3:], silhouette, _digest(data), _digest(mask_data) if name else "")


class Checked(NamedTuple):
    """What names the whole data set, the sha256 of each picture, and how many silhouettes came from where."""

    identity: str
    sha256: list[str]
    silhouettes: Counter[Silhouette]


def _check(rows: Sequence[Row], pictures: Pictures, problems: Problems, stop: StopSignal) -> Checked:
    """Read every picture once, and note what is wrong."""
    progress, seen = _Progress("checked", len(rows)), {}
    silhouettes: Counter[Silhouette] = Counter()
    whole = hashlib.sha256(json.dumps([pictures.size, pictures.rule]).encode())
    for row in rows:
        _raise_if(stop)
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


def _write(
    rows: Sequence[Row], checked: Checked, pictures: Pictures, storage: Storage, plan: Plan, stop: StopSignal
) -> None:
    """Commit the shards that are not there yet."""
    done = committed(storage)
    todo = [shard for shard in range(plan.shards) if shard not in done]
    progress = _Progress("written", sum(len(plan.indices(shard)) for shard in todo))
    for shard in todo:
        samples = []
        for index in plan.indices(shard):
            _raise_if(stop)
            pixels = pictures.read(rows[index])
            if pixels.sha256 != checked.sha256[index]:
                raise StyleAvatarError("a picture changed during the import", got=rows[index].file)
            samples.append(Sample(_record(index, rows[index], pixels, plan), pixels.image, pixels.mask, {}))
            progress.add(1)
        commit(storage, shard, samples)


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


def _folder(path: str | os.PathLike[str], what: str) -> Path:
    if not os.path.isdir(path):
        raise StyleAvatarError(what, got=os.fspath(path), expected="a folder on this machine")
    return Path(path).resolve()


def _read(folder: Path, name: str) -> bytes:
    """The bytes of a plain file inside `folder`; links and dots must not lead out of it."""
    if not name or "\0" in name:
        raise StyleAvatarError("a file has no name", got=name or "an empty cell", expected="a path inside the folder")
    path = (folder / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(folder):
        raise StyleAvatarError(
            "a file is outside the folder", got=name, expected=f"a path relative to {folder}",
            remedy="copy the picture into the folder",
        )  # fmt: skip
    if not path.is_file():
        slash = "write / between folders" if "\\" in name else "check the spelling, upper and lower case too"
        raise StyleAvatarError("there is no such file", got=name, expected=f"a picture in {folder}", remedy=slash)
    if path.stat().st_size > _MOST_BYTES:
        raise StyleAvatarError("a file is too large", got=f"{name}: {path.stat().st_size} bytes", expected="<= 256 MiB")
    try:
        return path.read_bytes()
    except OSError as error:
        raise StyleAvatarError("a file cannot be read", got=f"{name}: {error.strerror}") from None


def _upright(data: bytes, name: str) -> Image.Image:
    """Decoded, turned as EXIF says, 8 bits a channel."""
    image = open_picture(io.BytesIO(data), name)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # phones keep a preview as a second frame
        raise StyleAvatarError("a film is no picture", got=f"{name}: {getattr(image, 'n_frames', 2)} frames",
                               expected="one frame", remedy="save the frame you mean as PNG")
    return eight_bits(ImageOps.exif_transpose(image))


def _mask(data: bytes, name: str, size: tuple[int, int]) -> Image.Image:
    mask = _upright(data, name).convert("L")
    if mask.size != size:
        raise StyleAvatarError(
            "a mask has another size than its picture",
            got=f"{name}: {mask.width} x {mask.height}",
            expected=f"{size[0]} x {size[1]}",
        )
    return mask


def _reduced(image: Image.Image, size: int, name: str) -> UInt8[Tensor, "4 size size"]:
    """The centred square of an RGBA picture: a pixel is the mean of those it covers, colours weighed by alpha.

    Colours stay those of the head up to its edge (not mixed with what is behind), for the trainer multiplies them by
    the mask itself.
    """
    side = min(image.size)
    if side < size:
        raise StyleAvatarError(
            "the picture is too small",
            got=f"{name}: {image.width} x {image.height}",
            expected=f"at least {size} x {size}",
            remedy="give a smaller --size, or larger pictures",
        )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    pixels = numpy.array(image.resize((size, size), Image.Resampling.BOX, box))
    pixels[pixels[..., 3] == 0, :3] = GREY
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _raise_if(stop: StopSignal) -> None:
    if stop.requested:
        raise Stopped("the import was stopped", remedy="the same command goes on")


class _Progress:
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
