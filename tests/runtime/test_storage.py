"""Storage: both kinds keep the same promises, and say clearly why they cannot."""

import errno
import os
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime import patience
from styleavatar3d.runtime.patience import TransientError, patient
from styleavatar3d.runtime.s3 import S3Storage
from styleavatar3d.runtime.storage import LocalStorage, Storage


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage.open(
        tmp_path / "run" if request.param == "folder" else request.getfixturevalue("s3_server") + "/run"
    )


def test_what_is_published_can_be_read_listed_and_deleted(storage: Storage):
    assert storage.list() == [] and not storage.exists("a")
    storage.publish("shards/000001.tar", b"one")
    storage.publish("shards/000000.tar", b"zero")
    storage.publish("latest.json", b"{}")
    storage.publish("latest.json", b"{'newer': 1}")
    assert storage.read("latest.json") == b"{'newer': 1}"
    assert storage.list("shards") == ["shards/000000.tar", "shards/000001.tar"]
    assert storage.list() == ["latest.json", "shards/000000.tar", "shards/000001.tar"]
    storage.delete("shards")
    storage.delete("never was")
    assert storage.list() == ["latest.json"] and not storage.exists("shards/000000.tar")


def test_a_prefix_is_a_folder_and_not_the_start_of_a_name(storage: Storage):
    storage.publish("run/a", b"")
    storage.publish("run2/a", b"")
    assert storage.list("run") == ["run/a"]


def test_of_many_creators_exactly_one_wins(storage: Storage):
    won: list[int] = []

    def race(number: int) -> None:
        if pickle.loads(pickle.dumps(storage)).create("record.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1 and storage.read("record.json") == str(won[0]).encode()
    assert storage.list() == ["record.json"]


def test_missing_blobs_are_named(storage: Storage):
    with pytest.raises(StyleAvatarError, match=r"cannot read .*nowhere.json: it does not exist"):
        storage.read("nowhere.json")


def test_names_stay_inside(storage: Storage):
    for name in ("../outside", "/etc/passwd", "a/../../b"):
        with pytest.raises(StyleAvatarError, match="leaves its storage"):
            storage.read(name)


def test_a_file_url_is_a_folder(tmp_path: Path):
    storage = Storage.open(f"file://{tmp_path}/run")
    storage.publish("a", b"1")
    assert (tmp_path / "run" / "a").read_bytes() == b"1" == storage.local_path("a").read_bytes()
    assert not (tmp_path / "run" / "tmp").exists()


def test_unknown_kinds_of_storage_are_refused():
    with pytest.raises(StyleAvatarError, match="unknown kind of storage"):
        Storage.open("gs://bucket/run")


def test_a_file_where_a_folder_is_expected(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StyleAvatarError, match="a file stands where a folder is expected"):
        Storage.open(tmp_path / "file")
    with pytest.raises(StyleAvatarError, match="a file stands where a folder is expected"):
        Storage.open(tmp_path / "file" / "below").publish("a", b"")


@pytest.mark.skipif(not Path("/dev/full").exists() or not Path("/proc/self").exists(), reason="needs Linux")
def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path):
    with pytest.raises(StyleAvatarError, match="cannot write /proc"):
        Storage.open("/proc/styleavatar3d").publish("a", b"")
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(StyleAvatarError, match="no permission"):
            Storage.open(tmp_path / "locked").publish("a", b"")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path):
    resource = pytest.importorskip("resource")
    storage = Storage.open(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StyleAvatarError, match="cannot write"):
            storage.publish("big", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_s3_without_credentials_says_so(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StyleAvatarError, match="S3 credentials are missing"):
        Storage.open("s3://bucket/run").publish("a", b"")
    with pytest.raises(StyleAvatarError, match="S3 credentials are missing"):
        Storage.open("s3://bucket/run").list()


def test_s3_without_a_server_or_a_bucket_says_so(s3_server: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(StyleAvatarError, match="no such bucket"):
        Storage.open(s3_server + "-not").publish("a", b"")
    with pytest.raises(StyleAvatarError, match="names no bucket"):
        Storage.open("s3://")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("styleavatar3d.runtime.patience.LONGEST", 0.01)
    with pytest.raises(StyleAvatarError, match="does not answer"):
        Storage.open("s3://bucket").read("a")


class HiccupingDisk(LocalStorage):
    """Writes go wrong in the ways listed: an errno, or "cut" for a write that ends early without a word."""

    troubles: list[int | str] = []

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, int):
            raise OSError(trouble, os.strerror(trouble))
        with super()._temporary(data[:-1] if trouble == "cut" else data) as path:
            yield path


class HiccupingServer(S3Storage):
    """Puts go wrong in the ways listed: an exception, "cut", or "unheard" for one that succeeds but whose answer is
    lost."""

    troubles: list[Exception | str] = []

    def _put(self, name: str, data: bytes, **conditions: str) -> None:
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, Exception):
            raise trouble
        super()._put(name, data[:-1] if trouble == "cut" else data, **conditions)
        if trouble == "unheard":
            raise ReadTimeoutError(endpoint_url="s3")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none takes time."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def test_a_disk_that_hiccups_is_asked_again(tmp_path: Path, pauses: list[float]):
    disk = HiccupingDisk(tmp_path)
    disk.troubles = [errno.EIO, "cut", errno.ESTALE]
    disk.publish("a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole" and len(pauses) == 3
    disk.troubles = ["cut"]
    assert disk.create("b", b"whole") and (tmp_path / "b").read_bytes() == b"whole"
    disk.troubles = [errno.ENOSPC]
    with pytest.raises(StyleAvatarError, match="the disk is full"):
        disk.publish("a", b"more")
    assert len(pauses) == 4 and disk.list() == ["a", "b"] and not (tmp_path / "tmp").exists()


def test_a_server_that_hiccups_is_asked_again(s3_server: str, pauses: list[float]):
    server = HiccupingServer(s3_server.removeprefix("s3://") + "/run")
    busy = ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "PutObject")
    lost = EndpointConnectionError(endpoint_url="s3")
    server.troubles = [busy, lost, "cut", "unheard"]
    server.publish("a", b"whole")
    assert server.read("a") == b"whole" and len(pauses) == 4
    conflict = {"Error": {"Code": "ConditionalRequestConflict"}, "ResponseMetadata": {"HTTPStatusCode": 409}}
    server.troubles = [ClientError(conflict, "PutObject")]
    assert server.create("b", b"whole") and len(pauses) == 5
    server.troubles = ["unheard"]
    assert not server.create("c", b"mine") and server.read("c") == b"mine"  # who won is what is there


