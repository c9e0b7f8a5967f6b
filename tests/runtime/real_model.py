"""The faults of `faults.py` on the real thing: the shipped diffusion model, by Ray actors or by one quiet process.

    python -m runtime.real_model KIND URL FOLDER SHARDS LEASE FAULTS

FAULTS is JSON, {shard: [[kind, place], ...]}. Each driver is a process of its own, since Ray starts and ends with it.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

from runtime.faults import Fault, FaultyDisk, Injector, faulty

from styleavatar3d.config import load_config
from styleavatar3d.runtime.fleet import FleetConfig, Work
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.manifest import Plan
from styleavatar3d.shards.production import produce
from styleavatar3d.synthesis.pipeline import describe
from styleavatar3d.synthesis.synthesize import SynthesisConfig, plan_of, prepare

PICTURES_A_SHARD = 2


def config_of(shards: int) -> SynthesisConfig:
    """Pictures of the shipped model in two steps."""
    sizes = {"count": shards * PICTURES_A_SHARD, "shard_size": PICTURES_A_SHARD}
    words = [word for name, value in sizes.items() for word in (f"--data.{name}", str(value))]
    return load_config(SynthesisConfig, "synthesis/tiny", [*words, "--sample.batch", str(PICTURES_A_SHARD)])


def plan_of_model(shards: int) -> Plan:
    config = config_of(shards)
    return plan_of(config, describe(config.model))


def set_up(config: SynthesisConfig, storage: Storage) -> Work:
    return partial(_strike_and_make, storage, prepare(config, describe(config.model), storage))


def _strike_and_make(storage: FaultyDisk, work: Work, shard: int) -> object:
    storage.injector.begin(shard)
    storage.injector.strike("draw")
    return work(shard)


def main(kind: str, url: str, folder: str, shards: str, lease: str, planned: str) -> None:
    hits = {int(shard): [Fault(*hit) for hit in hits] for shard, hits in json.loads(planned).items()}
    storage = faulty(url, Injector(Path(folder), hits, os.getpid()))
    fleet = FleetConfig.model_validate({"kind": kind, "workers": 2, "lease": float(lease)})
    produce(storage, plan_of_model(int(shards)), fleet, partial(set_up, config_of(int(shards)), storage))


if __name__ == "__main__":
    main(*sys.argv[1:])
