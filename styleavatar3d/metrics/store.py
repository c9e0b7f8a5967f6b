"""What was measured of many pictures, in parts that any number of processes write and a killed run goes on from.

Part k holds pictures k * part .. of the set, so who writes it, when and beside whom changes nothing: the parts are read
in their own order, and every number made of them is the same bit by bit.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics.distribution import Gaussian
from styleavatar3d.runtime.storage import Storage

PLAN = "plan.json"
Measured = dict[str, Tensor]
"""Tensors by name, one row a picture."""


class FeatureStore:
    """Tensors of `count` pictures under a folder or s3:// prefix, `part` pictures a file.

    `about` says what was measured of what (the network's digest, seeds, ...). Raises StyleAvatarError where the folder
    already holds something else: features of two networks are never mixed.
    """

    def __init__(self, url: str, count: int, about: dict[str, Any], part: int = 500):
        if count < 1 or part < 1:
            raise StyleAvatarError("a store needs pictures", got=f"{count} in parts of {part}", expected="1 or more")
        self.storage, self.count, self.part = Storage.open(url), count, part
        plan = json.loads(json.dumps({"count": count, "part": part, "about": about}, sort_keys=True))
        if not self.storage.create(PLAN, json.dumps(plan, sort_keys=True).encode()):
            self._check(plan)

    def _check(self, plan: dict[str, Any]) -> None:
        found = self.storage.read(PLAN)
        try:
            same = json.loads(found) == plan
        except ValueError:
            same = False
        if not same:
            raise StyleAvatarError(
                f"{self.storage.url} holds measurements of something else",
                got=found.decode(errors="replace"), expected=json.dumps(plan, sort_keys=True),
                remedy="choose another folder, or delete this one",
            )  # fmt: skip

    @property
    def parts(self) -> range:
        return range(-(-self.count // self.part))

    def pictures(self, number: int) -> range:
        """Which pictures part `number` holds."""
        return range(number * self.part, min((number + 1) * self.part, self.count))

    def missing(self, rank: int = 0, size: int = 1) -> list[int]:
        """Parts not there yet, of the share of process `rank` of `size`."""
        there = set(self.storage.list("parts"))
        return [number for number in self.parts[rank::size] if _name(number) not in there]

    def fill(
        self,
        measure: Callable[[range], Measured],
        rank: int = 0,
        size: int = 1,
        tell: Callable[[int, int], object] = lambda done, count: None,
    ) -> None:
        """Measure and write what is missing of this process' share; `tell(done, count)` is called after each part."""
        missing = self.missing(rank, size)
        for done, number in enumerate(missing, 1):
            self.write(number, measure(self.pictures(number)))
            tell(done, len(missing))

    def write(self, number: int, measured: Measured) -> None:
        """Publish a part, whole or not at all. Raises StyleAvatarError unless it has one row for each picture."""
        from safetensors.torch import save

        wanted = len(self.pictures(number))
        if wrong := {name: len(rows) for name, rows in measured.items() if len(rows) != wanted}:
            raise StyleAvatarError(f"part {number} has too many or too few rows", got=wrong, expected=str(wanted))
        rows = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in measured.items()}
        self.storage.publish(_name(number), save(rows))

    def read(self, number: int) -> Measured:
        """Raises StyleAvatarError for a part that is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        data = self.storage.read(_name(number))
        try:
            measured = load(data)
        except SafetensorError as error:
            raise StyleAvatarError(
                f"{_name(number)} in {self.storage.url} is damaged: {error}", remedy="delete it and run again"
            ) from None
        return measured

    def stream(self, name: str) -> Iterator[Tensor]:
        """One tensor's rows, part by part. Raises StyleAvatarError if a part is missing."""
        if missing := self.missing():
            raise StyleAvatarError(
                f"{self.storage.url} is not finished", got=f"{len(missing)} of {len(self.parts)} parts are missing",
                remedy="run the same command again: it goes on from here",
            )  # fmt: skip
        return (self.read(number)[name] for number in self.parts)

    def gather(self, name: str) -> Shaped[Tensor, "count ..."]:
        """One tensor of all pictures."""
        return torch.cat(list(self.stream(name)))

    def gaussian(self, name: str = "features", among: Bool[Tensor, "count"] | None = None) -> Gaussian:
        """Count, mean and scatter of the features, of the pictures `among` which; only one part is held at a time."""
        chosen = (None,) * len(self.parts) if among is None else among.split(self.part)
        parts = zip(self.stream(name), chosen, strict=True)
        return Gaussian.merged(rows if some is None else rows[some] for rows, some in parts)


def _name(number: int) -> str:
    return f"parts/{number:08d}.safetensors"