def test_pauses_grow_vary_and_end(pauses: list[float]):
    tried: list[int] = []

    @patient
    def hopeless() -> None:
        tried.append(1)
        raise TransientError("no server")

    for _ in range(50):
        with pytest.raises(TransientError):
            hopeless()
    assert len(tried) == 50 * patience.TRIES
    for number in range(patience.TRIES - 1):
        at_most = min(patience.LONGEST, patience.FIRST * 2**number)
        drawn = pauses[number :: patience.TRIES - 1]
        assert len(drawn) == 50 and 0.7 * at_most < max(drawn) <= at_most and min(drawn) < 0.3 * at_most


def test_other_errors_are_not_waited_out(s3_server: str, pauses: list[float]):
    with pytest.raises(StyleAvatarError):
        Storage.open(s3_server).read("nowhere")
    assert pauses == []


def test_what_killed_writers_left_is_removed_once_it_is_old(tmp_path: Path):
    storage = Storage.open(tmp_path)
    storage.publish("a", b"1")
    (tmp_path / "tmp").mkdir()
    for name, age in {"old": 100, "new": 10}.items():
        (tmp_path / "tmp" / name).write_bytes(b"half")
        os.utime(tmp_path / "tmp" / name, times=(time.time() - age,) * 2)
    storage.tidy(50)
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == ["new"]
    storage.tidy(5)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_writers_do_not_take_the_folder_from_each_other(tmp_path: Path):
    storage = Storage.open(tmp_path)
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for i in range(40):
                storage.create(f"{number}-{i}", b"")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert failed == [] and len(storage.list()) == 240
