"""A fixed piece of plain PyTorch work, to compare CPU times between machines and days.

It has the kinds of operation that a tri-plane generator is made of, written the plain way, at two sizes: six 3x3
convolutions, a lookup in three planes, a decoder of one hidden layer. Times are given in units of it, measured in turns
with it, so that a busy or a fast machine changes both alike.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

Task = Callable[[], Any]

SIZES = {"small": (128, 64, 32 * 32 * 24), "medium": (128, 128, 64 * 64 * 48)}
"""channels, pixels a side, points"""


def yardstick(name: str) -> Task:
    """The work of one size, on numbers of a fixed seed."""
    channels, size, count = SIZES[name]
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, size, size, generator=draw)
    kernel = torch.randn(channels, channels, 3, 3, generator=draw) / (3 * channels**0.5)
    planes = torch.randn(3, 32, size, size, generator=draw)
    points = torch.rand(3, 1, count, 2, generator=draw) * 2 - 1
    first, second = torch.randn(32, 64, generator=draw), torch.randn(64, 33, generator=draw)

    @torch.no_grad()
    def work() -> torch.Tensor:
        x = image
        for _ in range(6):
            x = F.leaky_relu(F.conv2d(x, kernel, padding=1), 0.2)
        features = F.grid_sample(planes, points, align_corners=False).mean(0)[:, 0].T
        return x.mean() + (F.softplus(features @ first) @ second).sigmoid().mean()

    return work


def cpu_ms(task: Task) -> float:
    """Process CPU milliseconds of one run, over all threads."""
    start = time.process_time()
    task()
    return (time.process_time() - start) * 1e3


def in_turns(tasks: Mapping[str, Task], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each task; they take turns, and a first turn warms up."""
    turns = [{name: cpu_ms(task) for name, task in tasks.items()} for _ in range(repeats + 1)]
    return {name: statistics.median(turn[name] for turn in turns[1:]) for name in tasks}
