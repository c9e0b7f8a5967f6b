"""How many views of the little world one core draws: with every map, with the rasteriser alone, and by style."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.heads import Bust
from styleavatar3d.figures.looks import STYLES, draw_look
from styleavatar3d.figures.rasterize import rasterize
from styleavatar3d.miniature.renders import draw_cameras, draw_style, fingerprint, render_dataset, render_views

SIZES = (64, 128, 256)
VIEWS = (3, 8)
"""Views of one figure: what the miniature's renders have, and what synthesis asks for."""
FIGURES = 2 * len(STYLES)
DATASET = 768


def run(repeats: int = 3) -> dict[str, Any]:
    """Print tables of views a second of one thread, building figures included, and return their numbers.

    Times are process CPU time on the CPU (other processes slow it only through shared caches) and wall time on a GPU,
    which is measured too where there is one; each is the median of `repeats` turns over the same figures.
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_row(device, size, views, repeats) for device in devices for size in SIZES for views in VIEWS]
        styles = _by_style(repeats)
    finally:
        torch.set_num_threads(threads)
    seconds = [_dataset_seconds(workers) for workers in (1, 2)]
    _print(rows, styles, seconds)
    return {
        "table": "figures",
        "torch": torch.__version__,
        "repeats": repeats,
        "rows": rows,
        "style_ms_a_view": styles,
        "dataset": {"views": DATASET, "seconds": seconds, "ratio": round(seconds[0] / seconds[1], 2)},
    }


def _row(device: str, size: int, views: int, repeats: int) -> dict[str, Any]:
    """One size: the whole path, and the share of it that is building, rasterising, and all else."""
    indices = range(FIGURES)
    figures = [build_figure(draw_look(0, index), device) for index in indices]
    cameras = [draw_cameras(0, index * views, views) for index in indices]

    def build() -> None:
        for index in indices:
            build_figure(draw_look(0, index), device)

    def draw() -> None:
        for index, figure, labels in zip(indices, figures, cameras, strict=True):
            render_views(figure, draw_style(0, index), labels, size)

    def rasterise() -> None:
        for figure, labels in zip(figures, cameras, strict=True):
            rasterize(figure.vertices, figure.faces, labels.to(device), 2 * size, figure.closed)

    built, drawn, rasterised = (_seconds(work, repeats, device) for work in (build, draw, rasterise))
    return {
        "device": device,
        "size": size,
        "views_a_figure": views,
        "views_per_second": round(views * FIGURES / (built + drawn), 1),
        "build_share": round(built / (built + drawn), 2),
        "rasterise_share": round(rasterised / (built + drawn), 2),
    }


def _by_style(repeats: int) -> dict[str, float]:
    """Milliseconds a view at 64 px, the figure ready; the same figures in every style."""
    figures: list[Bust] = [build_figure(draw_look(0, index)) for index in range(6)]
    labels = draw_cameras(0, 0, 3)
    milliseconds = {}
    for style in STYLES:

        def draw(style: str = style) -> None:
            for figure in figures:
                render_views(figure, style, labels)

        milliseconds[style] = round(_seconds(draw, repeats, "cpu") / (3 * len(figures)) * 1e3, 2)
    return milliseconds


def _seconds(work: Callable[[], None], repeats: int, device: str) -> float:
    """Median over turns, after one that warms up."""
    gpu = torch.device(device).type == "cuda"
    clock = time.perf_counter if gpu else time.process_time
    turns = []
    for _ in range(repeats + 1):
        start = clock()
        work()
        if gpu:
            torch.cuda.synchronize()
        turns.append(clock() - start)
    return statistics.median(turns[1:])


def _dataset_seconds(workers: int) -> float:
    """Wall time of a small dataset from several processes, their start included."""
    fingerprint()  # names the cache: once in a process
    start = time.perf_counter()
    render_dataset(DATASET, workers=workers)
    return round(time.perf_counter() - start, 1)


def _print(rows: list[dict[str, Any]], styles: dict[str, float], seconds: list[float]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="views a second, one thread, all maps, 2x2 samples a pixel")
    for column in ("device", "pixels", "views a figure", "views/s", "of it building", "of it rasterising"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["device"], str(row["size"]), str(row["views_a_figure"]), f"{row['views_per_second']:.0f}",
            f"{row['build_share']:.0%}", f"{row['rasterise_share']:.0%}",
        )  # fmt: skip
    console.print(table)
    table = Table("style", title="milliseconds a view at 64 px, the figure ready")
    table.add_column("ms", justify="right")
    for style, milliseconds in styles.items():
        table.add_row(style, f"{milliseconds:.1f}")
    console.print(table)
    console.print(f"{DATASET} views: {seconds[0]} s in one process, {seconds[1]} s in two")
