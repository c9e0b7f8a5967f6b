"""Checkpoints on a disk or on S3 that a killed run resumes from exactly.

A checkpoint is one safetensors file for tensors and one JSON file for the rest; nothing is ever unpickled. Both are
published under a new folder, then `latest.json` is replaced: readers trust that record only, so a kill at any moment
leaves the previous checkpoint in force. Random numbers are counter-based and need no saving.
"""

import hashlib
import json
import logging
import signal
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage

LATEST = "latest.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What was saved at `position` (images seen)."""

    position: int
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run; the newest `keep` stay."""

    def __init__(self, storage: Storage, keep: int = 2):
        self.storage, self.keep = storage, keep

    def save(self, position: int, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Publish a checkpoint and make it the latest; then drop those beyond `keep`."""
        from safetensors.torch import save

        folder = f"checkpoints/{position:012d}"
        data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
        digest = self.storage.publish(f"{folder}/state.safetensors", data)
        record = {"position": position, "sha256": digest, "size": len(data), "scalars": scalars}
        self.storage.publish(f"{folder}/state.json", json.dumps(record).encode())
        kept = [name for name in self._names() if name < folder][-(self.keep - 1) :] if self.keep > 1 else []
        self.storage.publish(LATEST, json.dumps({"checkpoints": [*kept, folder]}).encode())
        for name in {"/".join(path.split("/")[:2]) for path in self.storage.list("checkpoints")} - {*kept, folder}:
            self.storage.delete(name)

    def latest(self) -> Checkpoint | None:
        """The newest intact checkpoint, or None for a fresh run. Raises if there are some but none is intact."""
        names = self._names()
        for name in reversed(names):
            try:
                return self._load(name)
            except StyleAvatarError as error:
                log.warning("checkpoint %s cannot be used, trying the one before: %s", name, error)
        if names:
            raise StyleAvatarError(
                f"no checkpoint in {self.storage.url} is intact",
                got=", ".join(names),
                remedy="restore one of them from a backup, or start anew with another --run.out",
            )
        return None

    def _names(self) -> list[str]:
        if not self.storage.exists(LATEST):
            return []
        try:
            return json.loads(self.storage.read(LATEST))["checkpoints"]
        except (ValueError, KeyError, TypeError):
            raise StyleAvatarError(
                f"{LATEST} in {self.storage.url} is damaged",
                expected='{"checkpoints": ["checkpoints/000000001000"]}',
                remedy="write the names of the checkpoint folders into it, or start anew with another --run.out",
            ) from None

    def _load(self, folder: str) -> Checkpoint:
        from safetensors.torch import load

        record = json.loads(self.storage.read(f"{folder}/state.json"))
        data = self.storage.read(f"{folder}/state.safetensors")
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise StyleAvatarError("the file was damaged", got=f"{len(data)} bytes", expected=f"{record['size']} bytes")
        return Checkpoint(record["position"], load(data), record["scalars"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """A copy of an optimizer's state as named tensors; hyper-parameters belong to the config and are left out."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}.{index}.{key}": value.clone() for index, slots in state.items() for key, value in slots.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Put back what `optimizer_tensors` took, in the memory layout of the parameters.

    The fused CPU optimizers walk through parameter, gradient and state side by side and do not look at strides: state
    of another layout would be mixed up without a word.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(f"{prefix}."):
            index, name = key[len(prefix) + 1 :].split(".")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, numbers in optimizer.state.items():
        for name, tensor in numbers.items():
            if tensor.shape == parameter.shape:
                numbers[name] = torch.empty_like(parameter).copy_(tensor)


class StopSignal:
    """Remembers SIGTERM and Ctrl-C, so that a loop can end at a good place; a second Ctrl-C interrupts at once."""

    def __init__(self):
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: object) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
