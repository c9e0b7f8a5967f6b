"""Storage: both kinds keep the same promises, and say clearly why they cannot."""

import os
import pickle
import threading
from pathlib import Path

import pytest

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage


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
    with pytest.raises(StyleAvatarError, match="does not answer"):
        Storage.open("s3://bucket").read("a")
