"""Ray: actors as workers, the token that keeps strangers out, and a head of one's own for a job on this machine."""

import asyncio
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from styleavatar3d.errors import StyleAvatarError, require
from styleavatar3d.runtime.fleet import Fleet
from styleavatar3d.runtime.leash import Leashed
from styleavatar3d.runtime.worker import Answer, Lost, Task, Worker


class RayFleet(Fleet):
    """One Ray actor a worker.

    All that may work are asked for at once and Ray starts them as it finds room: that is what an autoscaling cluster
    grows by, and what is let go of lets it shrink. Ray restarts nobody: a lost actor's place is asked for anew.
    """

    def __enter__(self) -> "RayFleet":
        os.environ.update(ray_token())
        ray = self._ray = require("ray", "ray")
        self._owns = not ray.is_initialized()
        if self._owns:
            before = signal.getsignal(signal.SIGTERM)
            ray.init(address=self.config.address or None, log_to_driver=False, include_dashboard=False)
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there, which exits at once
        self._stdout = redirect_stdout(sys.stderr)  # Ray tells of every death on stdout, where a verb's result goes
        self._stdout.__enter__()
        options = {"num_cpus": 1, "num_gpus": self.config.gpus, "max_restarts": 0, "max_task_retries": 0}
        self._kind = ray.remote(**options)(Worker)
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, int] = {}
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._owns:
            self._ray.shutdown()
        self._stdout.__exit__(None, None, None)

    def _hire(self, worker: int) -> None:
        self._actors[worker] = self._kind.remote(self.setup)

    def _tell(self, worker: int, task: Task) -> None:
        self._running[self._actors[worker].do.remote(task)] = worker

    def _answers(self) -> list[Answer]:
        ready, _ = self._ray.wait(list(self._running), timeout=0.5)
        return [self._receive(reference) for reference in ready]

    def _receive(self, reference: Any) -> Answer:
        worker = self._running.pop(reference)
        try:
            return Answer(worker, *self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return Answer(worker, Lost(f"its actor died: {str(error).splitlines()[0]}"))

    def _fire(self, worker: int) -> None:
        self._ray.kill(self._actors.pop(worker), no_restart=True)
        self._running = {reference: one for reference, one in self._running.items() if one != worker}


def ray_token(path: Path | None = None) -> dict[str, str]:
    """The environment that makes every Ray process of this user ask for, and know, one secret token.

    Without it whoever reaches the port of a Ray head can run code. A token that the environment names is kept.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    if "RAY_AUTH_TOKEN" in os.environ:
        return {"RAY_AUTH_MODE": "token"}
    path = Path(
        os.environ.get("RAY_AUTH_TOKEN_PATH") or path or Path.home() / ".config" / "styleavatar3d" / "ray-token"
    )
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


@contextmanager
def local_head(seconds: float = 120) -> Iterator[str]:
    """A Ray head of our own on this machine, on free ports; yields its dashboard's address and ends it.

    `ray stop` would end every Ray process of the machine. The head that blocks ends its own when it is terminated, and
    it is when this process ends, even killed.
    """
    options = ["port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"]
    options += ["runtime-env-agent-port", "metrics-export-port", "ray-client-server-port"]
    ports = dict(zip(options, _free_ports(len(options)), strict=True))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "head.log")
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}"]
        command += [f"--{option}={port}" for option, port in ports.items()]
        environment = {**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # the job is over by then
        with log.open("wb") as file:
            head = Leashed(command, file, environment)
        try:
            yield _wait_for_head(f"http://127.0.0.1:{ports['dashboard-port']}", head, log, seconds)
        finally:
            head.end()


def _wait_for_head(address: str, head: Leashed, log: Path, seconds: float) -> str:
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + seconds
    while not head.ended() and time.monotonic() < deadline:
        with suppress(OSError, RuntimeError):
            JobSubmissionClient(address)
            return address
        time.sleep(0.5)
    raise StyleAvatarError("the Ray head did not start", got=log.read_text(errors="replace")[-2000:])


def run_job(address: str, entrypoint: str, runtime_env: dict[str, Any]) -> bool:
    """Submit a job, show its log until it ends. Returns whether it succeeded."""
    from ray.exceptions import RayError
    from ray.job_submission import JobStatus, JobSubmissionClient

    async def show() -> None:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)

    try:
        client = JobSubmissionClient(address)
        job = _submit(client, entrypoint, runtime_env)
    except (OSError, RuntimeError, RayError) as error:
        raise StyleAvatarError(
            f"the Ray cluster takes no job: {error}", got=address, remedy="check the address, the port and the token"
        ) from error
    asyncio.run(show())
    return client.get_job_status(job) == JobStatus.SUCCEEDED


def _submit(client: Any, entrypoint: str, runtime_env: dict[str, Any], patience: float = 60) -> str:
    """A head answers some seconds before its job agent does."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
