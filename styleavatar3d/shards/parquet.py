"""The data set as a table: one row a picture, for pandas, W&B and anything else that reads parquet."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.shards.loader import ShardDataset
from styleavatar3d.shards.manifest import INDEX, Entry, manifest_hash, read_index, read_manifest, write_index
from styleavatar3d.shards.schema import Record, canonical_json

TABLE = "manifest.parquet"


def finish(storage: Storage) -> list[Entry]:
    """Write the index and the table of a complete data set, unless they are there. Returns its manifest."""
    entries = read_manifest(storage)
    known = storage.exists(TABLE) and storage.exists(INDEX)
    if not known or manifest_hash(read_index(storage)) != manifest_hash(entries):
        write_index(storage)
        storage.publish(TABLE, table(storage.url))
    return entries


def table(url: str) -> bytes:
    """A parquet file with a row for every record, rejected ones too, in the order of their keys.

    Columns: the fields of a record, `camera` as 25 numbers, `key`, `shard`, `models`, `licences`, `guidance` as text,
    and one column for each attribute and gate, named `attribute.hair`, `gate.blur`; empty where a record has none.
    """
    import pyarrow
    import pyarrow.parquet

    dataset = ShardDataset(url, parts=("json",))
    kinds: dict[str, type] = {}
    for number in range(len(dataset.entries)):
        for row in rows(dataset, number):
            kinds |= {name: type(value) for name, value in row.items() if value is not None}
    columns = {
        list: pyarrow.list_(pyarrow.float64(), 25), float: pyarrow.float64(), int: pyarrow.int64(),
        bool: pyarrow.bool_(), str: pyarrow.string(),
    }  # fmt: skip
    schema = pyarrow.schema([(name, columns[kinds[name]]) for name in sorted(kinds)])
    buffer = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for number in range(len(dataset.entries)):
            writer.write_table(pyarrow.Table.from_pylist(list(rows(dataset, number)), schema))
    return buffer.getvalue()


def export(url: str, out: str) -> dict[str, Any]:
    """Write the table of a data set, finished or not, to a file."""
    data, path = table(url), Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StyleAvatarError("cannot write the table", got=f"{out}: {error.strerror}") from None
    return {"out": out, "bytes": len(data)}


def rows(dataset: ShardDataset, number: int) -> Iterator[dict[str, Any]]:
    """The records of one shard as flat rows."""
    entry = dataset.entries[number]
    places = [(number, index) for index in range(entry.first, entry.first + entry.count)]
    for place, files in zip(places, dataset.files(places, ["json"]), strict=True):
        with dataset.naming(*place):
            yield flat(Record.from_json(files["json"]), entry.name)


def flat(record: Record, shard: str) -> dict[str, Any]:
    """A record without nesting."""
    nested = {"attributes", "gates", "models", "guidance", "figure", "schema_version"}
    plain = record.model_dump(exclude=nested)
    return {
        **{name: value if _fits(name, value) else canonical_json(value).decode() for name, value in plain.items()},
        "key": record.key,
        "shard": shard,
        "models": " ".join(f"{model.id}@{model.revision}" for model in record.models),
        "licences": " ".join(sorted({record.figure.licence, *(model.licence for model in record.models)})),
        "guidance": " ".join(f"{one.kind}:{one.scale:g}" for one in record.guidance),
        **{f"figure.{name}": value for name, value in record.figure.model_dump().items()},
        **{f"attribute.{name}": value for name, value in record.attributes.items()},
        **{f"gate.{name}": value for name, value in record.gates.items()},
    }


def _fits(name: str, value: Any) -> bool:
    return name == "camera" or value is None or isinstance(value, str | float | int)
