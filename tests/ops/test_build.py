"""Each test builds, or fails to build, in a folder and a process of its own."""

import os
import shutil
import subprocess
import sys

import pytest

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops._build import cpu_kernels

RENDER = """
import torch
from styleavatar3d.ops import Decoder, render_planes
rays = torch.tensor([0, 0, 2.7]).expand(1, 4, 3), torch.tensor([0, 0, -1.0]).expand(1, 4, 3)
limits, jitter = (torch.full((1, 4), 2.3), torch.full((1, 4), 3.1)), (torch.rand(1, 1, 4), torch.rand(1, 1, 4))
decoder = Decoder(torch.randn(8, 8), torch.zeros(8), torch.randn(8, 4), torch.zeros(4))
seen = render_planes(torch.randn(1, 8, 8, 3, 8), decoder, *rays, *limits, *jitter, box=0.8, depths=(1, 1, 1))
seen = render_planes(torch.randn(1, 8, 8, 3, 8), decoder, *rays, *limits, *jitter, box=0.8, depths=(1, 1, 1))
fused = hasattr(torch.ops.styleavatar3d_cpu, "render_planes")
print("finite", bool(torch.isfinite(seen.features).all()), "fused", fused)
"""

needs_compiler = pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")


def start(cache, code=RENDER, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "STYLEAVATAR3D_CACHE": str(cache), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@needs_compiler
def test_two_processes_build_at_once_and_a_third_finds_the_result(tmp_path):
    for process in [start(tmp_path, STYLEAVATAR3D_KERNELS="required") for _ in range(2)]:
        out, err = process.communicate(timeout=240)
        assert out.split() == ["finite", "True", "fused", "True"], err
    assert len(list(tmp_path.rglob("*.so"))) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.name != "kernels"]
    out, err = start(tmp_path, STYLEAVATAR3D_KERNELS="required", CXX="no-such-compiler").communicate(timeout=60)
    assert "fused True" in out, err


def test_without_a_compiler_one_warning_names_the_cause_and_the_reference_renders(tmp_path):
    out, err = start(tmp_path, CXX="no-such-compiler").communicate(timeout=120)
    assert out.split() == ["finite", "True", "fused", "False"], err
    assert err.count("RuntimeWarning") == 1
    assert "no-such-compiler" in err and "slower plain PyTorch is used instead" in err


def test_a_required_kernel_that_cannot_be_built_is_an_error(tmp_path):
    process = start(tmp_path, STYLEAVATAR3D_KERNELS="required", CXX="no-such-compiler")
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "StyleAvatarError: the CPU kernels could not be built" in err


def test_switched_off_nothing_is_built_or_said(tmp_path):
    out, err = start(tmp_path, STYLEAVATAR3D_KERNELS="off").communicate(timeout=60)
    assert "fused False" in out
    assert "Warning" not in err
    assert not list(tmp_path.iterdir())


def test_an_unknown_switch_is_named(monkeypatch):
    monkeypatch.setenv("STYLEAVATAR3D_KERNELS", "fast")
    with pytest.raises(StyleAvatarError, match="auto or off or required"):
        cpu_kernels()


def test_import_builds_nothing(tmp_path):
    process = start(tmp_path, "import styleavatar3d.ops")
    process.communicate(timeout=60)
    assert process.returncode == 0 and not list(tmp_path.iterdir())
