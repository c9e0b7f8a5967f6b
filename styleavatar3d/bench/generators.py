"""What whole generators cost, in yardsticks: a forward pass, a new view of kept planes, a training step.

Two sizes: S makes 64 px from 32^2 rays of 12 + 12 samples in planes of 64, M 128 px from 64^2 rays of 24 + 24 in planes
of 128; both have 3 x 32 plane channels, a decoder of 64 units and 32 features, twofold super-resolution. Of each size
there is the light network and EG3D's, whose convolutions multiply in float32 or in bfloat16 (the gradient penalty
always in float32). S is measured against the small yardstick, M against the medium one.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from styleavatar3d.bench.yardstick import Task, in_turns, yardstick
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.gan.classic import ClassicGenerator
from styleavatar3d.gan.classic_config import (
    ClassicConfig,
    ClassicDiscriminatorConfig,
    ClassicRendering,
    ClassicSuperResolution,
)
from styleavatar3d.gan.classic_discriminators import ClassicDiscriminator
from styleavatar3d.gan.discriminator import Discriminator, DiscriminatorConfig, pictures_for
from styleavatar3d.gan.generator import Generator, GeneratorConfig, Rendering
from styleavatar3d.gan.losses import discriminator_loss, generator_loss
from styleavatar3d.gan.stylegan2 import multiply_in

BATCH, PENALTY_INTERVAL = 4, 16
YARDS = {"S": "small", "M": "medium"}


class Pair(NamedTuple):
    """A generator, and a discriminator called as judge(image, raw image, labels) -> logits."""

    name: str
    yard: str
    generator: nn.Module
    discriminator: nn.Module
    judge: Callable[[Tensor, Tensor, Tensor], Tensor]


def light(size: str) -> Pair:
    """Our light network."""
    config = GeneratorConfig(
        z_dim=512, w_dim=512, plane_channels=32, depths=(1, 1, 1), decoder_width=64, features=32, box=1.0,
        **{
            "S": {"widths": (128,) * 5, "resolution": 32, "samples": (12, 12), "super_resolution_width": 128},
            "M": {"widths": (256,) * 5 + (128,), "resolution": 64, "samples": (24, 24), "super_resolution_width": 128},
        }[size],
    )  # fmt: skip
    widths = {"S": (128,) * 5, "M": (128, *(256,) * 5)}[size]
    discriminator = Discriminator(
        DiscriminatorConfig(
            resolution=config.image_resolution, entry_resolution=config.image_resolution, widths=widths, raw=True,
            mask=False, label_size=25,
        )
    )  # fmt: skip

    def judge(image: Tensor, raw: Tensor, labels: Tensor) -> Tensor:
        return discriminator(pictures_for(image, raw[:, :0], raw[:, :0], raw), labels)

    return Pair(f"light {size}", YARDS[size], Generator(config), discriminator, judge)


def eg3d(size: str, convolutions: Literal["fp32", "bf16"] = "fp32") -> Pair:
    """EG3D's network, as it would be imported."""
    rays, image, planes, base, most, samples = {
        "S": (32, 64, 64, 8192, 128, (12, 12)),
        "M": (64, 128, 128, 16384, 256, (24, 24)),
    }[size]
    generator = ClassicGenerator(
        ClassicConfig(
            family="eg3d", plane_resolution=planes, neural_resolution=rays, image_resolution=image,
            channel_base=base, channel_max=most, rendering=ClassicRendering(samples=samples),
            super_resolution=ClassicSuperResolution(module="2x"), convolutions=convolutions,
        )
    )  # fmt: skip
    discriminator = ClassicDiscriminator(
        ClassicDiscriminatorConfig(family="eg3d", resolution=image, channel_base=base, channel_max=most)
    )
    name = f"EG3D {size}" if convolutions == "fp32" else f"EG3D {size}, {convolutions}"
    return Pair(name, YARDS[size], generator, discriminator, discriminator)


PAIRS = (light, eg3d, partial(eg3d, convolutions="bf16"))


