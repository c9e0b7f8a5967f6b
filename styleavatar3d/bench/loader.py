"""How fast shards are read, against `torch.utils.data` over an EG3D zip of the same pictures; and how fast one resumes.

The pictures are not photographs: noise with the spectrum of natural images (amplitude 1/f) under a smooth head, with a
little grain, drawn here. It compresses as photographs do. Both sides hand batches of uint8 pictures and labels to one
DataLoader in one process, and take turns; times are process CPU time, so that a busy machine changes no ratio.
"""

import io
import statistics
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils.data import DataLoader, Dataset

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.loader import ShardDataset, batches, decode
from styleavatar3d.shards.manifest import INDEX, Entry, Plan, begin, commit
from styleavatar3d.shards.order import indices_at
from styleavatar3d.shards.schema import Coding, Figure, Record, canonical_json, parse_json
from styleavatar3d.shards.writer import Sample, encode_jpeg, encode_png

SIZE = 512
DISTINCT = 24
"""different pictures; each stands in the data set several times"""
COUNT = 96
BATCH = 16
RESUMED = 1_250_000
"""samples of the data set that is resumed, of which only the shards of one batch exist"""
AT = 1_000_000


class ZipPictures(Dataset):
    """An EG3D zip as its readers read it: Pillow on the bytes of one member, the label from `dataset.json`."""

    def __init__(self, path: Path):
        self.archive = zipfile.ZipFile(path)
        self.pairs = parse_json(self.archive.read("dataset.json"))["labels"]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        from PIL import Image

        name, label = self.pairs[index]
        image = numpy.array(Image.open(io.BytesIO(self.archive.read(name))))
        return image.transpose(2, 0, 1), numpy.array(label, numpy.float32)


def run(repeats: int = 5) -> dict[str, Any]:
    """Print the table and return its numbers: images a CPU second, bytes an image, seconds to resume."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = [_picture(seed, SIZE) for seed in range(DISTINCT)]
        codings = {"PNG": [encode_png(p) for p in pictures], "JPEG q95": [encode_jpeg(p) for p in pictures]}
        readers = {}
        for name, files in codings.items():
            zipped, shards = Path(folder, f"{name}.zip"), Path(folder, name)
            _write_zip(zipped, files)
            _write_shards(str(shards), files, name)
            readers[f"EG3D zip, {name}"] = (DataLoader(ZipPictures(zipped), BATCH, shuffle=True), zipped)
            dataset = ShardDataset(shards, parts=("image",))
            readers[f"shards, {name}"] = (batches(dataset, BATCH, seed=0, until=COUNT), shards)
        speeds = _speeds({name: reader for name, (reader, _) in readers.items()}, repeats)
        sizes = {name: _bytes(path) / COUNT for name, (_, path) in readers.items()}
        resume = _resume(Path(folder, "large"), codings["JPEG q95"][0], repeats)
    rows = [{"name": name, "images_per_s": round(speeds[name]), "bytes": round(sizes[name])} for name in readers]
    table = {
        "table": "loader",
        "size": SIZE,
        "repeats": repeats,
        "rows": rows,
        "png_ratio": round(speeds["shards, PNG"] / speeds["EG3D zip, PNG"], 3),
        "jpeg_ratio": round(speeds["shards, JPEG q95"] / speeds["EG3D zip, JPEG q95"], 3),
        "jpeg_against_png_ratio": round(speeds["shards, JPEG q95"] / speeds["EG3D zip, PNG"], 3),
        "jpeg_against_png_bytes": round(sizes["shards, JPEG q95"] / sizes["EG3D zip, PNG"], 3),
        "resume_s": resume,
    }
    _print(table)
    return table


def _speeds(readers: dict[str, Iterable], repeats: int) -> dict[str, float]:
    """Images a CPU second: the median of turns, the first of which warms up."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats + 1):
        for name, reader in readers.items():
            began = time.process_time()
            for _ in reader:
                pass
            if turn:
                times[name].append(time.process_time() - began)
    return {name: COUNT / statistics.median(spent) for name, spent in times.items()}


def _resume(folder: Path, image: bytes, repeats: int) -> dict[str, dict[str, float]]:
    """CPU and wall seconds from nothing to the first batch, at the first sample and at sample `AT`."""
    places = {at: indices_at(0, at, BATCH, RESUMED) for at in (0, AT)}
    _write_large(folder, image, [index for indices in places.values() for index in indices])
    found = {}
    for at, indices in places.items():
        spent = []
        for _ in range(repeats):
            began = time.process_time(), time.perf_counter()
            batch = next(iter(batches(ShardDataset(folder), BATCH, seed=0, position=at)))
            spent.append((time.process_time() - began[0], time.perf_counter() - began[1]))
            assert [record["index"] for record in batch["json"]] == indices
        cpu, wall = (round(statistics.median(part), 3) for part in zip(*spent, strict=True))
        found[f"{at:,}"] = {"cpu": cpu, "wall": wall}
    return found


