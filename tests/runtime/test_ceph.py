"""A real object store: Ceph's S3 gateway keeps the promises that the commit protocol is built on.

apt-get install --no-install-recommends ceph-mon ceph-osd radosgw
"""

import os
import pickle
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime import ceph, scenarios
from runtime.faults import COUNTS, plan_faults, plan_of

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if absent := ceph.missing_programs():
        pytest.skip(f"Ceph is not installed: there is no {', '.join(absent)}")
    with ceph.gateway(tmp_path_factory.mktemp("ceph")) as url:
        yield url


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The `s3://` URL of a new bucket on the gateway, and the environment that reaches it."""
    paths = f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}"
    given = {**ceph.CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": paths}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    name = f"avatars-{uuid.uuid4().hex[:12]}"
    ceph.make_bucket(endpoint, name)
    return f"s3://{name}"


def test_of_many_creators_exactly_one_wins(bucket: str):
    storage = Storage.open(f"{bucket}/run")
    for trial in range(10):
        won: list[int] = []

        def race(number: int, name: str = f"record-{trial}.json", won: list[int] = won) -> None:
            if pickle.loads(pickle.dumps(storage)).create(name, str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(won) == 1 and storage.read(f"record-{trial}.json") == str(won[0]).encode()


def test_what_is_published_can_be_read_listed_and_deleted(bucket: str):
    storage = Storage.open(f"{bucket}/run")
    storage.publish("shards/000001.tar", bytes(2_000_000))
    storage.publish("latest.json", b"{}")
    storage.publish("latest.json", b"{'newer': 1}")
    assert storage.read("latest.json") == b"{'newer': 1}" and storage.read_range("latest.json", 2, 7) == b"newer"
    assert storage.list() == ["latest.json", "shards/000001.tar"] and storage.list("shards") == ["shards/000001.tar"]
    storage.delete("shards")
    assert storage.list() == ["latest.json"]


def test_a_wrong_secret_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(StyleAvatarError, match="S3 credentials are missing or wrong"):
        Storage.open(f"{bucket}/run").publish("a", b"")


def test_fifty_faults_leave_the_manifest_of_the_quiet_run(bucket: str, tmp_path: Path):
    plan = plan_of()
    quiet = scenarios.run_quietly(f"{bucket}/quiet", plan)
    faults = plan_faults(0, plan.shards, COUNTS)
    outcome = scenarios.suffer(f"{bucket}/set", tmp_path / "log", faults, plan, 3 * quiet.lease)
    assert outcome.hash == quiet.hash and outcome.injected == COUNTS and outcome.begun <= 1.5 * plan.shards


def test_two_drivers_on_one_output_are_harmless(bucket: str):
    assert scenarios.split_brains(f"{bucket}/set", 10)["agreed"] == 10
