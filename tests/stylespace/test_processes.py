"""The style prior under `accelerate launch`: two processes, with and without ZeRO, take the steps of one."""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
import tiny
import torch
from safetensors.torch import load_file

from styleavatar3d.config import load_config, save_config, validate
from styleavatar3d.errors import ConfigError, StyleAvatarError
from styleavatar3d.runtime.attention import attend, choose_attention
from styleavatar3d.runtime.distributed import PROCESSES, check_profile, connect
from styleavatar3d.stylespace import codes
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.denoiser import Denoiser
from styleavatar3d.stylespace.train import step, train

ROOT = Path(__file__).resolve().parents[2]
BATCH, STEPS = 16, 75
patient = pytest.mark.timeout(1800)  # several launches, each of which takes minutes on a busy machine
needs_deepspeed = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="needs the deepspeed extra")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A config of steps that matter: they are long, and most gradients are clipped."""
    folder = tmp_path_factory.mktemp("recipe")
    tiny.write_generator(folder / "generator")
    tiny.write_clip(folder / "clip")
    config = validate(StyleSpaceConfig, {
        "run": {"out": str(folder / "run")},
        "data": {"generator": str(folder / "generator"), "clip": str(folder / "clip"), "estimators": "",
                 "codes": str(folder / "codes"), "count": 48, "held_out": 16, "crops": 1, "texts": 2, "captions": 8},
        "model": {"layers": 1, "width": 18, "heads": 2},
        "train": {"kpairs": STEPS * BATCH / 1000, "batch": BATCH, "learning_rate": 0.02, "warmup_kpairs": 0.1,
                  "ema_kpairs": 0.02, "clip": 0.2},
        "track": {"retrieval": 0, "checkpoint_kpairs": 10 * BATCH / 1000, "seconds": 0},
    })  # fmt: skip
    codes.make(config)
    (folder / "config.yaml").write_text(save_config(config))
    return folder / "config.yaml"


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory) -> Path:
    """The run that one process made."""
    out = tmp_path_factory.mktemp("alone")
    train(config(recipe, out))
    return out


def config(recipe: Path, out: Path, *more: str) -> StyleSpaceConfig:
    return load_config(StyleSpaceConfig, str(recipe), ["--run.out", str(out), *more])


def start(command: list[str], recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [*command, "stylespace", "--config", str(recipe), "--run.out", str(out), *more],
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def launch(profile: str, recipe: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    return start(["bash", str(ROOT / "launch/train.sh"), profile], recipe, out, *more)


def finish(process: subprocess.Popen[str], out: Path) -> dict:
    words = process.communicate(timeout=900)[0]
    assert process.returncode == 0, words[-6000:]  # how it ended, not how it went
    return json.loads((out / "summary.json").read_text())


def logged(out: Path, name: str) -> list[float]:
    return [line[name] for text in (out / "log.jsonl").read_text().splitlines() if name in (line := json.loads(text))]


def difference(one: Path, other: Path, name: str) -> float:
    """The largest relative difference of a value between two runs."""
    values = list(zip(logged(one, name), logged(other, name), strict=True))
    return max(abs(a - b) / abs(a) for a, b in values)


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(out / "weights/model.safetensors") for out in (one, other))
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
@needs_deepspeed
def test_two_processes_under_zero_take_the_steps_of_one(recipe, tmp_path):
    few = ("--train.kpairs", str(4 * BATCH / 1000), "--model.space", "w+")
    summary = finish(launch("cpu-2-zero2", recipe, tmp_path / "two", *few), tmp_path / "two")
    assert (summary["processes"], summary["zero"]) == (2, 2)
    train(config(recipe, tmp_path / "one", *few))
    assert len(logged(tmp_path / "two", "loss")) == 4
    for name in ("loss", "held_out"):
        assert difference(tmp_path / "one", tmp_path / "two", name) < 1e-4


@patient
@pytest.mark.slow
@pytest.mark.parametrize(
    "profile",
    ["cpu-2", *(pytest.param(f"cpu-2-zero{stage}", marks=needs_deepspeed) for stage in (1, 2))],
)
def test_the_steps_are_those_of_one_process_and_a_killed_run_resumes_to_the_same_bits(profile, recipe, alone, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(launch(profile, recipe, whole), whole)
    for name in ("loss", "held_out"):
        assert len(logged(whole, name)) == STEPS and difference(alone, whole, name) < 1e-4
    if profile == "cpu-2-zero1":
        return
    kill_after_a_checkpoint(launch(profile, recipe, cut), cut)
    elsewhere = shutil.copytree(cut, tmp_path / "elsewhere")
    finish(launch(profile, recipe, cut), cut)
    assert same_weights(whole, cut)

    train(config(recipe, elsewhere))
    assert difference(whole, elsewhere, "loss") < 1e-4


def family(pid: int) -> list[int]:
    """A process and all that it started: the launcher puts those into groups of their own."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def kill_after_a_checkpoint(process: subprocess.Popen[str], out: Path) -> None:
    """Its lines of progress fill the smallest of pipes: it waits for its reader, and cannot end before the kill."""
    assert process.stdout
    pipe, words = process.stdout.fileno(), b""
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
    while not (out / "latest.json").exists():
        words += (more := os.read(pipe, 80))
        assert more, words.decode()
    for pid in family(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "weights").exists()


