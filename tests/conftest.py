"""Fixtures that several packages share."""

import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("styleavatar3d", "typecheck.check")  # shapes and types are checked under pytest only


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test draws the same numbers each time, alone or in the suite: a failure can be looked at again."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real S3 server process (moto), alive for the whole session."""
    pytest.importorskip("moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "server.log").open("wb")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield _wait_until_it_answers(f"http://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        server.wait(60)
        log.close()


@pytest.fixture
def s3_server(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The `s3://` URL of a new, empty bucket; the environment holds the endpoint and the credentials."""
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**credentials, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    bucket = f"avatars-{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT"))
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random pipeline, saved as any diffusers pipeline is."""
    import torch

    from styleavatar3d.miniature.models import MiniatureModels, build_pipeline, save_pipeline

    torch.manual_seed(0)
    sizes = MiniatureModels(
        text_width=16, text_layers=1, image_width=16, image_layers=1, embedding=16,
        codec_width=8, codec_blocks=(1, 1, 1), latent_channels=4, unet_channels=(16, 16, 16), heads=2,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("diffusion")
    save_pipeline(folder, *build_pipeline(sizes))
    return folder


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 280
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return url
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start (exit code {server.poll()})")
