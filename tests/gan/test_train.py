"""Training end to end at a tiny size: it runs, stops, is killed, resumes, and does not depend on the process count."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gan.one_step import BF16
from gan.two_steps import EVERYTHING, NONE
from gan.two_steps import run as two_steps
from safetensors.torch import load_file
from shards.samples import make_dataset

from styleavatar3d.config import ConfigError, load_config
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.train import GanConfig, passed, train
from styleavatar3d.gan.views import Sampler, load_views
from styleavatar3d.runtime.checkpoint import StopSignal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shards(tmp_path: Path) -> str:
    make_dataset(str(tmp_path / "shards"))
    return str(tmp_path / "shards")


def words(shards: str, out: Path | str, *more: str) -> list[str]:
    return ["--data.shards", shards, "--run.out", str(out), *more]


def tiny(shards: str, out: Path | str, *more: str) -> GanConfig:
    return load_config(GanConfig, "gan/tiny-16", words(shards, out, *more))


def environment(**more: str) -> dict[str, str]:
    path = f"{ROOT}:{ROOT / 'tests'}"
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable} | more


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "styleavatar3d", "train", "gan", "--config", "gan/tiny-16", *arguments]
    return subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)


def same_weights(one: Path, other: Path) -> bool:
    """Whether all trained numbers are equal; the mean code is measured anew at each end of training."""
    first, second = (load_file(run / "weights/model.safetensors") for run in (one, other))
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items() if name != "w_mean")


def test_a_run_leaves_weights_log_snapshots_and_config(shards, tmp_path):
    summary = train(tiny(shards, tmp_path / "run"))
    assert summary["images"] == 80 and summary["processes"] == 1
    run = tmp_path / "run"
    Generator.from_pretrained(str(run / "weights"))
    assert "CC0-1.0" in (run / "weights/README.md").read_text()
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 80
    assert load_config(GanConfig, str(run / "config.yaml")) == tiny(shards, run)
    names = {path.suffix for path in (run / "snapshots").iterdir()}
    assert names == {".png", ".mp4"} and all(p.stat().st_size > 500 for p in (run / "snapshots").iterdir())
    assert train(tiny(shards, run))["images"] == 80  # a finished run stays finished


def test_all_weights_move_but_the_average_lags(shards, tmp_path):
    config = tiny(shards, tmp_path / "run")
    train(config)
    before = TrainState.fresh(config, torch.device("cpu")).tensors()
    after = load_file(next((tmp_path / "run/checkpoints").glob("*80")) / "state.safetensors")
    still = [n for n, t in before.items() if "w_mean" not in n and n != "guard.counts" and torch.equal(t, after[n])]
    assert still == []
    assert any(not torch.equal(after[f"average.{n[10:]}"], t) for n, t in after.items() if n.startswith("generator."))


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_bits(shards, tmp_path):
    more = ("--train.schedule.kimg", "0.24")
    train(tiny(shards, tmp_path / "whole", *more))
    process = start(*words(shards, tmp_path / "killed", *more))
    wait_for(tmp_path / "killed/latest.json", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed/weights").exists()
    summary = train(tiny(shards, tmp_path / "killed", *more))
    assert summary["images"] == 240 and same_weights(tmp_path / "whole", tmp_path / "killed")
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def test_a_stopped_run_in_bfloat16_ends_with_the_same_bits(shards, tmp_path, monkeypatch):
    more = (*BF16, *NONE, "--train.schedule.kimg", "0.024")
    train(tiny(shards, tmp_path / "whole", *more))
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="after 4 images"):
        patch.setattr(StopSignal, "__enter__", lambda signal: setattr(signal, "requested", True) or signal)
        train(tiny(shards, tmp_path / "stopped", *more))
    assert train(tiny(shards, tmp_path / "stopped", *more))["images"] == 24
    assert same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_sigterm_saves_and_leaves_with_exit_code_3(shards, tmp_path):
    process = start(*words(shards, tmp_path / "run", "--train.schedule.kimg", "100"))
    wait_for(tmp_path / "run/latest.json", process)
    process.terminate()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 3 and "the same command goes on" in errors and "Traceback" not in errors


def test_the_launcher_starts_two_processes(shards, tmp_path):
    command = ["bash", str(ROOT / "launch/train.sh"), "cpu-2", "gan", "--config", "gan/tiny-16", "--train.batch", "8"]
    result = subprocess.run(
        [*command, *words(shards, tmp_path / "run")], env=environment(), capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["processes"] == 2


def test_the_launcher_knows_its_profiles():
    result = subprocess.run(
        ["bash", str(ROOT / "launch/train.sh"), "abacus", "gan"], env=environment(), capture_output=True, text=True
    )
    assert result.returncode == 2 and "cpu-2" in result.stderr


def test_two_processes_make_the_step_of_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(ROOT / "tests/gan/two_steps.py"), str(tmp_path)]
    result = subprocess.run(
        [*command, *script], env=environment(CUDA_VISIBLE_DEVICES=""), capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    for kind, more in (("", ()), ("everything-", EVERYTHING)):
        ranks, alone = [load_file(tmp_path / f"{kind}{rank}") for rank in "01"], two_steps(*more)
        assert ranks[0].pop("world") == 2 and ranks[1].pop("world") == 2 and alone.pop("world") == 1
        for name, tensor in alone.items():
            assert torch.equal(ranks[0][name], ranks[1][name]), name
            assert torch.allclose(ranks[0][name], tensor, rtol=0, atol=1e-9), name


@pytest.mark.parametrize("more", [NONE, EVERYTHING])
def test_micro_batches_add_up_to_the_batch(more):
    whole, pieces = two_steps(*more), two_steps(*more, "--train.micro_batch", "4")
    assert whole.keys() == pieces.keys()
    for name, tensor in whole.items():
        assert torch.allclose(pieces[name], tensor, rtol=0, atol=1e-9), name


def test_every_part_of_a_recipe_is_trained_and_steered():
    before, after = two_steps(*EVERYTHING, steps=0), two_steps(*EVERYTHING, steps=3)
    still = [name for name, tensor in before.items() if tensor.is_floating_point() and torch.equal(tensor, after[name])]
    assert all(name.startswith(("average.", "hooked.")) or name == "generator.w_mean" for name in still), still
    assert before["controller.state"].tolist() == [0.5, 0.0]
    moved = (after["controller.state"][0] - 0.5).abs().item()
    assert min(abs(moved - 0.08), abs(moved - 0.24)) < 1e-9  # three steps of 8 images of 100 for the whole range


def test_a_run_lives_on_s3(shards, s3_server):
    train(tiny(shards, f"{s3_server}/run"))
    Generator.from_pretrained(f"{s3_server}/run/weights")
    summary = train(tiny(shards, f"{s3_server}/run", "--train.schedule.kimg", "0.096"))
    assert summary["images"] == 96


def test_another_model_in_the_same_folder_is_refused(shards, tmp_path):
    train(tiny(shards, tmp_path / "run", "--train.schedule.kimg", "0.016"))
    with pytest.raises(StyleAvatarError, match="another model, seed or batch"):
        train(tiny(shards, tmp_path / "run", "--run.seed", "1"))


def test_a_run_starts_from_a_generator_that_waits_for_its_discriminator(shards, tmp_path):
    train(tiny(shards, tmp_path / "first", "--train.schedule.kimg", "0.016"))
    trained = ("--model.start", str(tmp_path / "first/weights"), "--train.schedule.start_resolution", "16", *NONE)
    hold = ("--train.schedule.hold_kimg", "0.016", "--train.schedule.kimg")
    train(tiny(shards, tmp_path / "held", *trained, *hold, "0.016"))
    assert same_weights(tmp_path / "first", tmp_path / "held")
    train(tiny(shards, tmp_path / "freed", *trained, *hold, "0.024"))
    assert not same_weights(tmp_path / "first", tmp_path / "freed")


def test_super_resolution_trains(shards, tmp_path):
    model = {
        "--model.generator.widths": "[8, 8]",
        "--model.generator.resolution": "8",
        "--model.generator.features": "6",
        "--model.generator.super_resolution_width": "8",
        "--model.discriminator.raw": "true",
        "--model.discriminator.entry_resolution": "16",
        "--train.schedule.start_resolution": "16",
        "--train.schedule.kimg": "0.008",
    }
    config = tiny(shards, tmp_path / "run", *NONE, *[word for pair in model.items() for word in pair])
    assert train(config)["images"] == 8


@pytest.mark.parametrize(
    "change, reason",
    [
        (("--model.discriminator.label_size", "40"), "label_size must be the label's, 46"),
        (("--model.generator.resolution", "32"), "discriminator.resolution must be the generator's, 32"),
        (("--train.schedule.start_resolution", "4"), "start_resolution"),
        (("--train.schedule.kimg", "0"), "greater than 0"),
        (("--train.bach", "8"), "did you mean 'batch'"),
        (
            ("--train.schedule.fades.swap", "{start: 1, end: 0.5, kimg: 1}"),
            "swap needs .* model.generator.camera_width",
        ),
        (("--model.generator.camera_width", "4"), "model.encoder .* model.generator.camera_width"),
        (
            ("--train.schedule.fades.pose_prior", "{start: 1, end: 0, kimg: 1}"),
            "pose_prior needs model.discriminator.pose",
        ),
        (("--train.schedule.fades.neural_resolution", "{start: 8, end: 16, kimg: 1}"), "super_resolution_width"),
        (("--model.discriminator.pose", "true", "--train.augment.active", "true"), "pose and train.augment.mirror"),
        (("--model.discriminator.depth", "true", "--train.augment.active", "true"), "depth and train.augment"),
        (("--train.micro_batch", "3", *NONE), "micro_batch must be a multiple of model.discriminator.group, 4"),
        (("--train.micro_batch", "4"), "micro_batch works without model.encoder"),
        (("--train.penalty_shares", "{image: 1, depth: 0}"), "penalty_shares.raw needs model.discriminator.raw"),
        (("--train.compile", "true", "--train.checkpointing", "true"), "train.compile and train.checkpointing"),
        (("--data.back_repeat", "4"), "front_share and back_repeat"),
    ],
)
def test_settings_that_do_not_fit_are_named(change, reason):
    with pytest.raises(ConfigError, match=reason):
        tiny("x", "y", *change)


def test_a_batch_that_cannot_be_shared_is_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match="cannot be shared out"):
        train(tiny(shards, tmp_path / "run", "--train.batch", "6"))


def poison(monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[int], bool]) -> None:
    """NaN in the pictures or in the latents, by turns, of the steps at images that `spoilt` names."""
    reals, fakes = Sampler.reals, Sampler.fakes

    def bad_reals(self, first, *rest):
        drawn = reals(self, first, *rest)
        return drawn._replace(images=drawn.images * torch.nan) if spoilt(first) and first % 16 < 8 else drawn

    def bad_fakes(self, first, *rest, **more):
        drawn = fakes(self, first, *rest, **more)
        return drawn._replace(latents=drawn.latents * torch.nan) if spoilt(first) and first % 16 >= 8 else drawn

    monkeypatch.setattr(Sampler, "reals", bad_reals)
    monkeypatch.setattr(Sampler, "fakes", bad_fakes)


def saved(run: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(run.glob("checkpoints/*/state.safetensors"))]


@pytest.mark.slow
def test_a_hundred_bad_steps_are_left_out_counted_and_never_saved(shards, tmp_path, monkeypatch):
    poison(monkeypatch, lambda first: first % 8 == 4)
    train(tiny(shards, tmp_path / "run", *NONE, "--train.schedule.kimg", "0.804", "--train.schedule.grow_kimg", "9"))
    states = saved(tmp_path / "run")
    assert states and all(bool(tensor.isfinite().all()) for state in states for tensor in state.values())
    assert states[-1]["guard.counts"].tolist() == [100, 0]
    last = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert last["skipped"] == 100 and math.isfinite(last["discriminator"])


def test_ten_bad_steps_in_a_row_end_the_run_with_its_last_good_checkpoint(shards, tmp_path, monkeypatch):
    poison(monkeypatch, lambda first: first >= 16)
    with pytest.raises(StyleAvatarError, match="10 steps in a row") as raised:
        train(tiny(shards, tmp_path / "run", *NONE, "--train.checkpoint_kimg", "0.008"))
    assert "at image 56" in str(raised.value) and "goes on from there" in str(raised.value)
    assert all(bool(tensor.isfinite().all()) for state in saved(tmp_path / "run") for tensor in state.values())
    monkeypatch.undo()
    assert train(tiny(shards, tmp_path / "run", *NONE))["images"] == 80


def test_bad_steps_are_left_out_in_half_precision_too(shards, tmp_path, monkeypatch):
    poison(monkeypatch, lambda first: first % 8 == 4)
    train(tiny(shards, tmp_path / "run", *BF16, *NONE, "--train.schedule.kimg", "0.028"))
    assert saved(tmp_path / "run")[-1]["guard.counts"].tolist() == [3, 0]
    assert all(bool(tensor.isfinite().all()) for state in saved(tmp_path / "run") for tensor in state.values())


def test_a_label_that_is_no_camera_is_refused(shards, tmp_path):
    views = load_views(shards, 16)
    views.labels[3, 5] = torch.nan
    with pytest.raises(StyleAvatarError, match="camera label 3 is not a camera"):
        train(tiny(shards, tmp_path / "run"), views)


def test_running_out_of_memory_says_what_to_lower(shards, tmp_path, monkeypatch):
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("styleavatar3d.gan.train.discriminator_step", exhausted)
    with pytest.raises(StyleAvatarError, match="batch 4 in this process at 16 px") as raised:
        train(tiny(shards, tmp_path / "run", *NONE))
    assert "lower --train" in str(raised.value)


def test_a_cpu_refuses_to_compile(shards, tmp_path):
    with pytest.raises(StyleAvatarError, match="does not pay on a cpu"):
        train(tiny(shards, tmp_path / "run", "--train.compile", "true"))


@pytest.mark.slow
def test_compiled_blocks_have_the_same_gradients_on_cuda_or_cpu():
    command = [sys.executable, str(ROOT / "tests/gan/compiled_blocks.py")]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "agree" in result.stdout, result.stderr


def test_a_deepspeed_profile_is_refused_with_the_way_out(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")  # what `accelerate launch` sets for such a profile
    with pytest.raises(ConfigError, match="second derivatives") as raised:
        train(tiny(shards, tmp_path / "run"))
    assert "--train.checkpointing" in str(raised.value) and not (tmp_path / "run").exists()


def test_multiples_are_crossed_once():
    crossed = [seen for seen in range(8, 101, 8) if passed(seen, 8, 0.02)]
    assert crossed == [24, 40, 64, 80]


def test_stopped_is_resumable():
    assert Stopped.exit_code == 3
