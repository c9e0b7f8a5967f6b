"""What a run reports: JSON lines always, Weights & Biases on request. A tracker that fails never stops a training."""

import json
import logging
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from styleavatar3d.config import Strict
from styleavatar3d.errors import require
from styleavatar3d.runtime.storage import Storage

LOG = "log.jsonl"
log = logging.getLogger(__name__)


class TrackConfig(Strict):
    """`wandb: offline` writes a run folder that `wandb sync` uploads later; `seconds` lie between two lines of log."""

    wandb: Literal["off", "offline", "online"] = "off"
    project: str = "styleavatar3d"
    seconds: float = 10.0


class Tracker:
    """Log of one run, kept by its main process. Steps are the run's own count (images seen), so that a resume fits."""

    def __init__(self, config: TrackConfig, storage: Storage, settings: dict[str, Any], step: int):
        self._storage = storage
        local = storage.local_path(LOG)
        self._temporary = None if local else TemporaryDirectory()
        self._path = local or Path(self._temporary.name if self._temporary else "") / LOG
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_lines_after(step)
        self._wandb = self._start_wandb(config, settings) if config.wandb != "off" else None

    def report(self, step: int, values: dict[str, float]) -> None:
        """Append one line."""
        line = {"step": step, "time": round(time.time(), 2)} | values
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._to_wandb(values | {"images seen": step})

    def picture(self, name: str, data: bytes) -> None:
        """Publish a picture or film under `name` in the run; PNGs go to the tracker too."""
        self._storage.publish(name, data)
        if self._wandb is not None and name.endswith(".png"):
            import io

            from PIL import Image

            image = require("wandb", "wandb").Image(Image.open(io.BytesIO(data)))
            self._to_wandb({Path(name).parent.name or "picture": image})

    def table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Hand a table to the tracker; the run keeps what is in it in files of its own."""
        if self._wandb is not None:
            table = self._guard(require("wandb", "wandb").Table, columns=columns, data=rows)
            self._to_wandb({name: table})

    def flush(self) -> None:
        """Make the log visible where the run is stored."""
        if self._temporary and self._path.exists():
            self._storage.publish(LOG, self._path.read_bytes())

    def close(self) -> None:
        self.flush()
        if self._wandb is not None:
            self._guard(self._wandb.finish)

    def _drop_lines_after(self, step: int) -> None:
        """Forget what a killed run reported beyond the checkpoint it resumes from, so that no line comes twice."""
        if self._temporary and self._storage.exists(LOG):
            self._path.write_bytes(self._storage.read(LOG))
        if self._path.exists():
            lines = [line for line in self._path.read_text().splitlines() if _step_of(line) <= step]
            self._path.write_text("".join(line + "\n" for line in lines))

    def _start_wandb(self, config: TrackConfig, settings: dict[str, Any]) -> Any:
        wandb = require("wandb", "wandb")
        folder = str(self._path.parent)
        return self._guard(wandb.init, project=config.project, mode=config.wandb, config=settings, dir=folder)

    def _to_wandb(self, values: dict[str, Any]) -> None:
        if self._wandb is not None:
            self._guard(self._wandb.log, values)

    def _guard(self, call: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except Exception as error:  # a tracker's failure is no reason to lose a run; the JSON lines go on
            log.warning("tracking with Weights & Biases ended: %s", error)
            self._wandb = None
            return None


class Progress:
    """Mean values and speed since the last line, and a line on stderr with the time left."""

    def __init__(self, name: str, total: int, position: int, seconds: float):
        self.name, self.total, self.seconds = name, total, seconds
        self.rate = 0.0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._since, self._from = time.monotonic(), position

    def add(self, values: dict[str, float]) -> None:
        """Values of one step; a value need not come with every step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1

    def due(self) -> bool:
        return time.monotonic() - self._since >= self.seconds

    def line(self, position: int) -> dict[str, float]:
        """Means since the last call, with the rate in images per second and the seconds left; also printed."""
        now = time.monotonic()
        self.rate = (position - self._from) / max(now - self._since, 1e-9)
        left = (self.total - position) / max(self.rate, 1e-9)
        values = {name: round(total / self._counts[name], 5) for name, total in self._sums.items()}
        self._sums, self._counts, self._since, self._from = {}, {}, now, position
        text = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
        share = f"{position:,}/{self.total:,}"
        print(f"{self.name}  {share}  {self.rate:.1f}/s  {clock(left)} left  {text}", file=sys.stderr, flush=True)
        return values | {"rate": round(self.rate, 2), "seconds_left": round(left, 1)}


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # a line torn by a kill
