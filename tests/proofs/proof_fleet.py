"""The whole fault suite, longer than continuous integration may take. Each proof adds a line to `fleet.jsonl`.

    python -m pytest tests/proofs/proof_fleet.py

Ten seeds of fifty faults on a disk, on S3 (moto) and on Ceph's gateway where it is installed, one seed with the shipped
diffusion model under Ray, twenty driver kills and fifty split brains. A line holds the commit, the seed and the counts.
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime import ceph, scenarios
from runtime.faults import COUNTS, WORKERS, plan_faults, plan_of
from runtime.scenarios import Quiet

PLAN = plan_of()
CHECKOUT = Path(__file__).resolve().parents[2]
PLACES = ("disk", "moto", "ceph")
SEEDS = range(10)
pytestmark = pytest.mark.timeout(14_400)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}")


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if absent := ceph.missing_programs():
        pytest.skip(f"Ceph is not installed: there is no {', '.join(absent)}")
    with ceph.gateway(tmp_path_factory.mktemp("ceph")) as url:
        yield url


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Quiet:
    return scenarios.run_quietly(str(tmp_path_factory.mktemp("quiet") / "set"), PLAN)


def place_of(name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if name == "disk":
        return str(tmp_path / "set")
    if name == "moto":
        return request.getfixturevalue("s3_server") + "/set"
    endpoint, bucket = request.getfixturevalue("gateway"), f"avatars-{uuid.uuid4().hex[:12]}"
    given = {**ceph.CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    ceph.make_bucket(endpoint, bucket)
    return f"s3://{bucket}/set"


def log(what: str, began: float, **counted: object) -> None:
    """One line: what was proved, of which commit, and what was counted."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True).stdout.strip()
    line = {"what": what, "commit": commit[:12], "seconds": round(time.monotonic() - began), **counted}
    with Path(__file__).with_name("fleet.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("seed", SEEDS)
def test_fifty_faults(
    name: str,
    seed: int,
    quiet: Quiet,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
):
    url, began = place_of(name, request, tmp_path, monkeypatch), time.monotonic()
    lease = quiet.lease * (1 if name == "disk" else 3)
    outcome = scenarios.suffer(url, tmp_path / "log", plan_faults(seed, PLAN.shards, COUNTS), PLAN, lease)
    assert outcome.hash == quiet.hash and outcome.injected == COUNTS and outcome.begun <= 1.5 * PLAN.shards
    log(
        "fifty faults",
        began,
        seed=seed,
        place=name,
        samples=PLAN.count,
        shards=PLAN.shards,
        injected=dict(outcome.injected),
        units_begun=outcome.begun,
        drivers=outcome.drivers,
        hash=outcome.hash["shards"][:12],
    )


def test_twenty_driver_kills(quiet: Quiet, tmp_path: Path):
    began = time.monotonic()
    counted = scenarios.kill_drivers(str(tmp_path / "set"), tmp_path / "log", PLAN, 20, quiet.lease)
    assert counted["hash"] == quiet.hash and counted["most_redone"] <= WORKERS
    del counted["hash"]
    log("driver kills", began, seed=0, place="disk", **counted)


@pytest.mark.parametrize("name", PLACES)
def test_fifty_split_brains(name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    url, began = place_of(name, request, tmp_path, monkeypatch), time.monotonic()
    counted = scenarios.split_brains(url, 50)
    assert counted["agreed"] == 50 and counted["shared"] >= 10
    log("split brains", began, place=name, **counted)


def test_fifty_faults_with_the_real_model_under_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from runtime.real_model import plan_of_model
    from runtime.scenarios import suffer_with_real_model

    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    began, plan = time.monotonic(), plan_of_model(100)
    quiet = suffer_with_real_model("inline", str(tmp_path / "quiet"), tmp_path / "a", {}, plan, 3600)
    planned = plan_faults(0, plan.shards, COUNTS)
    outcome = suffer_with_real_model("ray", str(tmp_path / "set"), tmp_path / "b", planned, plan, 120)
    assert outcome.hash == quiet.hash and outcome.injected == COUNTS and outcome.begun <= 1.5 * plan.shards
    log(
        "fifty faults with the shipped diffusion model under Ray",
        began,
        seed=0,
        place="disk",
        samples=plan.count,
        shards=plan.shards,
        injected=dict(outcome.injected),
        units_begun=outcome.begun,
        drivers=outcome.drivers,
        hash=outcome.hash["shards"][:12],
    )
