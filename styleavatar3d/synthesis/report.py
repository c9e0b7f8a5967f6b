"""What a synthesis says: on the way how far it is and how fast each worker, at the end what became of every prompt."""

import sys
import time
from typing import Any

from styleavatar3d.runtime.fleet import Fleet
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import TrackConfig, Tracker, clock
from styleavatar3d.shards.manifest import Plan
from styleavatar3d.shards.parquet import TABLE
from styleavatar3d.shards.rejections import yaw_band

COLUMNS = ("prompt", "view", "yaw", "pitch", "style", "kind", "verdict", "attempt", "refusals", "key")
"""of the table of verdicts, after the yaw band and before the gates"""
MOST_ROWS = 10_000
"""that Weights & Biases takes of a table: of more pictures every n-th is in it"""


class Progress:
    """A line on stderr a shard, one in the log every `track.seconds`; `made` counts the shards of this run."""

    def __init__(self, track: TrackConfig, storage: Storage, settings: dict[str, Any], plan: Plan, todo: int):
        self.plan, self.todo, self.made = plan, todo, 0
        self._began, self._reported, self._every = time.monotonic(), 0.0, track.seconds
        self._storage = storage
        self._tracker = Tracker(track, storage, settings, self.pictures()) if todo else None

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def pictures(self) -> int:
        """How many are committed, by whomever."""
        return min((self.plan.shards - self.todo + self.made) * self.plan.shard_size, self.plan.count)

    def add_shard(self, shard: int, fleet: Fleet) -> None:
        self.made += 1
        now, done = self.seconds(), f"{self.pictures()}/{self.plan.count}"
        rate, left = self.made * self.plan.shard_size / now, now / self.made * (self.todo - self.made)
        print(f"synthesis  {done} pictures  {rate:.1f}/s  {clock(left)} left", file=sys.stderr, flush=True)
        if self._tracker and (self.made == self.todo or now - self._reported >= self._every):
            self._reported = now
            values = {"rate": round(rate, 3), "seconds_left": round(left, 1)} | told_by(fleet, self.plan.shard_size)
            self._tracker.report(self.pictures(), values)

    def close(self) -> None:
        """End the log. The verdicts of a finished data set go to the tracker."""
        if self._tracker is None:
            return
        if self._storage.exists(TABLE):
            self._tracker.table("verdicts", *verdicts(self._storage))
        self._tracker.close()


def told_by(fleet: Fleet, shard_size: int) -> dict[str, float]:
    """Pictures an hour of each worker that is here, and how many units failed, were lost or took too long so far."""
    speeds = {f"worker {number}": round(rate * shard_size, 1) for number, rate in fleet.rates().items()}
    return speeds | {name: fleet.tally[name] for name in ("failed", "lost", "overdue")}


def verdicts(storage: Storage) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of a table of prompt by view: what was asked for, seen from where, and what became of it."""
    import pyarrow
    import pyarrow.parquet

    # a buffer of its own, read in this thread: readers ahead would drop Python's bytes when Python is gone already
    source = pyarrow.BufferReader(storage.read(TABLE))
    whole = pyarrow.parquet.read_table(source, use_threads=False, pre_buffer=False)
    gates = sorted(name for name in whole.column_names if name.startswith("gate."))
    some = range(0, whole.num_rows, max(1, -(-whole.num_rows // MOST_ROWS)))
    rows = whole.select([*COLUMNS, *gates]).take(list(some)).to_pylist()
    return ["yaw band", *COLUMNS, *gates], [[yaw_band(row["yaw"]), *row.values()] for row in rows]
