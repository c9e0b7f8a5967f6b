"""The manifest: which shards exist. One small record a shard, created exclusively after its bytes were verified.

dataset.json             what the data set is to become (made once)
shards/000012-SHA.tar    bytes, under a name that holds their own hash
manifest/000012.json     the shard counts from here on; where its members lie
index.json               all of the above in one file, when the data set is complete: a reader starts with one request
manifest.parquet         one row a picture, for pandas and W&B
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.archive import Layout, arrange, scan
from styleavatar3d.shards.schema import SCHEMA, Coding, canonical_json
from styleavatar3d.shards.writer import PNG, Sample, pack

DATASET = "dataset.json"
INDEX = "index.json"


class Plan(Strict):
    """The whole data set: what a resumed run must agree with, and what a reader knows before the last shard."""

    schema_version: int = SCHEMA
    count: int
    shard_size: int
    resolution: int
    config_hash: str
    licences: list[str]
    coding: Coding = PNG

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard_size)

    def indices(self, shard: int) -> range:
        """Shard s holds the indices from s * shard_size on; only the last may be shorter."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.count))


class Entry(Strict):
    """One committed shard. `records` is the sha256 of its JSON parts (pixels left out), `rejected` lists indices.

    `sizes` are the bytes of every part of every sample, from which follows where they lie in the tar; shards of earlier
    versions and the index leave them out.
    """

    shard: int
    name: str
    first: int
    count: int
    rejected: list[int]
    bytes: int
    sha256: str
    records: str
    parts: tuple[str, ...] = ()
    sizes: tuple[tuple[int, ...], ...] = ()

    def layout(self) -> Layout | None:
        """Where the members lie, if the record says so."""
        return arrange(self.first, self.parts, self.sizes) if self.sizes else None


class Index(Strict):
    """The manifest of a complete data set in one file, layouts left out."""

    count: int
    hash: dict[str, str]
    shards: list[Entry]


def begin(storage: Storage, plan: Plan) -> Plan:
    """Claim the place for `plan`, or agree with what is there; StyleAvatarError if that is another data set."""
    if storage.create(DATASET, canonical_json(plan.model_dump())):
        return plan
    found = read_plan(storage)
    if found != plan:
        raise StyleAvatarError(
            f"{storage.url} holds another data set",
            got=f"config {found.config_hash}, {found.count} pictures",
            expected=f"config {plan.config_hash}, {plan.count} pictures",
            remedy="choose another --out or --run.out, or repeat what began it, unchanged",
        )
    return found


def read_plan(storage: Storage) -> Plan:
    """What the data set is to become; StyleAvatarError if there is none."""
    if not storage.exists(DATASET):
        raise StyleAvatarError(
            "there is no data set",
            got=storage.url,
            expected=f"a folder or s3:// prefix with {DATASET}",
            remedy="make one with `styleavatar3d synthesize` or `styleavatar3d dataset import`",
        )
    return _parse(Plan, storage.read(DATASET), f"{storage.url}/{DATASET}")


def commit(storage: Storage, shard: int, samples: Sequence[Sample], coding: Coding = PNG) -> Entry:
    """Publish the shard and then its record. If another writer was first, its record is the one that counts."""
    data = pack(samples, coding)
    digest = hashlib.sha256(data).hexdigest()
    name = f"shards/{shard:06d}-{digest[:16]}.tar"
    records = sorted((sample.record for sample in samples), key=lambda record: record.index)
    layout = scan(data, name, records[0].index, len(records))
    entry = Entry(
        shard=shard,
        name=name,
        first=records[0].index,
        count=len(records),
        rejected=[record.index for record in records if record.verdict == "rejected"],
        bytes=len(data),
        sha256=digest,
        records=hashlib.sha256(b"\n".join(record.to_json() for record in records)).hexdigest(),
        parts=layout.parts,
        sizes=tuple(map(tuple, layout.sizes.tolist())),
    )
    storage.publish(name, data)
    if storage.create(_record_name(shard), canonical_json(entry.model_dump())):
        return entry
    winner = _read_entry(storage, _record_name(shard))
    if winner.name != name:
        storage.delete(name)
    return winner


def committed(storage: Storage) -> set[int]:
    """The numbers of the committed shards."""
    return {int(name.rpartition("/")[2].partition(".")[0]) for name in storage.list("manifest")}


def read_manifest(storage: Storage) -> list[Entry]:
    """All committed shards, in order."""
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(lambda name: _read_entry(storage, name), storage.list("manifest")))


def read_entry(storage: Storage, shard: int) -> Entry:
    """The record of one committed shard."""
    return _read_entry(storage, _record_name(shard))


def write_index(storage: Storage) -> list[Entry]:
    """Put the whole manifest into one file. Raises StyleAvatarError unless every shard is committed."""
    plan, entries = read_plan(storage), read_manifest(storage)
    if len(entries) < plan.shards:
        raise StyleAvatarError(
            "only a complete data set has an index",
            got=f"{len(entries)} of {plan.shards} shards",
            remedy="run the command that makes the data set until it is done",
        )
    short = [entry.model_dump(exclude={"parts", "sizes"}) for entry in entries]
    storage.publish(INDEX, canonical_json({"count": plan.count, "hash": manifest_hash(entries), "shards": short}))
    return entries


def read_index(storage: Storage) -> list[Entry]:
    """The committed shards, in order: from the index if there is one (one request), else from the manifest."""
    if not storage.exists(INDEX):
        return read_manifest(storage)
    try:
        return Index.model_validate_json(storage.read(INDEX)).shards
    except ValidationError as error:
        raise StyleAvatarError(
            f"{storage.url}/{INDEX} is damaged: {error}", remedy=f"delete {INDEX}: the manifest holds the same"
        ) from None


def manifest_hash(entries: Sequence[Entry]) -> dict[str, str]:
    """`records`: sha256 over all record fields, the same on every machine; `shards`: pixels and packing too."""
    return {
        "records": hashlib.sha256("\n".join(entry.records for entry in entries).encode()).hexdigest(),
        "shards": hashlib.sha256("\n".join(entry.sha256 for entry in entries).encode()).hexdigest(),
    }


def _record_name(shard: int) -> str:
    return f"manifest/{shard:06d}.json"


def _read_entry(storage: Storage, name: str) -> Entry:
    return _parse(Entry, storage.read(name), f"{storage.url}/{name}")


def _parse(cls: Any, data: bytes, source: str) -> Any:
    try:
        return cls.model_validate(json.loads(data))
    except (ValidationError, ValueError, RecursionError) as error:
        raise StyleAvatarError(f"{source} is damaged: {error}", remedy="restore it, or begin the run anew") from None
