"""A prefix of an S3 bucket as storage: what is conditional there, what its errors mean, and which of them pass."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.patience import TransientError, patient
from styleavatar3d.runtime.storage import TEMPORARY, Storage, checked_name, compare


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
                config_kwargs={"connect_timeout": 20, "retries": {"total_max_attempts": 1}},
            )
            self._filesystem.retries = 1
        return self._filesystem

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filesystem": None}

    @patient
    def read(self, name: str) -> bytes:
        with _s3_errors("cannot read", self._key(name)):
            return self.filesystem.cat_file(self._key(name))

    @patient
    def read_range(self, name: str, start: int, stop: int) -> bytes:
        with _s3_errors("cannot read", self._key(name)):
            return self.filesystem.cat_file(self._key(name), start=start, end=stop)

    @patient
    def publish(self, name: str, data: bytes) -> str:
        with _s3_errors("cannot write", self._key(name)):
            self._put(name, data)
        compare(name, self.read(name), data)
        return hashlib.sha256(data).hexdigest()

    @patient
    def create(self, name: str, data: bytes) -> bool:
        with _s3_errors("cannot write", self._key(name)):
            try:
                self._put(name, data, IfNoneMatch="*")
            except OSError as error:
                if _s3_answer(error)[0] in ("PreconditionFailed", "412"):
                    return False
                raise
        return True

    @patient
    def exists(self, name: str) -> bool:
        with _s3_errors("cannot look up", self._key(name)):
            return self.filesystem.exists(self._key(name))

    @patient
    def list(self, prefix: str = "") -> list[str]:
        with _s3_errors("cannot list", self._key(prefix)):
            try:
                keys = self.filesystem.find(self._key(prefix))
            except FileNotFoundError:
                return []
        # A folder that is made while s3fs looks, first for what is in it and then for what it is, is found as a blob.
        names = (self._name(key) for key in keys if key.startswith(f"{self._key(prefix)}/") and not key.endswith("/"))
        return sorted(name for name in names if not name.startswith(TEMPORARY + "/"))

    @patient
    def delete(self, name: str) -> None:
        with _s3_errors("cannot delete", self._key(name)):
            for key in [self._key(name), *(self._key(child) for child in self.list(name))]:
                self.filesystem.call_s3("delete_object", Bucket=self.bucket, Key=key[len(self.bucket) + 1 :])

    def tidy(self, seconds: float) -> None:
        """One PutObject leaves nothing half written."""

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.bucket, self.prefix, checked_name(name)) if part)

    def _name(self, key: str) -> str:
        return key[len(self._key("")) + 1 :]

    def _put(self, name: str, data: bytes, **conditions: str) -> None:
        key = self._key(name)[len(self.bucket) + 1 :]
        self.filesystem.call_s3("put_object", Bucket=self.bucket, Key=key, Body=data, **conditions)


def _s3_answer(error: BaseException | None) -> tuple[str, int]:
    """(S3 error code, HTTP status) in an exception's chain: s3fs raises OSErrors with botocore's errors as cause."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return str(response.get("Error", {}).get("Code", "")), int(status)
        error = error.__cause__ or error.__context__
    return "", 0


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
_BUSY = ("SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "ConditionalRequestConflict", "OperationAborted")


def _s3_error(what: str, error: Exception) -> StyleAvatarError:
    (code, status), kind = _s3_answer(error), type(error).__name__
    if kind in _NO_CREDENTIALS or code in _BAD_CREDENTIALS:
        return StyleAvatarError(
            f"{what}: S3 credentials are missing or wrong",
            got=code or kind,
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_ENDPOINT_URL for your own server)",
        )
    if code == "NoSuchBucket":
        return StyleAvatarError(f"{what}: there is no such bucket", remedy="create the bucket, or correct its name")
    if isinstance(error, PermissionError):
        return StyleAvatarError(
            f"{what}: access denied", got=code or str(error), remedy="ask for the rights on this bucket"
        )
    if isinstance(error, FileNotFoundError):
        return StyleAvatarError(f"{what}: it does not exist", remedy="check the URL")
    if code in _BUSY or status >= 500 or status == 429:
        return TransientError(f"{what}: the S3 server is busy", got=f"{code} ({status})", remedy="try again later")
    if _is_lost_connection(error):
        return TransientError(
            f"{what}: the S3 server does not answer", got=str(error), remedy="check AWS_ENDPOINT_URL and the network"
        )
    if isinstance(error, OSError) or code:
        return StyleAvatarError(f"{what}: {error}", got=code or kind)
    raise error


def _is_lost_connection(error: BaseException | None) -> bool:
    """Refused, reset, cut short or out of time, anywhere in the chain."""
    from aiohttp import ClientError
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from fsspec.exceptions import FSTimeoutError

    lost = (ClientError, HTTPClientError, IncompleteReadError, NoConnection, FSTimeoutError, ConnectionError)
    while error is not None:
        if isinstance(error, (*lost, TimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False
