"""A gradient penalty through data-parallel hooks and a guard's decisions, by as many processes as started it.

Each writes what it found to FOLDER/RANK.
"""

import os
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from styleavatar3d.gan.discriminator import Discriminator, DiscriminatorConfig
from styleavatar3d.gan.guard import Guard
from styleavatar3d.gan.losses import gradient_penalty, squared_gradients
from styleavatar3d.runtime.distributed import World, connect

CONFIG = DiscriminatorConfig(
    resolution=8, entry_resolution=8, widths=(4, 4), label_size=6, label_width=8, precision="parameter", pose=True
)


def network() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(CONFIG).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(1)
    shapes = ((8, 4, 8, 8), (8, 6))
    pictures, labels = (torch.randn(shape, generator=numbers, dtype=torch.double) for shape in shapes)
    return pictures, labels


def penalty_gradients() -> dict[str, torch.Tensor]:
    """Of one process that holds the whole batch."""
    judge = network()
    gradient_penalty(judge, *batch()).backward()
    return {f"reached.{name}": p.grad.clone() for name, p in judge.named_parameters()}


def shared_gradients(world: World) -> dict[str, torch.Tensor]:
    pictures, labels = (part.chunk(world.size)[world.rank] for part in batch())
    found = {}
    for kind in ("reached", "unreached"):
        judge = network()
        hooked = DistributedDataParallel(judge)
        look = partial(hooked, labels=labels, precise=True)
        if kind == "reached":
            gradient_penalty(hooked, pictures, labels).backward()
        else:
            squared_gradients(look, {"pictures": pictures})["pictures"].backward()
        gradients = {name: p.grad for name, p in judge.named_parameters()}
        found |= {f"{kind}.{name}": torch.zeros(1) if g is None else g.clone() for name, g in gradients.items()}
    return found


def guarded(world: World) -> dict[str, torch.Tensor]:
    """NaN in the second process's data, then in its gradient: both processes leave the step out."""
    guard, layer = Guard(), nn.Linear(2, 2)
    passes = []
    for data, gradient in ((0.0, 0.0), (torch.nan, 0.0), (0.0, torch.nan), (0.0, 0.0)):
        mine = world.rank == 1
        layer.weight.grad = torch.full((2, 2), gradient if mine else 0.0)
        values = {"data": torch.tensor([data if mine else 0.0])}
        passes.append(guard.passes("discriminator", values, layer, world))
        guard.close(0)
    return {"passes": torch.tensor(passes), "skipped": guard.counts}


if __name__ == "__main__":
    here = connect(threads=1)
    save_file(shared_gradients(here) | guarded(here), Path(sys.argv[1]) / os.environ["RANK"])
