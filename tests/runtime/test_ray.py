"""Ray for real: a head with a token, a job on it, actors as workers. The head and all it starts end with the test."""

import os
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a busy machine takes minutes to start Ray
CHECKOUT = Path(__file__).resolve().parents[2]

FLEET = """
import json, sys
from runtime.test_fleet import squares
from functools import partial
from styleavatar3d.runtime.fleet import Fleet, FleetConfig
with Fleet.open(FleetConfig(kind="ray", workers=2), partial(squares, sys.argv[1])) as fleet:
    done = sorted(fleet.run(range(7)))
print(json.dumps(done))
"""

GROWING = """
import json, os, time
from styleavatar3d.runtime.ray_fleet import ray_token
os.environ.update(ray_token())
from ray.cluster_utils import Cluster
from runtime.test_fleet import who
from styleavatar3d.runtime.fleet import Fleet, FleetConfig
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
pids, most, node = [], 0, None
deadline = time.monotonic() + 600
config = FleetConfig(kind="ray", workers=3, address=cluster.address)
with Fleet.open(config, who) as fleet:
    for unit, pid in fleet.run(range(100_000), lambda: most == -1 or time.monotonic() > deadline):
        pids.append(pid)
        if len(pids) == 5:
            alone = len(set(pids)) == 1
            node = cluster.add_node(num_cpus=2)
        if node and len(set(pids[-20:])) == 3:
            cluster.remove_node(node, allow_graceful=False)
            node, most, since = None, 3, len(pids)
        if most == 3 and len(pids) > since + 40 and len(set(pids[-20:])) == 1:
            most = -1
cluster.shutdown()
print(json.dumps([alone, most, fleet.tally["failed"], len(fleet.quarantined), fleet.tally["lost"] <= 2]))
"""

STRANGER = """
import os, urllib.error, urllib.request
from styleavatar3d.runtime.ray_fleet import local_head, ray_token
os.environ.update(ray_token())
with local_head() as address:
    try:
        urllib.request.urlopen(address + "/api/jobs/")
    except urllib.error.HTTPError as refused:
        print(refused.code)
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with a token of its own, for processes that import Ray afresh."""
    path = tmp_path_factory.mktemp("ray") / "token"
    path.write_text("0123456789abcdef" * 4)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    paths = f"{CHECKOUT}{os.pathsep}{CHECKOUT / 'tests'}"
    return {**clean, "RAY_AUTH_TOKEN_PATH": str(path), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def test_actors_do_every_unit_although_one_dies(token: dict[str, str], tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", FLEET, str(tmp_path)], env=token, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str([[unit, unit * unit] for unit in range(7)])
    assert (tmp_path / "3").stat().st_size == 2  # its first actor was killed, and another took over


HANGING = """
import json, sys
from runtime.test_fleet import squares
from functools import partial
from styleavatar3d.runtime.fleet import Fleet, FleetConfig
with Fleet.open(FleetConfig(kind="ray", workers=2, lease=40), partial(squares, sys.argv[1])) as fleet:
    done = []
    for unit, _ in fleet.run(range(40)):
        done.append(unit)
        if len(done) == 5:
            fleet.resize(1)
        if len(done) == 10:
            fleet.resize(3)
print(json.dumps([sorted(done) == list(range(40)), fleet.tally["overdue"], len(fleet.quarantined)]))
"""


def test_a_cluster_that_grows_and_shrinks_is_used_as_it_is(token: dict[str, str]):
    done = subprocess.run([sys.executable, "-c", GROWING], env=token, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[true, -1, 0, 0, true]", done.stderr


def test_an_actor_that_hangs_is_replaced_while_the_fleet_shrinks_and_grows(token: dict[str, str], tmp_path: Path):
    (tmp_path / "hang").touch()
    done = subprocess.run([sys.executable, "-c", HANGING, str(tmp_path)], env=token, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[true, 1, 0]"
    assert (tmp_path / "5").stat().st_size == (tmp_path / "3").stat().st_size == 2


@pytest.mark.timeout(3600)
def test_faults_leave_the_manifest_of_the_quiet_run_with_the_real_model(
    token: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from runtime.faults import plan_faults
    from runtime.real_model import plan_of_model
    from runtime.scenarios import suffer_with_real_model

    for name, value in token.items():
        monkeypatch.setenv(name, value)
    plan, counts = plan_of_model(8), {"kill": 2, "hang": 1, "error": 2, "cut": 2, "driver": 1}
    began = time.monotonic()
    quiet = suffer_with_real_model("inline", str(tmp_path / "quiet"), tmp_path / "a", {}, plan, 3600)
    lease = max(45.0, 2 * (time.monotonic() - began))
    planned = plan_faults(0, plan.shards, counts)
    outcome = suffer_with_real_model("ray", str(tmp_path / "set"), tmp_path / "b", planned, plan, lease)
    assert outcome.hash == quiet.hash and outcome.injected == counts and outcome.drivers == 2
    assert quiet.begun == 8 and outcome.begun <= 8 + sum(counts.values()) + 2


def test_a_job_on_a_head_of_its_own_makes_the_data_set(token: dict[str, str], tmp_path: Path, diffusion: Path):
    words = ["synthesize", "--config", "synthesis/tiny", "--run.out", str(tmp_path / "set")]
    words += ["--model.folder", str(diffusion), "--fleet.kind", "ray", "--fleet.workers", "2"]
    command = [sys.executable, str(CHECKOUT / "launch" / "submit.py"), "--", *words]
    done = subprocess.run(command, env=token, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "12/12 pictures" in done.stdout and (tmp_path / "set" / "manifest" / "000002.json").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_head_dies_with_the_submission_that_was_killed(token: dict[str, str], tmp_path: Path):
    mark = f"STYLEAVATAR3D_TEST={uuid.uuid4().hex}"
    environment = {**token, **dict([mark.split("=")])}
    command = [sys.executable, str(CHECKOUT / "launch" / "submit.py"), "--", "bench", "ops"]
    submission = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert submission.stdout is not None and submission.stdout.readline()  # the job has begun, and says so
    assert any("gcs_server" in name for name in processes_with(mark))
    submission.kill()
    submission.wait()
    deadline = time.monotonic() + 120
    while left := processes_with(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def processes_with(variable: str) -> list[str]:
    """The commands of living processes that have this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_a_head_refuses_whoever_lacks_the_token(token: dict[str, str]):
    done = subprocess.run([sys.executable, "-c", STRANGER], env=token, capture_output=True, text=True)
    assert done.stdout.strip() == "401", done.stderr
