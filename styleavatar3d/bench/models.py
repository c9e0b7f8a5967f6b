"""What the full-size models need, without their weights: parameters, memory, and time by the table of profiles."""

from typing import Any

import torch

from styleavatar3d.config import load_config
from styleavatar3d.synthesis.families import FAMILIES
from styleavatar3d.synthesis.footprint import count_parameters, footprint
from styleavatar3d.synthesis.plan import PlanConfig, plan

DEVICE = "a100-80gb"
_GIB = 2**30


def run() -> dict[str, Any]:
    """Print parameters by part, memory and seconds a picture of `configs/synthesis/{sd15,sd21,sdxl}`, and return them.

    Memory is counted on the meta device at each config's batch, ControlNets and precision. Seconds are reckoned from
    `data/profiles.yaml`, whose source is said beside them.
    """
    rows = [_row(name) for name in FAMILIES]
    _print(rows)
    return {"table": "models", "torch": torch.__version__, "rows": rows}


def _row(name: str) -> dict[str, Any]:
    config = load_config(PlanConfig, f"synthesis/{name}", ["--plan.device", DEVICE])
    planned = plan(config)
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
        "device": planned["device"],
        "seconds_per_picture": planned["seconds_per_picture"],
        "seconds_from": planned["profile"]["source"],
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("config", "batch", "weights", "step", "decoder", "in all", "s a picture")
    table = Table(*columns, title="The full-size models in half precision: GiB and seconds")
    for row in rows:
        sizes = [f"{row['bytes'][name] / _GIB:.1f}" for name in ("weights", "denoising", "decoding", "total")]
        batch = f"{row['batch']} x {row['pixels']} px"
        seconds = f"{row['seconds_per_picture']:.2g} ({row['device']}, {row['seconds_from']})"
        table.add_row(row["config"], batch, *sizes, seconds)
    console = Console()
    console.print(table)
    for row in rows:
        parts = ", ".join(f"{part} {count:,}" for part, count in row["parameters"].items())
        console.print(f"{row['config']}: parameters of {parts}")
