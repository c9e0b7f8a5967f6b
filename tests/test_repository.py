"""Promises about the repository itself: size, no pickle, thin launchers, a wheel that works in an empty folder."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
FORBIDDEN_CALLS = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system"}


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_the_tree_stays_small():
    assert sum(path.stat().st_size for path in tracked()) <= 48 * MIB
    assert (ROOT / "data" / "heads.safetensors").stat().st_size <= 2 * MIB
    weights = sum(path.stat().st_size for path in (ROOT / "data" / "miniature").rglob("*") if path.is_file())
    assert weights <= 36e6


def test_launchers_are_thin():
    for path in (ROOT / "launch").iterdir():
        assert len(path.read_text().splitlines()) <= 60, path


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return f"{module}.{name}"
    return ""


@pytest.mark.parametrize("path", sorted((ROOT / "styleavatar3d").rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_runs_what_it_loads(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert called(node) not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
            if called(node) == "torch.load":
                raise AssertionError(f"{path}:{node.lineno}: weights are safetensors; torch.load unpickles")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_data_configs_and_kernels(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "styleavatar3d/_assets/data/heads.safetensors",
        "styleavatar3d/_assets/data/miniature/generator/model.safetensors",
        "styleavatar3d/_assets/configs/gan/miniature.yaml",
        "styleavatar3d/ops/csrc/cpu/render_planes.cpp",
    ):
        assert part in names


def test_generate_runs_from_the_wheel_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import styleavatar3d.cli as cli; "
        f"assert {str(site)!r} in cli.__file__; cli.main()"
    )
    words = ["generate", "--seeds", "0-1", "--size", "32", "--mesh", "32", "--out", "made"]
    result = subprocess.run([sys.executable, "-c", script, *words], cwd=empty, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert list((empty / "made").rglob("*.glb")) and list((empty / "made").rglob("*.png"))
