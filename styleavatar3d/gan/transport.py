"""Latents carried to where the encoder's codes are: how a generator that learned to reconstruct begins to draw.

What an encoder makes of pictures fills a small part of the space of codes, in clumps (styles, kinds, colours of hair).
A latent drawn from a normal distribution falls between them, and shows a mixture of all. So a flow from the normal
distribution to the codes is learned (rectified flow, Liu et al. 2022, equation 1), which takes a minute in so few
dimensions, and the mapping network learns the ends of its paths. The discriminator meets avatars from the first step.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from styleavatar3d.config import Strict
from styleavatar3d.gan.backbone import Mapping
from styleavatar3d.runtime.random import generator as keyed

Codes = Float[Tensor, "_count _w"]


class TransportConfig(Strict):
    """How long flow and mapping network learn: steps of `batch` codes each."""

    steps: int = Field(default=4000, ge=1)
    batch: int = Field(default=512, ge=1)
    width: int = Field(default=512, ge=1)
    """of the flow's layers"""
    paths: int = Field(default=60_000, ge=1)
    """ends of paths that the mapping network learns from"""
    pieces: int = Field(default=16, ge=1)
    """straight pieces of a path"""
    rate: float = Field(default=0.001, gt=0)


class Fit(NamedTuple):
    """How well it went: distances of distributions (`sliced_distance`), each over the codes' own spread."""

    flow: float
    mapping: float


class Flow(nn.Module):
    """Velocity of a point on its way, at time 0 normal noise and at time 1 a code."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(size + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size),
        )  # fmt: skip

    def forward(self, point: Codes, time: Float[Tensor, "count 1"]) -> Codes:
        waves = time * math.pi * 2.0 ** torch.arange(8, device=time.device)
        return self.layers(torch.cat([point, waves.sin(), waves.cos()], 1))

    @torch.no_grad()
    def travel(self, start: Codes, pieces: int) -> Codes:
        """From noise to codes along `pieces` straight pieces, each by the midpoint rule."""
        point = start
        for piece in range(pieces):
            time = torch.full_like(point[:, :1], piece / pieces)
            half = point + self(point, time) / (2 * pieces)
            point = point + self(half, time + 0.5 / pieces) / pieces
        return point


def carry(mapping: Mapping, codes: Float[Tensor, "count w"], config: TransportConfig, seed: int) -> Fit:
    """Teach `mapping` to draw codes like these from normal latents. Equal arguments give equal weights."""
    draw = keyed(seed, "transport")
    middle, spread = codes.mean(0), codes.std(0).clamp(min=1e-4)
    standard = (codes - middle) / spread
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw.initial_seed())
        flow = Flow(codes.shape[1], config.width).to(codes.device)
    size = (config.batch, codes.shape[1])

    def flow_loss() -> Tensor:
        ends = standard[torch.randint(len(standard), size[:1], generator=draw).to(codes.device)]
        starts = torch.randn(size, generator=draw).to(ends)
        time = torch.rand(size[0], 1, generator=draw).to(ends)
        return F.mse_loss(flow(starts.lerp(ends, time), time), ends - starts)

    learn(flow, flow_loss, config, config.rate)
    latents = torch.randn(config.paths, size[1], generator=draw).to(codes)
    # the mapping network does not see how long a latent is
    latents = latents / latents.square().mean(1, keepdim=True).sqrt()
    ends = torch.cat([flow.travel(part, config.pieces) for part in latents.split(4096)]) * spread + middle

    def mapping_loss() -> Tensor:
        chosen = torch.randint(len(latents), size[:1], generator=draw).to(codes.device)
        return ((mapping(latents[chosen]) - ends[chosen]) / spread).square().mean()

    learn(mapping, mapping_loss, config, config.rate / mapping.rate)
    fresh = torch.randn(len(codes), size[1], generator=draw).to(codes)
    with torch.no_grad():
        return Fit(sliced_distance(ends, codes, draw), sliced_distance(mapping(fresh), codes, draw))


def learn(network: nn.Module, loss: Callable[[], Tensor], config: TransportConfig, rate: float) -> None:
    """Adam with a rate that falls to zero along half a cosine."""
    optimizer = torch.optim.Adam(network.parameters(), rate, betas=(0.9, 0.99))
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()


@torch.no_grad()
def sliced_distance(
    ours: Float[Tensor, "_ours w"], theirs: Float[Tensor, "_theirs w"], draw: torch.Generator, directions: int = 256
) -> float:
    """Mean distance of the two distributions along random directions (sliced Wasserstein), over the mean spread of
    `theirs` along them."""
    count = min(len(ours), len(theirs))
    axes = torch.randn(ours.shape[1], directions, generator=draw).to(ours)
    axes = axes / axes.norm(dim=0)
    a, b = (some[torch.randperm(len(some), generator=draw)[:count]] @ axes for some in (ours, theirs))
    return ((a.sort(0).values - b.sort(0).values).abs().mean() / b.std(0).mean()).item()
