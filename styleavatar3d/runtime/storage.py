"""Where runs and shards live: a folder or an S3 prefix behind one small interface, and the commit protocol.

Protocol, the same for shards and checkpoints: the bytes are written where no reader looks (or as one atomic PutObject),
read back and compared by size and sha256, and only then appear under their final name (`publish`). What exists
is what an exclusively created record says (`create`): of many writers exactly one wins, the others see False.
Every operation is idempotent, so that what may pass (`patience`) is tried again: a server that is busy or away, a
network file system that hiccups, a write that arrived cut short.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from styleavatar3d.errors import StyleAvatarError, disk_trouble
from styleavatar3d.runtime.patience import TransientError, patient

TEMPORARY = "tmp"


class Storage(ABC):
    """A tree of named blobs. Names are relative posix paths such as "shards/000001.tar"."""

    url: str

    @staticmethod
    def open(url: str | os.PathLike[str]) -> Storage:
        """Storage at a path, a `file://` URL or an `s3://bucket/prefix` URL; nothing is created before a write."""
        text = os.fspath(url)
        scheme, separator, rest = text.partition("://")
        if not separator:
            return LocalStorage(Path(text))
        if scheme == "file":
            return LocalStorage(Path(rest))
        if scheme == "s3":
            from styleavatar3d.runtime.s3 import S3Storage

            return S3Storage(rest)
        raise StyleAvatarError(
            "unknown kind of storage",
            got=text,
            expected="a path, file:// or s3://bucket/prefix",
            remedy="mount the storage as a folder, or use its S3 interface with AWS_ENDPOINT_URL",
        )

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of `name`; StyleAvatarError if there is no such blob."""

    @abstractmethod
    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """The bytes start..stop-1 of `name`, fewer where it ends."""

    @abstractmethod
    def publish(self, name: str, data: bytes) -> str:
        """Put `data` under `name`, verified and all at once, over what was there. Returns its sha256."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Put `data` under `name` only if nothing is there: True for the one writer that won, else False.

        At most one writer sees True. After a trouble with the network the winner itself may see False: what is there
        tells who won.
        """

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Sorted names of all blobs below the folder `prefix`, temporary ones left out."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove `name`, or every blob below it when it is a folder; nothing happens if it is absent."""

    @abstractmethod
    def tidy(self, seconds: float) -> None:
        """Remove what writers that were killed left half written, if it is older than `seconds`."""

    def local_path(self, name: str = "") -> Path | None:
        """The path on this machine's disk, or None when the storage is not on it."""
        return None

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"


class LocalStorage(Storage):
    """A folder. Publishing renames, creating links: both are atomic on every POSIX file system that has hard links."""

    def __init__(self, root: Path):
        self.root = root.expanduser().absolute()
        self.url = str(self.root)
        if self.root.exists() and not self.root.is_dir():
            raise StyleAvatarError(
                "a file stands where a folder is expected",
                got=str(self.root),
                expected="a folder",
                remedy="give another path, or move the file away",
            )

    @patient
    def read(self, name: str) -> bytes:
        try:
            return self.local_path(name).read_bytes()
        except OSError as error:
            raise _disk_error("cannot read", self.local_path(name), error) from error

    @patient
    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with _disk_errors("cannot read", self.local_path(name)), self.local_path(name).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    @patient
    def publish(self, name: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        final = self.local_path(name)
        with _disk_errors("cannot write", final), self._temporary(data) as temporary:
            compare(name, temporary.read_bytes(), data)
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(final)
            _sync_folder(final.parent)
        return digest

    @patient
    def create(self, name: str, data: bytes) -> bool:
        final = self.local_path(name)
        with _disk_errors("cannot write", final), self._temporary(data) as temporary:
            compare(name, temporary.read_bytes(), data)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, final)
            except FileExistsError:
                return False
            _sync_folder(final.parent)
        return True

    def exists(self, name: str) -> bool:
        return self.local_path(name).exists()

    def list(self, prefix: str = "") -> list[str]:
        names = []
        for folder, folders, files in os.walk(self.local_path(prefix)):
            place = Path(folder).relative_to(self.root)
            if place == Path() and TEMPORARY in folders:
                folders.remove(TEMPORARY)
            names += [str(PurePosixPath(place / file)) for file in files]
        return sorted(names)

    @patient
    def delete(self, name: str) -> None:
        path = self.local_path(name)
        with _disk_errors("cannot delete", path):
            for child in sorted(path.rglob("*"), reverse=True) if path.is_dir() else ():
                child.rmdir() if child.is_dir() else child.unlink()
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def tidy(self, seconds: float) -> None:
        folder, before = self.root / TEMPORARY, time.time() - seconds
        for path in folder.glob("*"):
            with suppress(FileNotFoundError):  # its writer was alive after all
                if path.stat().st_mtime < before:
                    path.unlink()
        _remove_if_empty(folder)

    def local_path(self, name: str = "") -> Path:
        return self.root / checked_name(name)

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        folder = self.root / TEMPORARY
        path = folder / uuid.uuid4().hex
        try:
            with _open_new(path) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)
            _remove_if_empty(folder)


def checked_name(name: str) -> str:
    """`name`, if it stays inside its storage."""
    if name.startswith("/") or ".." in name.split("/"):
        raise StyleAvatarError("a name leaves its storage", got=name, expected="a relative path without '..'")
    return name


def compare(name: str, found: bytes, wanted: bytes) -> None:
    """Raises TransientError if what was read back is not what was written."""
    if hashlib.sha256(found).digest() != hashlib.sha256(wanted).digest():
        raise TransientError(
            "the storage gave back other bytes than were written",
            got=f"{name}: {len(found)} bytes",
            expected=f"{len(wanted)} bytes with the same sha256",
            remedy="check the disk, then run the same command again",
        )


def _open_new(path: Path) -> BinaryIO:
    """Another writer may remove the folder, empty as it is, between any two steps."""
    for _ in range(100):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # another writer may be in it
        folder.rmdir()


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_PASSING = ("EIO", "EAGAIN", "EBUSY", "EINTR", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "ENETDOWN", "ECONNRESET")
_PASSING_NUMBERS = {getattr(errno, name) for name in _PASSING if hasattr(errno, name)}


def _disk_error(what: str, path: Path, error: OSError) -> StyleAvatarError:
    reason, remedy = disk_trouble(error) or (error.strerror or str(error), None)
    kind = TransientError if error.errno in _PASSING_NUMBERS else StyleAvatarError
    return kind(f"{what} {path}: {reason}", got=str(path), remedy=remedy)


@contextmanager
def _disk_errors(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk_error(what, path, error) from error
