"""The profile of this model on this device: the unit of work itself makes a small shard. Kept for later plans."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from pydantic import Field, ValidationError

from styleavatar3d.config import Strict
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.synthesis.pipeline import describe
from styleavatar3d.synthesis.synthesize import SynthesisConfig, prepare

_BLOCK = 512


class Measured(Strict):
    """Seconds and bytes of a picture, and seconds until the first; `pictures` were made to know it, at `when` (UTC)."""

    device: str
    seconds: float = Field(gt=0)
    bytes: float = Field(gt=0)
    startup: float = Field(ge=0)
    pictures: int = Field(ge=1)
    when: str


def measure(config: SynthesisConfig) -> Measured:
    """Make two batches in a temporary folder: the first warms up, the second counts. The profile is kept."""
    config = SynthesisConfig.model_validate(config.model_dump(include=set(SynthesisConfig.model_fields)))
    batch = config.sample.batch
    small = config.data.model_copy(update={"count": 2 * batch, "shard_size": batch})
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        trial = config.model_copy(update={"data": small})
        storage = Storage.open(folder)
        began = time.perf_counter()
        work = prepare(trial, describe(trial.model), storage)
        work(0)
        warm = time.perf_counter()
        entry = work(1)
        seconds = (time.perf_counter() - warm) / batch
        each = _picture_bytes(storage.read(entry["name"])) / batch
    measured = Measured(
        device=device_here(config), seconds=seconds, bytes=each, pictures=batch,
        startup=max(warm - began - batch * seconds, 0.0), when=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    )  # fmt: skip
    kept = _kept()
    kept[fingerprint(config)] = measured.model_dump()
    Storage.open(_folder()).publish("profiles.json", json.dumps(kept, indent=1).encode())
    return measured


def recall(config: SynthesisConfig) -> Measured | None:
    """The profile that was measured here before of the same work, if there is one."""
    found = _kept().get(fingerprint(config))
    try:
        return Measured.model_validate(found) if found else None
    except ValidationError:  # of another version
        return None


def fingerprint(config: SynthesisConfig) -> str:
    """12 hex digits over all that decides how long a picture takes and how large it is."""
    where = {"run", "fleet", "data", "track"}
    data = config.data.model_dump(mode="json", exclude={"count", "shard_size"})
    tree = [
        device_here(config),
        config.model_dump(mode="json", exclude=where, include=set(SynthesisConfig.model_fields)),
        data,
    ]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def device_here(config: SynthesisConfig) -> str:
    """What the pictures would be drawn on here: the GPU's name, or "cpu" with the processor's."""
    if config.model.device.startswith("cuda") or (config.model.device == "auto" and torch.cuda.is_available()):
        return torch.cuda.get_device_name(0)
    return f"cpu {platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _picture_bytes(tar: bytes) -> int:
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        return sum(_BLOCK + math.ceil(member.size / _BLOCK) * _BLOCK for member in members)


def _folder() -> Path:
    return Path(os.environ.get("STYLEAVATAR3D_CACHE") or Path.home() / ".cache" / "styleavatar3d")


def _kept() -> dict[str, dict[str, object]]:
    try:
        kept = json.loads((_folder() / "profiles.json").read_bytes())
    except (OSError, ValueError):  # none yet, or not ours
        return {}
    return kept if isinstance(kept, dict) else {}
