"""Pairs by fleets: the same whoever makes them, and a kill costs the chunks in hand."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from styleavatar3d.config import ConfigError, save_config, validate
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.stylespace import codes
from styleavatar3d.stylespace.config import StyleSpaceConfig

CHECKOUT = Path(__file__).resolve().parents[2]
LOCAL = {"kind": "local", "workers": 2}
COUNT, CHUNK = 24, 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.write_generator(folder / "generator")
    tiny.write_clip(folder / "clip")
    tiny.write_estimator(folder / "estimators")
    return folder


def config(models: Path, out: Path, fleet: dict | None = None, **data) -> StyleSpaceConfig:
    return validate(StyleSpaceConfig, {
        "run": {"out": str(out)},
        "data": {"generator": str(models / "generator"), "clip": str(models / "clip"), "codes": str(out / "codes"),
                 "estimators": str(models / "estimators"), "count": COUNT, "held_out": 8, "crops": 2, "texts": 1,
                 "chunk": CHUNK, "batch": 2} | data,
        "train": {"kpairs": 1},
        **({"fleet": fleet} if fleet else {}),
    })  # fmt: skip


@pytest.fixture(scope="module")
def quiet(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The manifest of a run in one process that nothing disturbed."""
    return codes.make(config(models, tmp_path_factory.mktemp("quiet")))


def start(config: StyleSpaceConfig, file: Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """`styleavatar3d train codes` in a process of its own."""
    file.write_text(save_config(config))
    command = [sys.executable, "-m", "styleavatar3d", "train", "codes", "--config", str(file), "--json"]
    environment = {**(environment or os.environ), "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen, seconds: float = 400) -> dict:
    try:
        out, error = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def chunks(folder: Path) -> list[str]:
    return [name for name in Storage.open(folder / "codes").list() if "/0" in name]


def wait_for_chunks(folder: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while len(chunks(folder)) < count and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def test_workers_make_what_one_process_makes(models: Path, tmp_path: Path, quiet: dict):
    made = codes.make(config(models, tmp_path, LOCAL))
    assert made["hash"] == quiet["hash"] and made["made"] == COUNT
    assert (
        made["chunks"]
        == quiet["chunks"]
        == [f"{made['recipe']}/{first:08d}.safetensors" for first in range(0, COUNT, CHUNK)]
    )


def test_mixed_codes_have_the_fine_slots_of_another(models: Path, tmp_path: Path):
    plain = config(models, tmp_path / "plain")
    tree = config(models, tmp_path / "mixed").model_dump()
    tree["data"]["mixing"] = 0.5
    with pytest.raises(ConfigError, match=r"only model.space w\+"):
        validate(StyleSpaceConfig, tree)
    tree["model"]["space"] = "w+"
    mixed = validate(StyleSpaceConfig, tree)
    found, codes_of_one = (codes.make(one) and codes.load(one.data.codes)[1]["codes"] for one in (mixed, plain))
    assert torch.equal(found[:, :1], codes_of_one)
    assert 0.2 < (found[:, 0] != found[:, -1]).any(1).float().mean() < 0.8


def test_a_lost_chunk_is_made_again_and_nothing_else(models: Path, tmp_path: Path, quiet: dict):
    run = config(models, tmp_path)
    storage = Storage.open(run.data.codes)
    codes.make(run)
    times = {name: storage.local_path(name).stat().st_mtime_ns for name in chunks(tmp_path)}
    storage.delete(codes.MANIFEST)
    storage.delete(quiet["chunks"][3])
    again = codes.make(run)
    assert again["made"] == CHUNK and again["hash"] == quiet["hash"]
    del times[quiet["chunks"][3]]
    assert all(storage.local_path(name).stat().st_mtime_ns == when for name, when in times.items())


def test_a_chunk_that_never_succeeds_is_told_and_the_others_are_kept(models: Path, tmp_path: Path, monkeypatch):
    made = codes.make_pairs

    def fail_in_the_second(makers, data, seed, indices):
        if indices.start == CHUNK:
            raise RuntimeError("a bad sector")
        return made(makers, data, seed, indices)

    with monkeypatch.context() as patch:
        patch.setattr(codes, "make_pairs", fail_in_the_second)
        with pytest.raises(Stopped, match=r"(?s)1 chunks of codes to make.*chunk 1: RuntimeError: a bad sector"):
            codes.make(config(models, tmp_path, count=8))
    assert codes.make(config(models, tmp_path, count=8))["made"] == CHUNK


def test_pairs_of_other_networks_are_refused(models: Path, tmp_path: Path):
    own = shutil.copytree(models, tmp_path / "models")
    codes.make(config(own, tmp_path, count=8))
    from styleavatar3d.encoders.estimators import Estimator

    Estimator(["chin"], (8, 4, 4, 8)).save_pretrained(own / "estimators")
    with pytest.raises(StyleAvatarError, match=r"(?s)begun with other networks: estimator.*another folder"):
        codes.make(config(own, tmp_path, count=8))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_costs_the_chunks_in_hand(models: Path, tmp_path: Path, quiet: dict):
    run = config(models, tmp_path, LOCAL)
    driver = start(run, tmp_path / "config.yaml")
    wait_for_chunks(tmp_path, 3, driver)
    driver.kill()
    driver.communicate()
    time.sleep(1)  # its workers leave with it
    there = len(chunks(tmp_path))
    assert there >= 3
    again = result(start(run, tmp_path / "config.yaml"))
    assert again["hash"] == quiet["hash"] and again["made"] == COUNT - there * CHUNK


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_drivers_and_a_stop_are_harmless(models: Path, tmp_path: Path, quiet: dict):
    run = config(models, tmp_path, LOCAL)
    first, second = (start(run, tmp_path / f"{name}.yaml") for name in ("first", "second"))
    wait_for_chunks(tmp_path, 2, first)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=120)
    assert second.returncode in (0, 3)
    assert result(first)["hash"] == quiet["hash"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a busy machine takes minutes to start Ray
def test_ray_makes_what_one_process_makes(models: Path, tmp_path: Path, quiet: dict):
    pytest.importorskip("ray")
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**clean, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "OMP_NUM_THREADS": "1"}
    process = start(config(models, tmp_path, {"kind": "ray", "workers": 2}), tmp_path / "config.yaml", environment)
    assert result(process, 800)["hash"] == quiet["hash"]
