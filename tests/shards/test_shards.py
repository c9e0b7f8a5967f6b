"""Shards: the same samples are the same bytes, the manifest alone is trusted, damage is named."""

import io
import json
from pathlib import Path

import pytest
import torch
from shards.samples import REJECTED, SIZE, make_dataset, make_sample

from styleavatar3d.cli import dispatch
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.loader import ShardDataset
from styleavatar3d.shards.manifest import Plan, begin, commit, committed, manifest_hash, read_manifest, read_plan
from styleavatar3d.shards.schema import Coding, Record
from styleavatar3d.shards.tools import inspect, preview, validate
from styleavatar3d.shards.writer import pack


def test_the_same_samples_in_any_order_are_the_same_bytes():
    samples = [make_sample(index) for index in range(5)]
    assert pack(samples) == pack(samples[::-1])


def test_plain_webdataset_reads_the_tars(dataset_url: str):
    import webdataset

    urls = sorted(str(path) for path in Path(dataset_url, "shards").glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == [f"{index:09d}" for index in range(20)]
    assert set(samples[0]) >= {"image.png", "mask.png", "guidance-hybrid.png", "json"}
    assert json.loads(samples[7]["json"])["index"] == 7


def test_what_was_written_is_read_back(dataset_url: str):
    dataset = ShardDataset(dataset_url)
    wanted = [index for index in range(20) if index not in REJECTED]
    assert [sample["json"]["index"] for sample in dataset] == wanted
    for position, index in enumerate(wanted):
        sample, original = dataset[position], make_sample(index)
        assert torch.equal(sample["image"], original.image) and torch.equal(sample["mask"], original.mask)
        assert sample["label"].tolist() == original.record.camera
        assert Record.model_validate(sample["json"]) == original.record
        assert torch.equal(dataset.guidance(position)["hybrid"], original.image)
    assert dataset.load([2, 0])["image"].shape == (2, 3, SIZE, SIZE)


def test_s3_holds_the_same_data_set(s3_server: str, dataset_url: str, tmp_path: Path):
    make_dataset(s3_server + "/set")
    far, near = ShardDataset(s3_server + "/set", cache=tmp_path / "cache"), ShardDataset(dataset_url)
    assert manifest_hash(far.entries) == manifest_hash(near.entries)
    assert torch.equal(far[9]["image"], near[9]["image"])
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 1
    assert validate(s3_server + "/set")["sound"]


def test_jpeg_is_chosen_in_the_config_and_masks_stay_exact(tmp_path: Path):
    assert [Coding.choose("auto", size).image for size in (64, 255, 256, 512)] == ["png", "png", "jpeg", "jpeg"]
    sample = make_sample(0)
    smooth = sample._replace(image=torch.arange(256, dtype=torch.uint8).view(16, 16).expand(3, 16, 16))
    storage, coding = Storage.open(tmp_path), Coding.choose("jpeg", SIZE)
    plan = Plan(count=1, shard_size=1, resolution=SIZE, config_hash="0" * 12, licences=[], coding=coding)
    commit(storage, 0, [smooth], begin(storage, plan).coding)
    found = ShardDataset(tmp_path)[0]
    assert "000000000.image.jpg" in str(pack([smooth], coding)) and read_plan(storage).coding == coding
    assert (found["image"].int() - smooth.image.int()).abs().max() <= 6
    assert torch.equal(found["mask"], sample.mask) and validate(str(tmp_path))["sound"]


def test_shards_of_earlier_versions_are_read(dataset_url: str):
    """Their manifest says neither coding nor sizes."""
    storage, wanted = Storage.open(dataset_url), list(ShardDataset(dataset_url))
    for shard, entry in enumerate(read_manifest(storage)):
        old = entry.model_dump(exclude={"parts", "sizes"})
        storage.publish(f"manifest/{shard:06d}.json", json.dumps(old).encode())
    plan = read_plan(storage).model_dump(exclude={"coding"})
    storage.publish("dataset.json", json.dumps(plan).encode())
    assert [sample["json"] for sample in ShardDataset(dataset_url)] == [sample["json"] for sample in wanted]


def test_a_loser_of_the_race_leaves_nothing_behind(dataset_url: str):
    storage = Storage.open(dataset_url)
    before = (storage.list(), read_manifest(storage))
    other = [make_sample(index) for index in range(6)]
    winner = commit(storage, 0, [other[0]._replace(image=other[0].image.flip(-1)), *other[1:]])
    assert winner == before[1][0] and (storage.list(), read_manifest(storage)) == before


def test_uncommitted_shards_are_not_seen(tmp_path: Path):
    storage = Storage.open(tmp_path)
    begin(storage, Plan(count=12, shard_size=6, resolution=SIZE, config_hash="0" * 12, licences=[]))
    storage.publish("shards/000001-torn.tar", b"half")
    with pytest.raises(StyleAvatarError, match="no accepted picture"):
        ShardDataset(tmp_path)
    commit(storage, 0, [make_sample(index) for index in range(6)])
    assert committed(storage) == {0} and len(ShardDataset(tmp_path)) == 5
    assert validate(str(tmp_path))["problems"] == ["1 of 2 shards are not committed yet"]


def test_another_config_cannot_continue_a_data_set(dataset_url: str):
    storage = Storage.open(dataset_url)
    plan = read_plan(storage)
    assert begin(storage, plan) == plan
    with pytest.raises(StyleAvatarError, match="holds another data set"):
        begin(storage, plan.model_copy(update={"config_hash": "f" * 12}))


def test_no_data_set_is_said_plainly(tmp_path: Path):
    with pytest.raises(StyleAvatarError, match="there is no data set"):
        ShardDataset(tmp_path / "nothing")


def test_inspect_and_preview(dataset_url: str, tmp_path: Path):
    from PIL import Image

    report = inspect(dataset_url)
    assert (
        report["complete"] and report["pictures"] == 18 and report["rejected"] == 2 and report["style"] == {"clay": 18}
    )
    assert preview(dataset_url, str(tmp_path / "sheet.png"), count=8)["pictures"] == 8
    assert Image.open(tmp_path / "sheet.png").size == (3 * SIZE, 3 * SIZE)
    with pytest.raises(StyleAvatarError, match="cannot write the sheet"):
        preview(dataset_url, str(tmp_path / "sheet.nonsense"))


def test_validate_finds_flipped_bits_and_truncation(dataset_url: str):
    assert validate(dataset_url) == {"sound": True, "shards": 4, "pictures": 18, "problems": []}
    shard = sorted(Path(dataset_url, "shards").glob("*.tar"))[1]
    data = bytearray(shard.read_bytes())
    data[2000] ^= 1
    shard.write_bytes(data)
    assert "the bytes are not those that were committed" in validate(dataset_url)["problems"][0]
    shard.write_bytes(data[:-10_000])
    with pytest.raises(StyleAvatarError, match="missing or has another size"):
        ShardDataset(dataset_url)[6]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"yaw": 10.0}, "yaw 10.0 is not the camera's"),
        ({"view": "right"}, "the view is called 'right' at yaw"),
        ({"camera": [1.0] * 25}, "last row: the last row of the 4x4"),
        ({"index": 5}, "the record says index 5"),
    ],
)
def test_validate_finds_records_that_contradict_themselves(tmp_path: Path, change: dict, problem: str):
    storage = Storage.open(tmp_path)
    begin(storage, Plan(count=1, shard_size=1, resolution=SIZE, config_hash="0" * 12, licences=[]))
    sample = make_sample(7)
    record = sample.record.model_copy(update={"index": 0})
    entry = commit(storage, 0, [sample._replace(record=record)])
    data = storage.read(entry.name)
    broken = record.model_copy(update=change).to_json()
    assert _rewrite(storage, entry, data, broken)
    problems = validate(str(tmp_path))["problems"]
    assert len(problems) == 1 and problem in problems[0] and f"{entry.name}, record 000000000" in problems[0]
    assert dispatch(["dataset", "validate", str(tmp_path)])["exit_code"] == 2


def _rewrite(storage: Storage, entry, tar: bytes, record: bytes) -> bool:
    """Replace the record in the shard and make the manifest agree with the new bytes."""
    import hashlib
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(tar)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            data = record if member.name.endswith(".json") else old.extractfile(member).read()
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256(out.getvalue()).hexdigest()
    storage.publish(entry.name, out.getvalue())
    changed = entry.model_copy(update={"sha256": digest, "bytes": len(out.getvalue()), "parts": (), "sizes": ()})
    storage.publish("manifest/000000.json", changed.model_dump_json().encode())
    return True
