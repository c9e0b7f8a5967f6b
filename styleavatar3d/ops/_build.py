"""Compile the kernels at first use, once per user, source, PyTorch version and kind of processor or GPU.

They are kept in `$STYLEAVATAR3D_CACHE/kernels` (default `~/.cache/styleavatar3d/kernels`). Where they cannot be built,
one warning says why and the plain PyTorch twins are used. `STYLEAVATAR3D_KERNELS=off` asks for the twins; `required`
makes a failed build an error.
"""

import functools
import hashlib
import os
import platform
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from styleavatar3d.errors import StyleAvatarError

SOURCES = Path(__file__).parent / "csrc"
SWITCH = "STYLEAVATAR3D_KERNELS"
_MODES = ("auto", "off", "required")
_MACHINE_FLAGS = {"AVX512": ["-march=x86-64-v4"], "AVX2": ["-march=x86-64-v3"]}


def cpu_kernels() -> Any:
    """The namespace of compiled operators, or None where the reference has to do."""
    return load_or_warn("CPU", _load_for_cpu, "install g++ 11 or newer, and ninja")


@functools.cache
def _load_for_cpu() -> Any:
    torch.ops.load_library(
        built("cpu", "render_planes", (torch.__version__, platform.machine(), *_machine_flags()), _compile)
    )
    return torch.ops.styleavatar3d_cpu


_failed: set[str] = set()


def load_or_warn(kind: str, load: Callable[[], Any], remedy: str) -> Any:
    """What `load` gives; None where kernels are switched off, or, after one warning, where it fails."""
    mode = os.environ.get(SWITCH, "auto")
    if mode not in _MODES:
        raise StyleAvatarError(f"{SWITCH} has an unknown value", got=mode, expected=" or ".join(_MODES))
    if mode == "off" or (kind in _failed and mode == "auto"):
        return None
    try:
        return load()
    except Exception as error:  # a compiler has many ways to be missing or broken; all end the same
        if mode == "required":
            raise StyleAvatarError(
                f"the {kind} kernels could not be built", got=_cause(error), remedy=remedy
            ) from error
        _failed.add(kind)
        warnings.warn(
            f"the {kind} kernels could not be built, slower plain PyTorch is used instead "
            f"(set {SWITCH}=off to stop trying). Cause: {_cause(error)}",
            RuntimeWarning,
            stacklevel=4,
        )
        return None


def built(kind: str, name: str, of: tuple[str, ...], compile: Callable[[Path], Path]) -> Path:
    """The library made of `csrc/KIND` for the machine and versions `of`; compiled if it is not there yet.

    It is built in a folder of its own, then published by one rename: a killed build leaves nothing that is trusted.
    """
    library = _cache_folder() / f"{name}-{_key(SOURCES / kind, of)}.so"
    if library.exists():
        return library
    with _locked(library.with_suffix(".lock")):
        folder = library.with_suffix(".build")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            if not library.exists():
                folder.mkdir()
                os.replace(compile(folder), library)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return library


def _compile(folder: Path) -> Path:
    from torch.utils import cpp_extension

    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]
    with _tools_on_path():
        _check_tools()
        cpp_extension.load(
            name="render_planes",
            sources=[str(source) for source in sorted((SOURCES / "cpu").glob("*.cpp"))],
            extra_cflags=["-O3", *openmp, *_machine_flags()],
            extra_ldflags=openmp,
            build_directory=str(folder),
            with_cuda=False,
            is_python_module=False,
        )
    return folder / "render_planes.so"


def _cache_folder() -> Path:
    root = os.environ.get("STYLEAVATAR3D_CACHE") or Path.home() / ".cache" / "styleavatar3d"
    folder = Path(root) / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(sources: Path, of: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for part in of:
        digest.update(part.encode())
    for source in sorted(sources.iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _machine_flags() -> list[str]:
    """Widest vectors that PyTorch itself would use here, rather than -march=native: homes are shared by machines."""
    return _MACHINE_FLAGS.get(torch.backends.cpu.get_cpu_capability(), [])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock, which the system releases even if this process is killed."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _tools_on_path() -> Iterator[None]:
    """Let the build find a ninja installed beside this interpreter, whether its environment is activated or not."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, str(Path(sys.executable).parent)])
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _check_tools() -> None:
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    missing = [tool for tool in (compiler, "ninja") if not shutil.which(tool)]
    if missing:
        raise FileNotFoundError(f"{' and '.join(missing)} not found")


def _cause(error: Exception) -> str:
    """What a compiler complains about, without the command lines around it."""
    lines = str(error).splitlines() or [type(error).__name__]
    complaints = [line for line in lines if "error:" in line]
    return "; ".join(complaints[:3] or lines[:1])
