"""Synthesis: the same command gives the same data set, however often it is killed and whoever works."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from figures.rigs import rigged
from synthesis.conftest import elsewhere

from styleavatar3d.camera.cameras import yaw_pitch
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import Look
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.loader import ShardDataset
from styleavatar3d.shards.manifest import committed
from styleavatar3d.shards.tools import inspect, validate
from styleavatar3d.synthesis.safety import SafetyConfig
from styleavatar3d.synthesis.synthesize import SynthesisConfig, draw, run
from styleavatar3d.synthesis.vocabulary import PromptsConfig


def test_the_data_set_is_complete_sound_and_the_same_for_any_fleet(config: SynthesisConfig, tmp_path: Path):
    alone = run(config)
    assert alone["pictures"] == 12 and alone["shards_made_now"] == 3
    assert validate(config.run.out) == {"sound": True, "shards": 3, "pictures": 12, "problems": []}
    assert run(elsewhere(config, tmp_path / "two", kind="local", workers=2))["hash"] == alone["hash"]
    assert run(config) == alone | {"shards_made_now": 0, "seconds": pytest.approx(0, abs=5)}


def test_records_tell_how_a_picture_was_made(config: SynthesisConfig):
    run(config)
    dataset = ShardDataset(config.run.out)
    sample = dataset[7]
    record = sample["json"]
    assert record["prompt"].startswith(f"{record['style']} style avatar of ") and record["negative"]
    assert record["models"][0]["sha256"] and record["figure"]["licence"] == "CC0-1.0" and record["config_hash"]
    assert [one["kind"] for one in record["guidance"]] == ["depth", "keypoints"]
    assert record["guidance"][0] == {"kind": "depth", "scale": 1.0, "start": 0.0, "end": 1.0}
    scene = draw(config, 7)
    assert torch.equal(sample["label"], scene.camera.label())
    assert sample["image"].shape == (3, 64, 64) and sample["mask"].max() == 255
    posed = dataset.guidance(7)["depth"].amax(0) > 0
    assert (posed & (sample["mask"][0] > 0)).sum() > 0.9 * posed.sum()
    figures = [dataset[i]["json"]["figure"]["id"] for i in range(6)]
    assert figures == ["0/0"] * 3 + ["0/1"] * 3


def test_what_is_refused_and_what_is_drawn_share_a_shard(config: SynthesisConfig, tmp_path: Path):
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"refuse: {{test: [{draw(config, 4).style}]}}\n")
    refusing = config.model_copy(update={"safety": SafetyConfig(policy=str(policy))})
    made = run(refusing)
    assert 0 < made["rejected"] < 12 and validate(config.run.out)["sound"]
    dataset = ShardDataset(config.run.out)
    assert len(dataset) == 12 - made["rejected"]
    assert draw(config, 4).style not in {dataset[i]["json"]["style"] for i in range(len(dataset))}
    refused = {"draws": made["rejected"], "rejected": made["rejected"]}
    assert inspect(config.run.out)["gates"]["by_gate"] == {"safety": refused}


def test_figures_from_files_are_posed_and_said_in_full_size_words(config: SynthesisConfig, tmp_path: Path):
    (tmp_path / "head.glb").write_bytes(rigged(build_figure(Look(seed=3))))
    data = config.data.model_copy(update={"figures": (str(tmp_path / "head.glb"),), "count": 4, "coding": "jpeg"})
    made = run(config.model_copy(update={"data": data, "prompts": PromptsConfig()}))
    assert made["pictures"] == 4 and validate(config.run.out)["sound"]
    record = ShardDataset(config.run.out)[0]["json"]
    assert record["figure"]["source"].endswith("head.glb") and record["figure"]["licence"] == "not stated"
    assert "plain composition" in record["prompt"] and "not stated" in inspect(config.run.out)["licences"]
    with pytest.raises(StyleAvatarError, match="no words for figures from files"):
        run(elsewhere(config.model_copy(update={"data": data}), tmp_path / "other", kind="inline"))


def test_cameras_follow_the_asked_distribution(config: SynthesisConfig):
    labels = torch.stack([draw(config, index).camera.label() for index in range(600)])
    yaw, pitch = yaw_pitch(labels)
    share = (yaw.abs() < 50).float().mean()
    assert abs(share - (0.35 + 0.65 * 50 / 180)) < 0.06
    assert pitch.min() >= -15.01 and pitch.max() <= 25.01 and abs(yaw.mean()) < 15


def test_negatives_can_be_left_out(config: SynthesisConfig):
    without = config.model_copy(update={"sample": config.sample.model_copy(update={"negatives": False})})
    assert draw(config, 3).prompt.negative and not draw(without, 3).prompt.negative
    assert draw(config, 3).prompt.text == draw(without, 3).prompt.text


def test_s3_end_to_end(config: SynthesisConfig, s3_server: str, tmp_path: Path):
    far = run(elsewhere(config, s3_server + "/set"))
    assert far["hash"] == run(config)["hash"]
    assert len(ShardDataset(s3_server + "/set", cache=tmp_path / "cache")) == 12


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
@pytest.mark.slow
def test_terminated_then_killed_then_finished_is_as_if_never_stopped(config: SynthesisConfig, tmp_path: Path):
    words = ["--data.count", "48", "--run.out", str(tmp_path / "often"), "--model.folder", config.model.folder]
    whole = config.model_copy(update={"data": config.data.model_copy(update={"count": 48})})
    storage = Storage.open(tmp_path / "often")

    first = _begin(words)
    before = _wait_for_more(storage, 0, first)
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=30)[1]
    assert first.returncode == 3 and "run the same command to go on" in said

    second = _begin([*words, "--fleet.kind", "local", "--fleet.workers", "2"])
    kept = {name: storage.local_path(name).stat().st_mtime_ns for name in storage.list("shards")}
    _wait_for_more(storage, max(before, len(committed(storage))), second)
    children = Path(f"/proc/{second.pid}/task/{second.pid}/children").read_text().split()
    second.kill()
    second.wait()
    _wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))
    assert len(committed(storage)) < 12

    assert run(elsewhere(whole, tmp_path / "often"))["hash"] == run(elsewhere(whole, tmp_path / "once"))["hash"]
    assert all(storage.local_path(name).stat().st_mtime_ns == time_ for name, time_ in kept.items())
    assert storage.list() == Storage.open(tmp_path / "once").list()


def test_bad_input_is_said_before_anything_is_written(config: SynthesisConfig, tmp_path: Path):
    nowhere = config.model_copy(update={"model": config.model.model_copy(update={"folder": "nowhere"})})
    with pytest.raises(StyleAvatarError, match="there are no such weights"):
        run(nowhere)
    assert not Path(config.run.out).exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StyleAvatarError, match="a file stands where a folder is expected"):
        run(elsewhere(config, tmp_path / "file"))
    with pytest.raises(StyleAvatarError, match="cannot write /proc"):
        run(elsewhere(config, "/proc/styleavatar3d"))


def test_a_broken_model_folder_is_one_clear_error(config: SynthesisConfig, tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionControlNetPipeline"})
    )
    broken = config.model_copy(update={"model": config.model.model_copy(update={"folder": str(tmp_path / "broken")})})
    with pytest.raises(StyleAvatarError, match="the diffusion model has no ControlNet"):
        run(broken)
    assert committed(Storage.open(config.run.out)) == set()


def _begin(words: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "styleavatar3d", "synthesize", "--config", "synthesis/tiny", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)


def _wait_for_more(storage: Storage, than: int, process: subprocess.Popen[str]) -> int:
    _wait_until(lambda: len(committed(storage)) > than or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    return len(committed(storage))


def _wait_until(true: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
