"""Where runs and shards live: a folder or an S3 prefix behind one small interface, and the commit protocol.

Protocol, the same for shards and checkpoints: the bytes are written where no reader looks (or as one atomic PutObject),
read back and compared by size and sha256, and only then appear under their final name (`publish`). What exists
is what an exclusively created record says (`create`): of many writers exactly one wins, the others see False.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from styleavatar3d.errors import StyleAvatarError, disk_trouble

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
        """Put `data` under `name` only if nothing is there: True for the one writer that won, else False."""

    @abstractmethod
    def exists(self, name: str) -> bool: ...

    @abstractmethod
    def list(self, prefix: str = "") -> list[str]:
        """Sorted names of all blobs below the folder `prefix`, temporary ones left out."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove `name`, or every blob below it when it is a folder; nothing happens if it is absent."""

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

    def read(self, name: str) -> bytes:
        try:
            return self.local_path(name).read_bytes()
        except OSError as error:
            raise _disk_error("cannot read", self.local_path(name), error) from error

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with _disk_errors("cannot read", self.local_path(name)), self.local_path(name).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def publish(self, name: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        final = self.local_path(name)
        with _disk_errors("cannot write", final), self._temporary(data) as temporary:
            _compare(name, temporary.read_bytes(), data)
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(final)
            _sync_folder(final.parent)
        return digest

    def create(self, name: str, data: bytes) -> bool:
        final = self.local_path(name)
        with _disk_errors("cannot write", final), self._temporary(data) as temporary:
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
        names = (path.relative_to(self.root) for path in self.local_path(prefix).rglob("*") if path.is_file())
        return sorted(str(PurePosixPath(name)) for name in names if name.parts[0] != TEMPORARY)

    def delete(self, name: str) -> None:
        path = self.local_path(name)
        with _disk_errors("cannot delete", path):
            for child in sorted(path.rglob("*"), reverse=True) if path.is_dir() else ():
                child.rmdir() if child.is_dir() else child.unlink()
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def local_path(self, name: str = "") -> Path:
        return self.root / _checked(name)

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        folder = self.root / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)
            _remove_if_empty(folder)


class S3Storage(Storage):
    """A prefix of a bucket, through s3fs. Credentials come from where boto looks; the server from AWS_ENDPOINT_URL.

    One PutObject is atomic, so publishing needs no temporary name: names are content-addressed or single records.
    A conditional PutObject (`If-None-Match: *`) is the exclusive create; multipart uploads are not conditional on
    every server.
    """

    def __init__(self, place: str):
        self.bucket, _, prefix = place.partition("/")
        self.prefix = prefix.strip("/")
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        if not self.bucket:
            raise StyleAvatarError("the S3 URL names no bucket", got=f"s3://{place}", expected="s3://bucket/prefix")
        self._filesystem: Any = None

    @property
    def filesystem(self) -> Any:
        """The s3fs file system, made at first use (so that this object can be sent to another process)."""
        if self._filesystem is None:
            import s3fs

            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            self._filesystem = s3fs.S3FileSystem(
                endpoint_url=endpoint,
                use_listings_cache=False,
                skip_instance_cache=True,
                config_kwargs={"connect_timeout": 20, "retries": {"max_attempts": 1}},
            )
        return self._filesystem

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filesystem": None}

    def read(self, name: str) -> bytes:
        with _s3_errors("cannot read", self._key(name)):
            return self.filesystem.cat_file(self._key(name))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with _s3_errors("cannot read", self._key(name)):
            return self.filesystem.cat_file(self._key(name), start=start, end=stop)

    def publish(self, name: str, data: bytes) -> str:
        with _s3_errors("cannot write", self._key(name)):
            self._put(name, data)
        _compare(name, self.read(name), data)
        return hashlib.sha256(data).hexdigest()

    def create(self, name: str, data: bytes) -> bool:
        with _s3_errors("cannot write", self._key(name)):
            try:
                self._put(name, data, IfNoneMatch="*")
            except OSError as error:
                if _s3_code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict"):
                    return False
                raise
        return True

    def exists(self, name: str) -> bool:
        with _s3_errors("cannot look up", self._key(name)):
            return self.filesystem.exists(self._key(name))

    def list(self, prefix: str = "") -> list[str]:
        with _s3_errors("cannot list", self._key(prefix)):
            try:
                keys = self.filesystem.find(self._key(prefix))
            except FileNotFoundError:
                return []
        start = len(self._key("")) + 1
        names = (key[start:] for key in keys if not key.endswith("/"))
        return sorted(name for name in names if not name.startswith(TEMPORARY + "/"))

    def delete(self, name: str) -> None:
        with _s3_errors("cannot delete", self._key(name)):
            for key in [self._key(name), *(self._key(child) for child in self.list(name))]:
                self.filesystem.call_s3("delete_object", Bucket=self.bucket, Key=key[len(self.bucket) + 1 :])

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.bucket, self.prefix, _checked(name)) if part)

    def _put(self, name: str, data: bytes, **conditions: str) -> None:
        key = self._key(name)[len(self.bucket) + 1 :]
        self.filesystem.call_s3("put_object", Bucket=self.bucket, Key=key, Body=data, **conditions)


