"""`styleavatar3d doctor`: what this machine has, and which stage misses what."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from styleavatar3d import __version__

OPTIONAL = {
    "ray": ("ray", "synthesis on a cluster"),
    "deepspeed": ("deepspeed", "ZeRO sharding of large models"),
    "wandb": ("wandb", "W&B charts beside the JSONL log"),
    "xformers": ("gpu", "memory-efficient attention on a GPU"),
    "anny": ("figures", "baking the parametric head again"),
}


def examine() -> dict[str, Any]:
    """Versions, accelerator, compiler, disk and optional parts, one line each."""
    import torch

    found: dict[str, Any] = {
        "styleavatar3d": __version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, {_accelerator(torch)}",
        "cpu": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "fused renderer": _compiler(),
        "free disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB here",
        "film": "ffmpeg is there" if _ffmpeg() else "no ffmpeg: pip install imageio-ffmpeg",
    }
    for module, (extra, purpose) in OPTIONAL.items():
        installed = importlib.util.find_spec(module) is not None
        version = importlib.metadata.version(module) if installed else f"no: pip install 'styleavatar3d[{extra}]'"
        found[module] = f"{version} ({purpose})"
    return found


def _accelerator(torch: Any) -> str:
    if not torch.cuda.is_available():
        return "no GPU: everything runs on the CPU"
    card = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {card.name}, {card.total_memory / 2**30:.0f} GiB"


def _compiler() -> str:
    missing = [name for name in ("c++", "ninja") if shutil.which(name) is None]
    if "ninja" in missing and importlib.util.find_spec("ninja"):
        missing.remove("ninja")
    return f"plain PyTorch, several times slower: no {' and no '.join(missing)}" if missing else "can be compiled here"


def _ffmpeg() -> bool:
    import imageio_ffmpeg

    try:
        return bool(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return False
