"""What a fleet does to its storage and its driver: requests, bytes and results a second, by the commit protocol.

A shard is one PUT of its tar, one GET that verifies it and one conditional PUT of its manifest record
(`runtime.storage`, `shards.manifest`). The driver claims the data set once, lists the manifest to see what is done
and reads every record at the end. Plain arithmetic, so that a thousand GPUs can be tried on paper.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from styleavatar3d.shards.manifest import Entry
from styleavatar3d.shards.schema import canonical_json
from styleavatar3d.synthesis.profiles import Limits

PUTS_A_SHARD = 2
GETS_A_SHARD = 1
PUTS_A_RUN = 2
"""dataset.json and config.yaml"""
_DIGEST = "0" * 64


class Job(NamedTuple):
    """A data set on a device: what does not depend on the number of workers."""

    pictures: int
    shard_size: int
    shard_bytes: int
    parts: int
    """files a picture"""
    seconds: float
    """device seconds a picture, redraws included"""
    startup: float
    """seconds until a worker's first picture"""
    devices: float
    """that a worker has; may be a fraction"""

    @property
    def shards(self) -> int:
        return math.ceil(self.pictures / self.shard_size)

    @property
    def shard_seconds(self) -> float:
        """Seconds that a worker takes for a full shard; sharing a device makes each slower."""
        return self.shard_size * self.seconds / min(self.devices, 1.0)

    @property
    def total_bytes(self) -> int:
        return self.shards * self.shard_bytes


def wall_seconds(job: Job, workers: int) -> float:
    """From start to the last shard: every worker does whole shards, one after the other."""
    return job.startup + math.ceil(job.shards / workers) * job.shard_seconds


def workers_for(job: Job, deadline: float) -> int | None:
    """The fewest workers that end within `deadline` seconds; None if one shard alone takes longer."""
    rounds = math.floor((deadline - job.startup) / job.shard_seconds + 1e-9)
    return math.ceil(job.shards / rounds) if rounds >= 1 else None


def record_bytes(job: Job) -> int:
    """Bytes of one manifest record, measured on a record of this many pictures and parts."""
    count = min(job.shard_size, job.pictures)
    size = job.shard_bytes // (count * job.parts)
    entry = Entry(
        shard=job.shards, name=f"shards/{job.shards:06d}-{_DIGEST[:16]}.tar", first=job.pictures, count=count,
        rejected=[], bytes=job.shard_bytes, sha256=_DIGEST, records=_DIGEST,
        parts=("guidance-keypoints.png",) * job.parts, sizes=((size,) * job.parts,) * count,
    )  # fmt: skip
    return len(canonical_json(entry.model_dump()))


def requests(job: Job, limits: Limits) -> dict[str, int]:
    """Requests of the whole run. Listing happens twice: to begin and to end."""
    pages = math.ceil(job.shards / limits.list_page)
    return {
        "put": PUTS_A_SHARD * job.shards + PUTS_A_RUN,
        "get": (GETS_A_SHARD + 1) * job.shards,
        "list": 2 * pages,
    }


def load(job: Job, workers: int, limits: Limits) -> dict[str, Any]:
    """One row of the scale table: how fast `workers` are and what they ask of storage and driver."""
    busy = min(workers, job.shards)
    rate = busy / job.shard_seconds
    wall = wall_seconds(job, workers)
    idle = 1 - job.pictures / job.shard_size * job.shard_seconds / (workers * wall)
    row = {
        "workers": workers,
        "hours": round(wall / 3600, 3),
        "device_hours": round(workers * job.devices * wall / 3600, 2),
        "idle": round(idle, 3),
        "pictures_per_second": _short(job.shard_size * rate),
        "shards_per_second": _short(rate),
        "put_per_second": _short(PUTS_A_SHARD * rate),
        "get_per_second": _short(GETS_A_SHARD * rate),
        "upload_megabytes_per_second": _short(rate * job.shard_bytes / 1e6),
        "driver_results_per_second": _short(rate),
        "driver_kilobytes_per_second": _short(rate * record_bytes(job) / 1e3),
        "driver_seconds_to_read_the_manifest": _short(
            job.shards * limits.get_seconds / limits.readers
            + 2 * math.ceil(job.shards / limits.list_page) * limits.get_seconds
        ),
    }
    return {**row, "warnings": warnings(job, workers, row, limits)}


def warnings(job: Job, workers: int, row: dict[str, Any], limits: Limits) -> list[str]:
    """What comes near a limit, and what to change."""
    bigger = "make data.shard_size larger"
    rates = {
        "put_per_second": (limits.put_per_second, f"PUTs a second in one prefix; {bigger}"),
        "get_per_second": (limits.get_per_second, f"GETs a second in one prefix; {bigger}"),
        "driver_results_per_second": (limits.results_per_second, f"results a second at one driver; {bigger}"),
    }
    found = [
        f"{row[name]} of at most {limit:g} {text}"
        for name, (limit, text) in rates.items()
        if row[name] >= limits.near * limit
    ]
    if workers > job.shards:
        found.append(f"{workers - job.shards} of {workers} workers have no shard; make data.shard_size smaller")
    elif row["idle"] > 0.2:
        found.append(
            f"workers idle {row['idle']:.0%} of the time, starting and in the last round; use fewer, or smaller shards"
        )
    if job.shard_seconds > limits.shard_seconds:
        found.append(
            f"a lost worker loses up to {job.shard_seconds / 3600:.1f} h of work; make data.shard_size smaller"
        )
    if row["driver_seconds_to_read_the_manifest"] > 600:
        found.append(
            f"the driver reads the manifest for {row['driver_seconds_to_read_the_manifest'] / 60:.0f} min; {bigger}"
        )
    return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")