@pytest.mark.slow
@needs_deepspeed
def test_zero_3_goes_on_where_one_process_stopped(recipe, alone, tmp_path, monkeypatch):
    def step_until_the_eleventh(state, *arguments):
        if state.seen == 11 * BATCH:
            raise KeyboardInterrupt
        return step(state, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("styleavatar3d.stylespace.train.step", step_until_the_eleventh)
        train(config(recipe, tmp_path))
    assert finish(launch("cpu-2-zero3", recipe, tmp_path), tmp_path)["zero"] == 3
    for name in ("loss", "held_out"):
        assert len(logged(tmp_path, name)) == STEPS and difference(alone, tmp_path, name) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["", "cpu-2", pytest.param("cpu-2-zero2", marks=needs_deepspeed)])
def test_bfloat16_learns_what_float32_learns(profile, recipe, alone, tmp_path):
    half = ("--train.precision", "bf16")
    if profile:
        finish(launch(profile, recipe, tmp_path, *half), tmp_path)
    else:
        train(config(recipe, tmp_path, *half))
    assert difference(alone, tmp_path, "loss") > 1e-4
    for name in ("loss", "held_out"):
        assert mean(logged(tmp_path, name)[-10:]) == pytest.approx(mean(logged(alone, name)[-10:]), rel=0.05)


@pytest.mark.slow
def test_a_compiled_denoiser_takes_the_same_steps():
    script = [sys.executable, str(ROOT / "tests/stylespace/compiled_steps.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = json.loads(subprocess.run(script, env=environment, capture_output=True, check=True).stdout)
    assert found["compiled"] == pytest.approx(found["plain"], rel=1e-5)
    assert found["plain"][0] != found["plain"][1]


def test_a_checkpoint_of_another_network_is_refused(recipe, tmp_path):
    few = ("--train.kpairs", str(BATCH / 1000))
    train(config(recipe, tmp_path, *few))
    with pytest.raises(StyleAvatarError, match="checkpoint is of another network"):
        train(config(recipe, tmp_path, *few, "--model.width", "16"))


@pytest.mark.parametrize(
    "environment, reason",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "does not run under DeepSpeed"),
        ({PROCESSES: "2"}, "(?s)fewer or more processes.*got: +1.*expected: 2"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "(?s)precision belongs to the run's config.*train.precision bf16"),
    ],
)
def test_what_a_profile_asks_for_in_vain_is_refused(environment, reason, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StyleAvatarError, match=reason):
        connect()


@pytest.mark.parametrize(
    "profile, reason",
    [
        ({"gradient_clipping": 0.5}, "(?s)gradient_clipping belongs to the run's config.*0.5 in the profile, 1.0 by"),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "moves parts off the GPU"),
    ],
)
def test_a_deepspeed_profile_may_not_contradict_the_config(profile, reason):
    fine = {"zero_optimization": {"stage": 2, "offload_param": {"device": "none"}}, "gradient_clipping": "auto"}
    check_profile(fine, {"gradient_clipping": 1.0})
    with pytest.raises(ConfigError, match=reason):
        check_profile(fine | profile, {"gradient_clipping": 1.0})


def test_the_denoiser_attends_by_the_same_switch():
    denoiser = Denoiser(8, 3, 4, 2, 16, 1, 2)
    assert denoiser.use_attention("auto") == "sdpa" == denoiser.use_attention("sdpa")
    with pytest.raises(StyleAvatarError, match="(?s)xformers.*CUDA.*model.attention sdpa"):
        denoiser.use_attention("xformers")
    with pytest.raises(ConfigError, match="nothing to attend to in w"):
        Denoiser(8, 1, 4, 2, 16, 1, 2).use_attention("xformers")


def test_attention_is_its_definition():
    query, key, value = torch.randn(3, 2, 5, 2, 4, dtype=torch.float64)
    shares = torch.einsum("bthw,bshw->bhts", query, key).div(2).softmax(-1)
    torch.testing.assert_close(attend(query, key, value), torch.einsum("bhts,bshw->bthw", shares, value))
    assert choose_attention("auto", "cpu") == "sdpa"
