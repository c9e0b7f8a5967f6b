"""Weights as a folder of `model.safetensors` and `config.json`. No pickle is ever loaded."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from styleavatar3d.errors import StyleAvatarError

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_weights(
    folder: str | Path, module: nn.Module, config: dict[str, Any], dtype: torch.dtype | None = None
) -> None:
    """Write a module's weights, as `dtype` when given, and its config."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: _converted(tensor, dtype) for name, tensor in module.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The config of a weights folder. Raises StyleAvatarError when there is none."""
    path = Path(folder) / CONFIG
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StyleAvatarError(
            f"{path} cannot be read: {error}", expected=f"a folder with {WEIGHTS} and {CONFIG}"
        ) from error


def load_weights(folder: str | Path, module: nn.Module) -> None:
    """Fill a module in its own dtype. Raises StyleAvatarError naming the first tensor that does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StyleAvatarError(f"{path} cannot be read: {error}", expected="a safetensors file") from error
    _check(path, module.state_dict(), tensors)
    module.load_state_dict(tensors)


def _check(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name in sorted(wanted.keys() | found.keys()):
        expected, got = _shape(wanted, name), _shape(found, name)
        if expected != got:
            raise StyleAvatarError(
                f"{path} does not fit: tensor {name}", got=got, expected=expected,
                remedy=f"use the {CONFIG} that was saved with these weights",
            )


def _shape(tensors: dict[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "no such tensor"


def _converted(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous().clone()
