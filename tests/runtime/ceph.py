"""A real S3 server for tests: Ceph's gateway with one monitor and one disk, on the loopback, from Debian's packages
`ceph-mon ceph-osd radosgw`. All its state is in one folder and all its processes are ours.
"""

import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests"}
CAPABILITIES = {
    "mon.": ["mon"],
    "client.admin": ["mon", "osd", "mgr"],
    "osd.0": ["mon", "osd", "mgr"],
    "client.rgw": ["mon", "osd", "mgr"],
}

CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0]
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
log file = {folder}/$name.log
run dir = {folder}
admin socket =
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
osd objectstore = bluestore
bluestore block size = 2147483648
osd memory target = 939524096
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{rgw_port}
"""
# Authentication stays on: without it the gateway never gets past asking how to authenticate.


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def gateway(folder: Path, seconds: float = 900) -> Iterator[str]:
    """The URL of a gateway that lives as long as this block and answers to `CREDENTIALS`."""
    mon_port, rgw_port = _free_port(), _free_port()
    cluster, disk = str(uuid.uuid4()), str(uuid.uuid4())
    names = {"fsid": cluster, "mon_port": mon_port, "rgw_port": rgw_port, "folder": folder}
    (folder / "conf").write_text(CONFIGURATION.format(**names))
    for name in ("mon", "osd"):
        (folder / name).mkdir()
    deadline = time.monotonic() + seconds
    with ExitStack() as daemons:
        _make_keys(folder)
        address = f"[v2:127.0.0.1:{mon_port}/0]"
        _do(folder, "monmaptool", "--create", "--fsid", cluster, "--addv", "a", address, folder / "monmap")
        _do(folder, "ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap", "--keyring", folder / "keyring")
        daemons.enter_context(_daemon(folder, "ceph-mon", "-i", "a"))
        _do(folder, "ceph", "osd", "new", disk)
        _do(folder, "ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk)
        daemons.enter_context(_daemon(folder, "ceph-osd", "-i", "0"))
        server = daemons.enter_context(_daemon(folder, "radosgw", "-n", "client.rgw"))
        _wait_for(f"http://127.0.0.1:{rgw_port}", server, deadline)
        key, secret = CREDENTIALS.values()
        user = ("--uid", key, "--display-name", key, "--access-key", key, "--secret-key", secret)
        _do(folder, "radosgw-admin", "-n", "client.rgw", "user", "create", *user)
        yield f"http://127.0.0.1:{rgw_port}"


def make_bucket(endpoint: str, name: str) -> None:
    import boto3

    key, secret = CREDENTIALS.values()
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1"
    )
    client.create_bucket(Bucket=name)


def _make_keys(folder: Path) -> None:
    (folder / "keyring").touch(0o600)
    for name, systems in CAPABILITIES.items():
        allowed = [word for system in systems for word in ("--cap", system, "allow *")]
        _do(folder, "ceph-authtool", folder / "keyring", "--gen-key", "-n", name, *allowed)


def _do(folder: Path, program: str, *words: object) -> None:
    options = [] if program in ("ceph-authtool", "monmaptool") else ["-c", str(folder / "conf")]
    command = [program, *options, *map(str, words)]
    with (folder / "commands.log").open("ab") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=600)
    assert done.returncode == 0, f"{command}: {(folder / 'commands.log').read_text(errors='replace')[-2000:]}"


@contextmanager
def _daemon(folder: Path, program: str, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """In the foreground, so that it is our child; ended by its process id."""
    with (folder / f"{program}.out").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(folder / "conf"), "-f", *words], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]", deadline: float) -> None:
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the gateway did not start (exit code {server.poll()})")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
