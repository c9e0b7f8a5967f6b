"""Weights as `model.safetensors` and `config.json`, on a disk or on S3. No pickle is ever loaded."""

import hashlib
import json
from typing import Any

from torch import Tensor, nn

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


def save_weights(storage: Storage, module: nn.Module, config: dict[str, Any], *, half: bool = True) -> None:
    """Write a module's weights, in half or in their own precision, and its config."""
    from safetensors.torch import save

    state = {name: tensor.half() if half else tensor for name, tensor in module.state_dict().items()}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    storage.publish(WEIGHTS_FILE, save(weights, {"format": "pt"}))
    storage.publish(CONFIG_FILE, json.dumps(config, indent=2).encode())


def weights_sha256(module: nn.Module) -> str:
    """One name for a module's weights, the same whether they were kept in 32 or in 16 bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().half().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_json(storage: Storage, name: str) -> dict[str, Any]:
    """A JSON object from storage, or StyleAvatarError."""
    try:
        content = json.loads(storage.read(name))
    except ValueError as error:
        raise StyleAvatarError(f"{name} in {storage.url} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise StyleAvatarError(f"{name} in {storage.url} is no JSON object", got=type(content).__name__)
    return content


def load_weights(module: nn.Module, storage: Storage, name: str = WEIGHTS_FILE) -> None:
    """Fill every parameter and buffer from a safetensors file whose names and shapes must be the module's."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(storage.read(name))
    except SafetensorError as error:
        raise StyleAvatarError(f"{name} in {storage.url} is not a safetensors file: {error}") from None
    check_shapes(weights, module.state_dict(), f"{storage.url}/{name}")
    module.load_state_dict(weights)


def check_shapes(found: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    """Raise unless both dictionaries hold the same names and shapes."""
    remedy = "use the config.json that belongs to these weights"
    if found.keys() != wanted.keys():
        difference = sorted(found.keys() ^ wanted.keys())
        raise StyleAvatarError(f"weights in {source} are of another network", got=", ".join(difference), remedy=remedy)
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise StyleAvatarError(
                f"{name} in {source} has the wrong shape",
                got=tuple(found[name].shape),
                expected=str(tuple(tensor.shape)),
                remedy=remedy,
            )
