"""What the training stages share: optimizer, averaged weights, checkpoints, progress; a stage loops over a Session."""

import copy
import math
import time
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from styleavatar3d.config import config_hash
from styleavatar3d.errors import ConfigError, Stopped, StyleAvatarError
from styleavatar3d.miniature.config import MiniatureConfig, Stage, StageConfig
from styleavatar3d.runtime.checkpoint import Checkpoints, StopSignal, load_optimizer, optimizer_tensors
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import Progress, Tracker

Network = TypeVar("Network", bound=nn.Module)


class Session:
    """The state of one stage: `network`, its `average`, its optimizer, and how many `images` it has seen.

    `for step in session.steps(): session.learn(loss)` trains from wherever the last checkpoint stands. A stage that is
    done yields no step, so the same command does only what is missing.
    """

    def __init__(self, name: str, network: Any, recipe: StageConfig, config: MiniatureConfig, world: World):
        network = network.to(world.device)
        self.name, self.network, self.recipe, self.config, self.world = name, network, recipe, config, world
        self.average: Any = copy.deepcopy(network).requires_grad_(False)
        self.parameters: list[Tensor] = list(network.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.storage = Storage.open(f"{config.run.out}/{name}")
        self.checkpoints = Checkpoints(self.storage)
        self.images, self.cpu_seconds = 0, 0.0
        self._restore()

    @property
    def autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16")

    def steps(self) -> Iterator[int]:
        """Numbers of the steps still to do; saves now and then and at the end. Raises Stopped on SIGTERM or Ctrl-C."""
        if self.images >= self.recipe.images:
            return
        self.network.train()
        self.progress = Progress(self.name, self.recipe.images, self.images, self.config.track.seconds)
        self.tracker = self._tracker() if self.world.main else None
        saved, self._cpu = time.monotonic(), time.process_time()
        with StopSignal() as stop:
            while self.images < self.recipe.images:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.recipe.learning_rate * learning_rate_factor(self.images, self.recipe)
                yield self.images // self.recipe.batch
                self.images += self.recipe.batch
                self._report()
                stopping = self.world.any(stop.requested)
                if stopping or time.monotonic() - saved > self.config.train.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                if stopping:
                    raise Stopped(f"{self.name} stopped at {self.images} images", remedy="the same command goes on")
        self._save()
        if self.tracker:
            self.tracker.close()

    def spent(self) -> dict[str, int]:
        """Pictures seen, and CPU seconds of all processes; every process has to ask."""
        own = torch.tensor(self.cpu_seconds, dtype=torch.float64, device=self.world.device)
        seconds = self.world.average(own) * self.world.size
        return {"images": self.images, "cpu_seconds": round(seconds.item())}

    def learn(self, loss: Tensor, **values: Tensor | float) -> None:
        """One optimizer step on `loss`; `values` are reported beside it."""
        if not torch.isfinite(loss):
            raise StyleAvatarError(
                f"the loss of {self.name} is {loss.item()} at {self.images} images",
                remedy=f"lower --train.{self.name}.learning_rate, or use --train.precision fp32",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.world.average_gradients(self.network)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self._update_average()
        values |= {"loss": loss}
        self.progress.add({name: float(torch.as_tensor(value).detach()) for name, value in values.items()})

    @torch.no_grad()
    def _update_average(self) -> None:
        half_life = min(self.recipe.average, max(self.images, self.recipe.batch) / 4)  # forget the start quickly
        weight = 1 - 0.5 ** (self.recipe.batch / half_life)
        torch._foreach_lerp_(list(self.average.parameters()), self.parameters, weight)

    def _report(self) -> None:
        if not self.progress.due():
            return
        if self.tracker:
            self.tracker.report(self.images, self.progress.line(self.images))

    def _save(self) -> None:
        now = time.process_time()
        self.cpu_seconds, self._cpu = self.cpu_seconds + now - self._cpu, now
        if self.world.main:
            tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
            tensors |= optimizer_tensors(self.optimizer, "optimizer")
            self.checkpoints.save(self.images, tensors, {"identity": self._identity(), "cpu_seconds": self.cpu_seconds})

    def _restore(self) -> None:
        if (checkpoint := self.checkpoints.latest()) is None:
            return
        if checkpoint.scalars["identity"] != self._identity():
            raise ConfigError(
                f"{self.storage} holds a {self.name} stage of another config",
                remedy="use the config it was started with, or another --run.out",
            )
        self.network.load_state_dict(_part(checkpoint.tensors, "network."))
        self.average.load_state_dict(_part(checkpoint.tensors, "average."))
        load_optimizer(self.optimizer, checkpoint.tensors, "optimizer")
        self.images, self.cpu_seconds = checkpoint.position, checkpoint.scalars["cpu_seconds"]

    def _identity(self) -> str:
        return stage_identity(self.name, self.config)

    def _tracker(self) -> Tracker:
        return Tracker(self.config.track, self.storage, self.config.model_dump(mode="json"), self.images)


def learning_rate_factor(images: int, recipe: StageConfig) -> float:
    """Linear warm-up, then a cosine from 1 to 0.02."""
    warm = min(1.0, (images + recipe.batch) / max(recipe.warmup, 1))
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * images / recipe.images)))


def stage_identity(name: str, config: MiniatureConfig) -> str:
    """A hash of what makes a stage what it is: seed, its own data, sizes and its own recipe."""
    recipe = getattr(config.train, name)
    others = {f"{reader}_renders": 8 for reader in ("judge", "estimator") if not name.startswith(reader)}
    only = config.model_copy(
        update={
            "run": config.run.model_copy(update={"out": ""}),
            "data": config.data.model_copy(update={"workers": 1} | others),
            "train": config.train.model_copy(
                update={stage: recipe for stage in get_args(Stage)}
                | {"stages": (), "threads": 1, "checkpoint_seconds": 1.0}
            ),
            "track": type(config.track)(),
        }
    )
    return config_hash(only)


def trained(name: str, network: Network, config: MiniatureConfig) -> Network:
    """`network` with the averaged weights of a stage that is done. Raises StyleAvatarError when it is not."""
    checkpoint = Checkpoints(Storage.open(f"{config.run.out}/{name}")).latest()
    images = getattr(config.train, name).images
    if checkpoint is None or checkpoint.position < images:
        raise StyleAvatarError(
            f"the stage '{name}' has to be done first",
            got=f"{checkpoint.position if checkpoint else 0} of {images} images",
            remedy=f"run it with --train.stages {name}",
        )
    network.load_state_dict(_part(checkpoint.tensors, "average."))
    return network.eval().requires_grad_(False)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
