"""Making the shards of a data set with a fleet: what is committed is never made again, whoever else works on it.

The unit of work is a shard: a pure function of (config, number) that ends in `commit`. The driver keeps nothing that
matters: it lists the manifest, gives out what is missing and may be killed at any moment. Then at most the shards in
the workers' hands are made again. Two drivers on one place are waste, not harm.
"""

import sys
from collections.abc import Callable

from styleavatar3d.errors import Stopped
from styleavatar3d.runtime.checkpoint import StopSignal
from styleavatar3d.runtime.fleet import Fleet, FleetConfig, Setup
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.manifest import Entry, Plan, begin, committed, read_manifest
from styleavatar3d.shards.schema import canonical_json

QUARANTINE = "quarantine.json"
"""the shards that were set aside and their last errors; there is none once the data set is complete"""


Made = Callable[[int, Fleet], None]


def produce(
    storage: Storage, plan: Plan, config: FleetConfig, setup: Setup, made: Made = lambda shard, fleet: None
) -> list[Entry]:
    """Make what `plan` lacks and return the complete manifest. `made` hears of each shard, and may ask the fleet for
    its `rates` and its `tally`.

    Raises Stopped on SIGTERM, on Ctrl-C, and if shards were set aside because they fail again and again: everything
    else is made by then, and the same call tries those again. Raises StyleAvatarError if the place holds another data
    set, if workers cannot be set up, or if everything fails.
    """
    plan = begin(storage, plan)
    storage.tidy(config.lease)
    todo = missing(storage, plan)
    with Fleet.open(config, setup) as fleet, StopSignal() as stop:
        for shard, _ in fleet.run(todo, lambda: stop.requested):
            made(shard, fleet)
    left = missing(storage, plan)
    aside = {shard: fleet.quarantined[shard] for shard in left if shard in fleet.quarantined}
    if aside:
        storage.publish(QUARANTINE, canonical_json({"shards": aside}))
    if left:
        raise Stopped(_say(plan, left, aside), remedy="run the same command to go on; shards set aside are tried again")
    return _finish(storage)


def missing(storage: Storage, plan: Plan) -> list[int]:
    """The shards that are not committed, in order."""
    done = committed(storage)
    return [shard for shard in range(plan.shards) if shard not in done]


def _say(plan: Plan, left: list[int], aside: dict[int, str]) -> str:
    lines = [f"stopped with {plan.shards - len(left)} of {plan.shards} shards committed"]
    for shard, error in sorted(aside.items())[:10]:
        indices = plan.indices(shard)
        why = error.strip().splitlines()[-1]
        lines.append(f"  shard {shard} (pictures {indices.start}-{indices.stop - 1}) was set aside: {why}")
    if aside:
        lines.append(f"  {len(aside)} set aside in all, {QUARANTINE} holds their errors")
    return "\n".join(lines)


def _finish(storage: Storage) -> list[Entry]:
    """Drop bytes that no record names: of writers that lost a race or were killed between bytes and record."""
    entries = read_manifest(storage)
    names = {entry.name for entry in entries}
    for name in storage.list("shards"):
        if name not in names:
            print(f"{name} lost a race and is removed", file=sys.stderr)
            storage.delete(name)
    if storage.exists(QUARANTINE):
        storage.delete(QUARANTINE)
    return entries
