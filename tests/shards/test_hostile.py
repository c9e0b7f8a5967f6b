"""Damaged and hostile shards: nothing crashes, what is refused is named by shard and key."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from shards.samples import make_dataset, make_sample

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.loader import ShardDataset
from styleavatar3d.shards.manifest import read_manifest
from styleavatar3d.shards.schema import Record, canonical_json
from styleavatar3d.shards.tools import validate
from styleavatar3d.shards.writer import members_of, pack

RECORDS = 10_000
REQUIRED = [name for name, field in Record.model_fields.items() if field.is_required()]
LATIN = "Zürich ".encode("latin-1")


def mutated(draw: Random, record: bytes) -> bytes:
    """A record that is none any more."""
    tree = json.loads(record)
    name = draw.choice(sorted(tree))
    match draw.randrange(9):
        case 0:
            return record[: draw.randrange(len(record) - 1)]
        case 1:
            del tree[draw.choice(REQUIRED)]
        case 2:
            tree[f"{name}{draw.randrange(100)}"] = tree[name]
        case 3:
            tree["camera"] = wrong_camera(draw, tree["camera"])
        case 4:
            tree[draw.choice(("index", "yaw", "pitch", "seed", "attempt"))] = draw.choice(("7", None, [], 1e300, "x"))
        case 5:
            tree[draw.choice(("figure", "models", "guidance", "attributes", "gates"))] = draw.choice(
                (3, "x", [3], {"a": []})
            )
        case 6:
            return record[:1] + b'"prompt":"twice",' + record[1:]
        case 7:
            return draw.choice(
                (b"", b"null", b"[]", b"3", b"{" * 50_000, b"[" * 50_000, LATIN + record, b"\xff" + record)
            )
        case 8:
            return record.replace(
                b'"yaw":', draw.choice((b'"yaw":NaN,"z":', b'"yaw":Infinity,"z":', b'"yaw":9e999,"z":'))
            )
    return json.dumps(tree).encode()


def wrong_camera(draw: Random, camera: list[float]) -> Any:
    camera = list(camera)
    match draw.randrange(6):
        case 0:
            return camera[: draw.randrange(25)]
        case 1:
            camera[draw.choice((0, 5, 10, 15, 16, 20))] = draw.choice(("a", None, 1e308, -99.0, 10**400, [1.0]))
        case 2:
            camera[:3] = [2 * value + 0.1 for value in camera[:3]]
        case 3:
            camera[0], camera[4], camera[8] = -camera[0], -camera[4], -camera[8]
        case 4:
            return [0.0] * 25
        case 5:
            return draw.choice((None, "camera", 3, {"a": 1}, [camera], camera * 2))
    return camera


@pytest.fixture(scope="module")
def record() -> bytes:
    return make_sample(4).record.to_json()


def test_ten_thousand_mutated_records_are_refused(record: bytes):
    draw = Random(0)
    for number in range(RECORDS):
        data = mutated(draw, record)
        with pytest.raises(StyleAvatarError):
            Record.from_json(data)
            raise AssertionError(f"mutation {number} was taken: {data[:200]!r}")


def replace(storage: Storage, tar: bytes, **changes: Any) -> None:
    """Let the manifest agree with other bytes, so that only the reader stands between them and the user."""
    entry = read_manifest(storage)[0]
    digest = hashlib.sha256(tar).hexdigest()
    changed = entry.model_copy(update={"bytes": len(tar), "sha256": digest, "parts": (), "sizes": (), **changes})
    storage.publish(entry.name, tar)
    storage.publish("manifest/000000.json", canonical_json(changed.model_dump()))


def one(storage: Storage) -> ShardDataset:
    return ShardDataset(storage.url)


def test_a_mutated_record_is_refused_with_shard_and_key(tmp_path: Path, record: bytes):
    storage, draw = make_dataset(str(tmp_path / "set"), count=1, shard_size=1), Random(1)
    sample = make_sample(0)
    good = members_of(sample)
    for _ in range(100):
        files = {**good, "json": mutated(draw, sample.record.to_json())}
        replace(storage, tar_of({f"{sample.record.key}.{part}": data for part, data in sorted(files.items())}))
        name = read_manifest(storage)[0].name
        with pytest.raises(StyleAvatarError, match=f"{name}, record 000000000"):
            one(storage)[0]
        (problem,) = validate(storage.url)["problems"]
        assert "000000000" in problem


def tar_of(files: Mapping[str, bytes], change: Callable[[tarfile.TarInfo], None] = lambda info: None) -> bytes:
    return tar_with(files.items(), change)


def tar_with(
    files: Iterable[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None] = lambda info: None
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            change(info)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def hostile() -> Iterator[tuple[str, bytes]]:
    """Tars of one sample that are not as they should be."""
    sample = make_sample(0)
    files = {f"{sample.record.key}.{part}": data for part, data in sorted(members_of(sample).items())}
    whole = tar_of(files)
    json_name = f"{sample.record.key}.json"
    used = len(whole.rstrip(b"\0"))
    yield "past the end", whole[: used // 1024 * 512]
    yield "cut short", whole[: -(-used // 512) * 512]
    yield "twice", tar_with([*files.items(), *files.items()])
    yield "missing", tar_of({})
    yield "another shard", tar_of({**files, "000000007.json": b"{}"})
    yield "not sorted", tar_of(dict(reversed(files.items())))
    yield "not named", tar_of({"../../etc/passwd": b"x", **files})
    yield "not named", tar_of({"readme.txt": b"x", **files})
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE):
        yield (
            "plain file",
            tar_of(files, lambda info, kind=kind: (setattr(info, "type", kind), setattr(info, "size", 0))),
        )
    header = bytearray(whole[:512])
    header[124:136] = b"77777777777\0"
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
    yield "past the end", bytes(header) + whole[512:]
    yield "checksum", whole[:3] + b"x" + whole[4:]
    yield "lacks a member", tar_of({name: data for name, data in files.items() if name != json_name})
    image = f"{sample.record.key}.image.png"
    yield "cannot be decoded", tar_of({**files, image: files[image][:60]})
    yield "cannot be decoded", tar_of({**files, image: b""})
    yield "cannot be decoded", tar_of({**files, image: bomb(files[image])})


def bomb(png: bytes) -> bytes:
    """A PNG that says it is 60,000 pixels a side."""
    import zlib

    head = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + head + zlib.crc32(head).to_bytes(4, "big") + png[33:]


@pytest.mark.parametrize(("word", "tar"), [pytest.param(w, t, id=f"{i} {w}") for i, (w, t) in enumerate(hostile())])
def test_hostile_tars_are_refused(tmp_path: Path, word: str, tar: bytes):
    storage = make_dataset(str(tmp_path / "set"), count=1, shard_size=1)
    replace(storage, tar)
    with pytest.raises(StyleAvatarError, match="shards/000000-.*tar, .*0000000|record 000000000") as caught:
        one(storage)[0]
    assert word in str(caught.value)
    assert not validate(storage.url)["sound"]


def test_damaged_tars_never_crash(tmp_path: Path):
    storage = make_dataset(str(tmp_path / "set"), count=3, shard_size=3)
    whole, draw, refused = pack([make_sample(i) for i in range(3)]), Random(2), 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(data))
            data[at : at + draw.choice((1, 1, 8, 512))] = draw.randbytes(draw.choice((1, 1, 8, 512)))
        if draw.random() < 0.3:
            data = data[: draw.randrange(len(data))]
        replace(storage, bytes(data))
        try:
            list(one(storage))
        except StyleAvatarError as error:
            refused += "shards/000000-" in str(error)
    assert refused > 150


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path: Path):
    storage = make_dataset(str(tmp_path / "set"), count=3, shard_size=3)
    entry = read_manifest(storage)[0]
    for sizes in (
        [[9, 9, 9, 9]] * 3,
        [list(entry.sizes[0])] * 2,
        [[s + 1 for s in row] for row in entry.sizes],
        [[10**12] * 4] * 3,
    ):
        changed = entry.model_copy(update={"sizes": tuple(map(tuple, sizes))})
        storage.publish("manifest/000000.json", canonical_json(changed.model_dump()))
        with pytest.raises(StyleAvatarError, match="manifest"):
            list(one(storage))


def test_a_fresh_interpreter_reads_shards_with_webdataset_alone(tmp_path: Path):
    make_dataset(str(tmp_path / "set"))
    script = (
        "import sys, json, io, glob, webdataset\n"
        "from PIL import Image\n"
        f"urls = sorted(glob.glob({str(tmp_path / 'set/shards/*.tar')!r}))\n"
        "samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode('pil'))\n"
        "assert len(samples) == 20 and samples[7]['json']['index'] == 7, samples\n"
        "assert samples[7]['image.png'].size == (16, 16) and len(samples[7]['json']['camera']) == 25\n"
        "assert 'styleavatar3d' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], check=True, cwd=tmp_path)
