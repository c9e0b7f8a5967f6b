"""Numbers that the public research code computed with random weights: what parity tests compare with.

The full set lies outside the repository: in the folder named by STYLEAVATAR3D_GOLDEN, or in `shared/golden` beside or
above the checkout. A few small files are always at hand in `tests/golden`.
"""

import json
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ALWAYS = Path(__file__).parent / "golden"


def folder() -> Path | None:
    """Where the full set lies, if it is on this machine."""
    named = os.environ.get("STYLEAVATAR3D_GOLDEN")
    beside = [parent / "shared" / "golden" for parent in Path(__file__).resolve().parents]
    return next((place for place in [*([Path(named)] if named else []), *beside] if place.is_dir()), None)


def path(name: str) -> Path:
    """A file of the full set; skips the test if there is none."""
    place = folder()
    if place is None or not (place / name).is_file():
        pytest.skip(f"{name}: no golden tensors here (STYLEAVATAR3D_GOLDEN, or shared/golden above the checkout)")
    return place / name


class Golden:
    """The tensors of one file, its settings and the tolerance of each tensor."""

    def __init__(self, tensors: dict[str, Tensor], settings: dict):
        self.tensors, self.settings = tensors, settings

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def check(self, key: str, found: Tensor, where: Tensor | None = None, atol: float | None = None) -> None:
        """Assert that `found` is the stored tensor within its tolerance (where `where` is true)."""
        wanted = self.tensors[key].to(found.dtype)
        assert found.shape == wanted.shape, f"{key}: {tuple(found.shape)} instead of {tuple(wanted.shape)}"
        error = (found.detach() - wanted).abs()
        largest = (error if where is None else error[where]).max().item()
        tolerance = self.settings["tensors"][key]["suggested_atol"] if atol is None else atol
        assert largest <= tolerance, f"{key}: off by {largest:.3g}, tolerance {tolerance:.3g}"


@cache
def load(name: str) -> Golden:
    """A file of the full set with its settings."""
    return Golden(load_file(path(f"{name}.safetensors")), json.loads(path(f"{name}.json").read_text()))


@cache
def small(name: str) -> Golden:
    """A file of `tests/golden`, whose settings lie in its header."""
    from safetensors import safe_open

    with safe_open(ALWAYS / f"{name}.safetensors", "pt") as file:
        settings = json.loads(file.metadata()["settings"])
        return Golden({key: file.get_tensor(key) for key in file.keys()}, settings)  # noqa: SIM118


def weights(name: str) -> dict[str, Tensor]:
    """A state dict under its original names."""
    return load_file(path(f"{name}_weights.safetensors"))


def gradients(value: Tensor, inputs: list[Tensor], upstream: Tensor, **options) -> list[Tensor]:
    """Gradients of sum(value * upstream), zeros where there is no path."""
    found = torch.autograd.grad((value * upstream).sum(), inputs, allow_unused=True, **options)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