def _checked(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise StyleAvatarError("a name leaves its storage", got=name, expected="a relative path without '..'")
    return name


def _compare(name: str, found: bytes, wanted: bytes) -> None:
    if hashlib.sha256(found).digest() != hashlib.sha256(wanted).digest():
        raise StyleAvatarError(
            "the storage gave back other bytes than were written",
            got=f"{name}: {len(found)} bytes",
            expected=f"{len(wanted)} bytes with the same sha256",
            remedy="check the disk, then run the same command again",
        )


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


def _disk_error(what: str, path: Path, error: OSError) -> StyleAvatarError:
    reason, remedy = disk_trouble(error) or (error.strerror or str(error), None)
    return StyleAvatarError(f"{what} {path}: {reason}", got=str(path), remedy=remedy)


@contextmanager
def _disk_errors(what: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _disk_error(what, path, error) from error


def _s3_code(error: BaseException | None) -> str:
    """The S3 error code in an exception's chain: s3fs raises OSErrors that have botocore's errors as their cause."""
    while error is not None:
        response = getattr(error, "response", None)
        if response:
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__ or error.__context__
    return ""


@contextmanager
def _s3_errors(what: str, key: str) -> Iterator[None]:
    try:
        yield
    except StyleAvatarError:
        raise
    except Exception as error:
        raise _s3_error(f"{what} s3://{key}", error) from error


_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
_BAD_CREDENTIALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch")
_NO_SERVER = ("EndpointConnectionError", "ConnectTimeoutError", "ConnectionError", "ClientConnectorError")


def _s3_error(what: str, error: Exception) -> StyleAvatarError:
    code, kind = _s3_code(error), type(error).__name__
    if kind in _NO_CREDENTIALS or code in _BAD_CREDENTIALS:
        return StyleAvatarError(
            f"{what}: S3 credentials are missing or wrong",
            got=code or kind,
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL for your own server)",
        )
    if kind in _NO_SERVER:
        return StyleAvatarError(
            f"{what}: the S3 server does not answer", got=str(error), remedy="check AWS_ENDPOINT_URL and the network"
        )
    if code == "NoSuchBucket":
        return StyleAvatarError(f"{what}: there is no such bucket", remedy="create the bucket, or correct its name")
    if isinstance(error, PermissionError):
        return StyleAvatarError(
            f"{what}: access denied", got=code or str(error), remedy="ask for the rights on this bucket"
        )
    if isinstance(error, FileNotFoundError):
        return StyleAvatarError(f"{what}: it does not exist", remedy="check the URL")
    if isinstance(error, OSError) or code:
        return StyleAvatarError(f"{what}: {error}", got=code or kind)
    raise error