def _write_zip(path: Path, files: Sequence[bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        names = [f"00000/img{index:08d}.{'png' if files[0][1:4] == b'PNG' else 'jpg'}" for index in range(COUNT)]
        for index, name in enumerate(names):
            archive.writestr(name, files[index % len(files)])
        labels = [[name, _record(index).camera] for index, name in enumerate(names)]
        archive.writestr("dataset.json", canonical_json({"labels": labels}))


def _write_shards(url: str, files: Sequence[bytes], coding: str) -> None:
    storage = Storage.open(url)
    kept = Coding(image="png" if coding == "PNG" else "jpeg")
    plan = Plan(count=COUNT, shard_size=32, resolution=SIZE, config_hash="0" * 12, licences=[], coding=kept)
    begin(storage, plan)
    mask = _mask(files[0])
    for shard in range(plan.shards):
        samples = [Sample(_record(index), files[index % len(files)], mask, {}) for index in plan.indices(shard)]
        commit(storage, shard, samples)


def _write_large(folder: Path, image: bytes, wanted: Sequence[int]) -> None:
    """The manifest of a large data set, whose index names all shards; those that hold `wanted` exist."""
    storage = Storage.open(folder)
    plan = Plan(count=RESUMED, shard_size=250, resolution=SIZE, config_hash="0" * 12, licences=[])
    begin(storage, plan)
    needed, entries, mask = {index // plan.shard_size for index in wanted}, [], _mask(image)
    for shard in range(plan.shards):
        indices = plan.indices(shard)
        if shard in needed:
            entry = commit(storage, shard, [Sample(_record(index), image, mask, {}) for index in indices])
        else:
            entry = Entry(
                shard=shard, name=f"shards/{shard:06d}-{'0' * 16}.tar", first=indices.start, count=len(indices),
                rejected=[], bytes=0, sha256="0" * 64, records="0" * 64,
            )  # fmt: skip
        entries.append(entry.model_dump(exclude={"parts", "sizes"}))
    storage.publish(INDEX, canonical_json({"count": RESUMED, "hash": {}, "shards": entries}))


def _record(index: int) -> Record:
    yaw = float(index * 37 % 360 - 180)
    return Record(
        index=index, attempt=0, seed=index, camera=Camera.orbit(yaw).label().tolist(), yaw=yaw, pitch=0.0,
        prompt="a head with short hair, clay style", negative="", kind="human", style="clay", view="", attributes={},
        guidance=[], models=[], figure=Figure(id=str(index), source="bench", licence="CC0-1.0"), gates={},
        verdict="accepted", config_hash="0" * 12,
    )  # fmt: skip


def _picture(seed: int, size: int) -> torch.Tensor:
    """uint8 [3, size, size]: a head of 1/f noise before a smooth background."""
    draw = numpy.random.default_rng(seed)
    frequency = numpy.hypot(numpy.fft.fftfreq(size)[:, None], numpy.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    spectrum = (
        numpy.fft.rfft2(draw.normal(size=(4, size, size))) / frequency ** numpy.array([1, 1, 1, 2])[:, None, None]
    )
    noise = numpy.fft.irfft2(spectrum, (size, size))
    noise /= noise.std((1, 2), keepdims=True)
    y, x = (numpy.mgrid[:size, :size] + 0.5) / size * 2 - 1
    head = 1 / (1 + numpy.exp(40 * (x**2 / 0.35 + y**2 / 0.6 - 1)))
    shared = noise[0] * 0.8  # channels of photographs go together
    colour = 128 + 40 * (head * (shared + 0.35 * noise[:3]) + (1 - head) * 0.3 * noise[3])
    return torch.from_numpy((colour + draw.normal(0, 1.0, (3, size, size))).clip(0, 255).astype(numpy.uint8))


def _mask(image: bytes) -> bytes:
    size = decode(image, "RGB").shape[-1]
    y, x = (numpy.mgrid[:size, :size] + 0.5) / size * 2 - 1
    return encode_png(torch.from_numpy(((x**2 / 0.35 + y**2 / 0.6 < 1) * 255).astype(numpy.uint8))[None])


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else list(path.rglob("*.tar"))
    return sum(file.stat().st_size for file in files)


def _print(table: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(f"{table['size']} px", "images a CPU second", "bytes an image", title="Reading a data set")
    for row in table["rows"]:
        shown.add_row(row["name"], str(row["images_per_s"]), f"{row['bytes']:,}")
    seconds = {at: f"{s['cpu']} s of CPU, {s['wall']} s in all" for at, s in table["resume_s"].items()}
    console = Console()
    console.print(shown)
    console.print(
        f"shards against zip: {table['png_ratio']:.2f}x as PNG, {table['jpeg_ratio']:.2f}x as JPEG; shards of JPEG "
        f"against a zip of PNG: {table['jpeg_against_png_ratio']:.2f}x at {table['jpeg_against_png_bytes']:.2f} of the "
        f"bytes; first batch at {'; '.join(f'sample {at}: {s}' for at, s in seconds.items())}"
    )
