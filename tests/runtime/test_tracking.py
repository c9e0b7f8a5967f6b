"""The log always, the tracker on request, and no failure of it stops a run."""

import json

import pytest

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.media import png
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import Progress, TrackConfig, Tracker, clock


def open_tracker(url, step: int = 0, **changes) -> Tracker:
    return Tracker(TrackConfig(**changes), Storage.open(str(url)), {"a": 1}, step)


def steps(text: str) -> list[int]:
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_lines_are_appended_and_those_after_the_resume_point_forgotten(tmp_path):
    tracker = open_tracker(tmp_path)
    for step in (8, 16, 24):
        tracker.report(step, {"loss": step / 2})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 3')
    tracker = open_tracker(tmp_path, step=16)
    tracker.report(24, {"loss": 0.5})
    tracker.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 24] and lines[-1]["loss"] == 0.5


def test_a_log_on_s3_is_published_and_continued(s3_server):
    tracker = open_tracker(s3_server)
    tracker.report(8, {})
    tracker.flush()
    tracker.report(16, {})
    again = open_tracker(s3_server, step=8)
    again.report(16, {})
    again.close()
    assert steps(Storage.open(s3_server).read("log.jsonl").decode()) == [8, 16]


def test_a_failing_tracker_is_dropped_and_the_log_goes_on(tmp_path, caplog):
    class Broken:
        def log(self, _):
            raise OSError("no space on the tracker's disk")

    tracker = open_tracker(tmp_path)
    tracker._wandb = Broken()
    tracker.report(8, {})
    tracker.report(16, {})
    tracker.close()
    assert steps((tmp_path / "log.jsonl").read_text()) == [8, 16]
    assert caplog.text.count("no space on the tracker's disk") == 1


@pytest.mark.slow
def test_weights_and_biases_offline_writes_a_run(tmp_path):
    import torch

    pytest.importorskip("wandb")
    tracker = open_tracker(tmp_path, wandb="offline")
    assert tracker._wandb is not None
    tracker.report(8, {"loss": 1.0})
    tracker.picture("snapshots/000.png", png(torch.zeros(3, 4, 4, dtype=torch.uint8)))
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_a_missing_tracker_names_its_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(StyleAvatarError, match=r"styleavatar3d\[wandb\]"):
        open_tracker(tmp_path, wandb="offline")


def test_progress_reports_means_rate_and_time_left(capsys):
    progress = Progress("gan", 1000, 100, 0.0)
    progress._since -= 10
    progress.add({"loss": 1.0, "penalty": 4.0})
    progress.add({"loss": 2.0})
    assert progress.due()
    line = progress.line(200)
    assert line["loss"] == 1.5 and line["penalty"] == 4.0
    assert line["rate"] == pytest.approx(10, rel=0.01) and line["seconds_left"] == pytest.approx(80, rel=0.01)
    assert "left" in capsys.readouterr().err


def test_clock():
    assert [clock(s) for s in (0, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
