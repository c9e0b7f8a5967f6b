"""Print the losses of two steps of a denoiser, first plain, then compiled. By itself: types are not checked here."""

import json

import torch

from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.learner import AveragedAdamW, learner
from styleavatar3d.stylespace.denoiser import Conditions, Denoiser


def losses(compiled: bool) -> list[float]:
    torch.manual_seed(0)
    denoiser = Denoiser(w_dim=8, tokens=3, embedded=8, words=2, width=16, layers=1, heads=2)
    optimizer, found = AveragedAdamW(denoiser.parameters(), 0.01), []
    learns = learner(denoiser, optimizer, World(), batch=6, compiled=compiled)
    conditions = Conditions(torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 2), torch.ones(6, 3))
    for _ in range(2):
        loss = (learns(torch.randn(6, 3, 8), torch.rand(6) * 1000, conditions) - 1).square().mean()
        learns.step(loss, 0.01, 0.5)
        found.append(loss.item())
    return found


print(json.dumps({"plain": losses(False), "compiled": losses(True)}))
