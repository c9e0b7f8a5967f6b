"""What the full-size models need, without their weights: parameters, memory and, where it was measured, time."""

from typing import Any

import torch

from styleavatar3d.config import load_config
from styleavatar3d.synthesis.families import FAMILIES
from styleavatar3d.synthesis.footprint import count_parameters, footprint
from styleavatar3d.synthesis.synthesize import SynthesisConfig

GIB = 2**30


def run() -> dict[str, Any]:
    """Print parameters by part and memory of `configs/synthesis/{sd15,sd21,sdxl}`, and return them.

    Memory is counted on the meta device at each config's batch, ControlNets and precision.
    """
    rows = [_row(name) for name in FAMILIES]
    _print(rows)
    return {"table": "models", "torch": torch.__version__, "rows": rows}


def _row(name: str) -> dict[str, Any]:
    config = load_config(SynthesisConfig, f"synthesis/{name}")
    dtype = torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float16
    needs = footprint(
        name, config.sample.batch, len(config.sample.guidance), dtype, config.model.vae_slicing, config.data.resolution
    )
    return {
        "config": f"synthesis/{name}",
        "parameters": count_parameters(name),
        "batch": config.sample.batch,
        "pixels": config.data.resolution,
        "controlnets": len(config.sample.guidance),
        "bytes": needs,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("config", "parameters (M)", "batch", "weights", "denoising", "decoding", "in all (GiB)")
    table = Table(*columns, title="The full-size models, in half precision")
    for row in rows:
        parts = ", ".join(f"{part} {count / 1e6:.1f}" for part, count in row["parameters"].items())
        sizes = [f"{row['bytes'][name] / GIB:.1f}" for name in ("weights", "denoising", "decoding", "total")]
        batch = f"{row['batch']} x {row['pixels']} px, {row['controlnets']} ControlNets"
        table.add_row(row["config"], parts, batch, *sizes)
    Console().print(table)
