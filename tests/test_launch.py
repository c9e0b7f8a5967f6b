"""Launchers that need what this machine may not have say so before they do anything."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def gpu(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "launch/gpu.sh"), *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable} | environment,
    )


def test_the_gpu_launcher_explains_itself():
    done = gpu("--help")
    assert done.returncode == 0 and "launch/gpu.sh train" in done.stdout and "WHEELS" in done.stdout
    assert gpu("fly").returncode == 2 and "launch/gpu.sh check" in gpu().stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("verb", ["check", "train"])
def test_without_a_gpu_the_launcher_says_so_and_writes_nothing(verb, tmp_path):
    done = gpu(verb, OUT=str(tmp_path / "out"))
    assert done.returncode == 2 and "no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_launchers_pass_shellcheck():
    scripts = [str(path) for path in (ROOT / "launch").glob("*.sh")]
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
