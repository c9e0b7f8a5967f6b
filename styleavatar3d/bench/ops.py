"""How much faster the compiled renderer is than its plain PyTorch twin, and what whole generators cost in yardsticks.

What is compared is measured in turns, in the same minutes.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from styleavatar3d.bench import generators
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.ops import Colors, Decoder, Hidden, Rendering, render_planes, render_planes_reference
from styleavatar3d.ops._build import cpu_kernels

BOX = 0.8


class Size(NamedTuple):
    """One row of the table; `levels` are the sides of further, coarser planes."""

    name: str
    batch: int
    rays: int  # along a side
    samples: tuple[int, int]
    plane: int
    depths: tuple[int, int, int]
    channels: int
    hidden: int
    features: int
    activation: Hidden
    colors: Colors
    levels: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32


SIZES = (
    Size("miniature, 64 px", 4, 64, (14, 14), 64, (3, 1, 1), 16, 32, 3, "leaky_relu", "sigmoid"),
    Size("EG3D's network, 32 px", 1, 32, (48, 48), 128, (1, 1, 1), 32, 64, 32, "softplus", "sigmoid"),
    Size("PanoHead's grid, 32 px", 1, 32, (48, 48), 128, (3, 3, 3), 32, 64, 32, "softplus", "none"),
    Size("miniature pyramid, 64 px", 4, 64, (14, 14), 64, (3, 1, 1), 16, 32, 3, "leaky_relu", "sigmoid", (16, 32)),
    Size(
        "Portrait3D's pyramid, bfloat16", 1, 32, (48, 48), 128, (3, 3, 3), 12, 32, 32, "softplus", "none",
        (8, 16, 32, 64), torch.bfloat16,
    ),
)  # fmt: skip


def run(repeats: int = 5) -> dict[str, Any]:
    """Print two tables and return their numbers; times are process CPU time, medians.

    CPU milliseconds an image of kernel and reference, forward and backward; then whole generators in yardsticks.
    """
    if cpu_kernels() is None:
        raise StyleAvatarError(
            "there is no compiled kernel to compare", remedy="install g++ and ninja; unset STYLEAVATAR3D_KERNELS"
        )
    rows = [_row(size, repeats) for size in SIZES]
    _print(rows)
    networks = generators.rows(repeats)
    _print_networks(networks)
    return {
        "table": "ops",
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "repeats": repeats,
        "rows": rows,
        "networks": networks,
    }


def _row(size: Size, repeats: int) -> dict[str, Any]:
    times: dict[str, list[tuple[float, float]]] = {"kernel": [], "reference": []}
    leaves, arguments, options = _scene(size)
    for repeat in range(repeats + 1):
        for name, render in (("kernel", render_planes), ("reference", render_planes_reference)):
            measured = _measure(lambda render=render: render(*arguments, **options), leaves, size.batch)
            if repeat:  # the first turn warms up
                times[name].append(measured)
    row: dict[str, Any] = {"name": size.name}
    for index, direction in enumerate(("forward", "backward")):
        kernel, reference = (statistics.median(turn[index] for turn in times[name]) for name in times)
        row |= {
            f"{direction}_kernel_ms": round(kernel, 2),
            f"{direction}_reference_ms": round(reference, 2),
            f"{direction}_ratio": round(reference / kernel, 2),
        }
    return row


def _measure(render: Callable[[], Rendering], leaves: list[Tensor], batch: int) -> tuple[float, float]:
    start = time.process_time()
    seen = render()
    middle = time.process_time()
    torch.autograd.grad(seen.features.sum() + seen.mask.sum(), leaves)
    end = time.process_time()
    return (middle - start) * 1e3 / batch, (end - middle) * 1e3 / batch


def _scene(size: Size) -> tuple[list[Tensor], tuple, dict[str, Any]]:
    """Random planes seen from the front: leaves that need gradients, arguments and options of `render_planes`."""
    draw = torch.Generator().manual_seed(0)
    levels = [
        torch.randn(size.batch, side, side, sum(size.depths), size.channels, generator=draw).to(size.dtype)
        for side in (*size.levels, size.plane)
    ]
    decoder = Decoder(
        torch.randn(size.channels, size.hidden, generator=draw) / size.channels**0.5,
        torch.zeros(size.hidden),
        torch.randn(size.hidden, 1 + size.features, generator=draw) / size.hidden**0.5,
        torch.zeros(1 + size.features),
    )
    leaves = [part.requires_grad_() for part in (*levels, *decoder)]
    side = (torch.arange(size.rays) + 0.5) / size.rays * 0.64 - 0.32
    across = torch.stack(torch.meshgrid(side, -side, indexing="xy"), -1).view(-1, 2)
    directions = normalize(torch.cat([across, torch.full((len(across), 1), -2.7)], -1), dim=-1)
    shape = (size.batch, len(across))
    arguments = (
        levels,
        decoder,
        torch.tensor([0, 0, 2.7]).expand(*shape, 3).contiguous(),
        directions.expand(*shape, 3).contiguous(),
        torch.full(shape, 2.3),
        torch.full(shape, 3.1),
        *(torch.rand(size.batch, 1, count, generator=draw) for count in size.samples),
    )
    options = {
        "box": BOX, "depths": size.depths, "density_gain": 10.0, "hidden": size.activation, "colors": size.colors
    }  # fmt: skip
    return leaves, arguments, options


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("CPU ms an image", title="render_planes: compiled kernel against plain PyTorch")
    for direction in ("forward", "backward"):
        for column in (f"{direction} kernel", "PyTorch", "ratio"):
            table.add_column(column, justify="right")
    for row in rows:
        cells = (
            f"{row[f'{direction}_{what}']:.1f}{'x' if what == 'ratio' else ''}"
            for direction in ("forward", "backward")
            for what in ("kernel_ms", "reference_ms", "ratio")
        )
        table.add_row(row["name"], *cells)
    Console().print(table)


def _print_networks(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("network", "task", title="whole generators: CPU time in yardsticks of plain PyTorch work")
    for column in ("CPU ms", "yardsticks", "of", "peak MB"):
        table.add_column(column, justify="right")
    for row in rows:
        peak = str(row.get("peak_mb") or "")
        table.add_row(row["name"], row["task"], f"{row['ms']:.1f}", f"{row['yardsticks']:.2f}", row["yardstick"], peak)
    Console().print(table)