def rows(repeats: int, sizes: tuple[str, ...] = ("S", "M")) -> list[dict[str, Any]]:
    """One row a network and task: CPU milliseconds and yardsticks; of steps also the memory at their peak."""
    found = []
    for size in sizes:
        for make in PAIRS:
            pair = make(size)
            tasks = {YARDS[size]: yardstick(YARDS[size]), **looks(pair)}
            found += _rows(pair, tasks, in_turns(tasks, repeats))
            tasks, before = {YARDS[size]: yardstick(YARDS[size]), **steps(pair)}, _memory(reset=True)
            times = in_turns(tasks, max(1, repeats // 4))
            plain, with_penalty = times.pop("step without penalty"), times.pop("step with penalty")
            times["step of 4"] = plain + (with_penalty - plain) / PENALTY_INTERVAL
            found += _rows(pair, tasks, times)
            found[-1]["peak_mb"] = None if before is None else round(_memory() - before)  # type: ignore[operator]
    return found


def _rows(pair: Pair, tasks: dict[str, Task], times: dict[str, float]) -> list[dict[str, Any]]:
    unit = times[pair.yard]
    return [
        {"name": pair.name, "task": task, "ms": round(ms, 1), "yardsticks": round(ms / unit, 3), "yardstick": pair.yard,
         "yardstick_ms": round(unit, 1)}
        for task, ms in times.items() if task != pair.yard
    ]  # fmt: skip


def looks(pair: Pair) -> dict[str, Task]:
    """One picture from a latent, and one from planes that are kept; the generator is frozen, as loading leaves it."""
    z, labels = torch.randn(1, 512, generator=torch.Generator().manual_seed(0)), _labels(1)
    generator: Any = pair.generator.requires_grad_(False)

    @torch.no_grad()
    def forward() -> Rendering:
        codes = generator.mapping(z)
        return generator.render(generator.planes(codes), labels, codes=codes)

    with torch.no_grad():
        codes = generator.mapping(z)
        planes = generator.planes(codes)

    @torch.no_grad()
    def new_view() -> Rendering:
        return generator.render(planes, labels, codes=codes)

    return {"forward": forward, "new view": new_view}


def steps(pair: Pair) -> dict[str, Task]:
    """A training step on random pictures, without and with the gradient penalty; Adam included, fakes shared."""
    generator: Any = pair.generator.requires_grad_(True)
    draw, labels = torch.Generator().manual_seed(0), _labels(BATCH)
    optimizers = [
        torch.optim.Adam(net.parameters(), 1e-5, betas=(0.0, 0.99), fused=True)
        for net in (generator, pair.discriminator)
    ]

    half = torch.bfloat16 if getattr(generator.config, "convolutions", "") == "bf16" else None

    def step(penalty: bool) -> None:
        multiply_in(pair.discriminator, None if penalty else half)
        pair.discriminator.requires_grad_(False)
        codes = generator.mapping(torch.randn(BATCH, 512, generator=draw))
        view = generator.render(generator.planes(codes), labels, codes=codes)
        _descend(optimizers[0], generator_loss(pair.judge(view.image, view.raw, labels)))
        pair.discriminator.requires_grad_(True)
        image, raw = (
            torch.randn(part.shape, generator=draw).requires_grad_(penalty) for part in (view.image, view.raw)
        )
        real = pair.judge(image, raw, labels)
        loss = discriminator_loss(real, pair.judge(view.image.detach(), view.raw.detach(), labels))
        if penalty:
            gradients = torch.autograd.grad(real.sum(), [image, raw], create_graph=True)
            loss = loss + PENALTY_INTERVAL / 2 * sum(g.square().sum((1, 2, 3)).mean() for g in gradients)
        _descend(optimizers[1], loss)

    return {"step without penalty": lambda: step(False), "step with penalty": lambda: step(True)}


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _labels(count: int) -> Tensor:
    return orbit_labels(torch.arange(count) * 40.0, torch.zeros(count))


def _memory(reset: bool = False) -> float | None:
    """Megabytes of this process: now and forget the peak (`reset`), or at the peak since; None where Linux is not."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    key = "VmRSS:" if reset else "VmHWM:"
    return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(key))
