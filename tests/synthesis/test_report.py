"""What a synthesis reports: how fast each worker is on the way, and at the end the verdict on every prompt and view."""

import json
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from shards.samples import REJECTED, make_sample

from styleavatar3d.runtime.fleet import FleetConfig, Work
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import TrackConfig
from styleavatar3d.shards.manifest import Plan, begin, commit
from styleavatar3d.shards.parquet import finish
from styleavatar3d.shards.production import missing, produce
from styleavatar3d.synthesis import report
from styleavatar3d.synthesis.report import Progress, verdicts

PLAN = Plan(count=20, shard_size=6, resolution=16, config_hash="0" * 12, licences=["CC0-1.0"])


def worker(storage: Storage) -> Work:
    return partial(make_shard, storage)


def make_shard(storage: Storage, shard: int) -> int:
    commit(storage, shard, [make_sample(index) for index in PLAN.indices(shard)])
    return shard


def synthesise(folder: Path, **track: object) -> Storage:
    """A data set as `synthesize.run` makes it, of pictures that are there already."""
    storage = Storage.open(folder)
    begin(storage, PLAN)
    progress = Progress(TrackConfig.model_validate(track), storage, {"run": 1}, PLAN, len(missing(storage, PLAN)))
    with closing(progress):
        produce(storage, PLAN, FleetConfig(kind="inline"), partial(worker, storage), progress.add_shard)
        finish(storage)
    return storage


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_log_has_the_speed_of_each_worker_and_what_went_wrong(tmp_path: Path):
    storage = synthesise(tmp_path, seconds=0)
    said = lines(tmp_path)
    assert [line["step"] for line in said] == [6, 12, 18, 20]
    assert all(line["worker 0"] > 0 and line["rate"] > 0 and line["failed"] == line["lost"] == 0 for line in said)
    for shard in (1, 2):
        storage.delete(f"manifest/00000{shard}.json")
    synthesise(tmp_path, seconds=1000)
    assert [line["step"] for line in lines(tmp_path)] == [6, 12, 20], "the last shard is always reported"
    synthesise(tmp_path)
    assert len(lines(tmp_path)) == 3, "where nothing is left to do there is nothing to say"


def test_the_table_has_prompt_view_and_verdict_of_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    columns, rows = verdicts(synthesise(tmp_path))
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    assert len(table) == 20 and {index for index, row in enumerate(table) if row["verdict"] == "rejected"} == REJECTED
    assert table[7]["prompt"] == make_sample(7).record.prompt and table[7]["view"] == make_sample(7).record.view
    assert table[0]["yaw band"] == "157.5-180.0" and table[0]["key"] == "000000000"
    monkeypatch.setattr(report, "MOST_ROWS", 7)
    assert [row[columns.index("key")] for row in verdicts(Storage.open(tmp_path))[1]] == [
        f"{index:09d}" for index in range(0, 20, 3)
    ]


@pytest.mark.slow
def test_weights_and_biases_gets_the_table_and_the_speeds_offline(tmp_path: Path):
    pytest.importorskip("wandb")
    synthesise(tmp_path, seconds=0, wandb="offline")
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/table/verdicts_*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"][:2] == ["yaw band", "prompt"] and len(table["data"]) == 20
    assert sum("rejected" in row for row in table["data"]) == len(REJECTED)
    (run,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60
    while b"worker 0" not in run.read_bytes():  # another process writes it
        assert time.monotonic() < deadline
        time.sleep(0.1)
