"""Results on disk."""

from pathlib import Path

from styleavatar3d.runtime.storage import Storage


def write_whole(path: str | Path, data: bytes) -> Path:
    """Write a file all at once, or say why not; nothing half-written is ever seen."""
    path = Path(path)
    Storage.open(path.parent).publish(path.name, data)
    return path
