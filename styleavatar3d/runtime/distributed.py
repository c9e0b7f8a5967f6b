"""Several processes that train one model: the only door to accelerate.

Which processes there are, and whether DeepSpeed shares the optimizer out among them (ZeRO), is the launcher's word;
`connect` refuses a world that is not the one it started, because each process would then train alone without a sign.
Gradients are averaged in one flat reduction after the backward pass, outside any autograd hook. So a module may be
called through any of its methods, in any number of passes, and second derivatives stay right; ranks that start equal
stay equal bit by bit, because each applies the same averaged gradient.
"""

import atexit
import logging
import os
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from styleavatar3d.errors import ConfigError, StyleAvatarError, require

PROCESSES = "STYLEAVATAR3D_PROCESSES"
"""how many processes `launch/train.sh` means to start"""


class World:
    """This process among the processes of a run."""

    def __init__(self, accelerator: Any = None):
        self._accelerator = accelerator
        self.rank = accelerator.process_index if accelerator else 0
        self.size = accelerator.num_processes if accelerator else 1
        self.device = accelerator.device if accelerator else default_device()
        plugin = accelerator.state.deepspeed_plugin if accelerator else None
        self.zero = plugin.zero_stage if plugin else 0
        """stage of ZeRO: what is shared out is the optimizer (1), the gradients too (2), the weights too (3)"""

    @property
    def main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def share(self, batch: int, multiple: int = 1) -> int:
        """This rank's part of a global batch; ConfigError unless every part is a multiple of `multiple`."""
        if batch % (self.size * multiple):
            raise ConfigError(
                "the batch cannot be shared out",
                got=f"batch {batch} over {self.size} processes",
                expected=f"a multiple of {self.size * multiple}",
                remedy="change --train.batch or the number of processes",
            )
        return batch // self.size

    def average(self, tensor: Tensor) -> Tensor:
        """Mean over all processes."""
        return tensor if self.size == 1 else self._accelerator.reduce(tensor, "mean")

    def average_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its mean over all processes; parameters without one must be the same everywhere."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def share_out(self, network: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> Any:
        """DeepSpeed's engine for the network and optimizer, with these settings of its configuration.

        Raises:
            ConfigError: the machine profile gives one of the settings another value, or moves parts off the GPU
        """
        config = self._accelerator.state.deepspeed_plugin.deepspeed_config
        check_profile(config, settings)
        config.update(settings)
        return self._accelerator.prepare(network, optimizer)[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        return flag if self.size == 1 else self.average(torch.tensor([float(flag)], device=self.device)).item() > 0

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()


def connect(threads: int = 0, zero: bool = False) -> World:
    """Join the processes that `accelerate launch` or `torchrun` started; a process started alone is a world of one.

    `threads` is the number of CPU threads of each process; 0 leaves what OMP_NUM_THREADS or torch chose. `zero` says
    that the caller can train under DeepSpeed's ZeRO.

    Raises:
        StyleAvatarError: the launcher asked for an engine, a precision or a number of processes that would not be had
    """
    if threads:
        torch.set_num_threads(threads)
    size, deepspeed = _asked(zero)
    if size == 1 and not deepspeed:
        return World()
    if deepspeed:
        operators = require("deepspeed.ops", "deepspeed").__compatible_ops__
        operators["deepspeed_shm_comm"] = False  # else compiled now: a killed compiler's lock hangs every later run
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of DeepSpeed's calls
    from accelerate import Accelerator, InitProcessGroupKwargs

    cpu = not torch.cuda.is_available()
    # with cpu=True accelerate leaves DeepSpeed out without a word, without a backend it believes each process alone
    options: dict[str, Any] = {"kwargs_handlers": [InitProcessGroupKwargs(backend="gloo")]} if cpu else {}
    accelerator: Any = Accelerator(cpu=cpu and not deepspeed, mixed_precision="no", **options)
    atexit.register(accelerator.state.destroy_process_group)  # at an exit without it gloo's threads may abort
    world = World(accelerator)
    if world.zero:  # else transformers would share out every network it loads, and wait for who loads none
        accelerator.state.deepspeed_plugin.dschf = None
    if world.size != size or bool(world.zero) != deepspeed:
        raise StyleAvatarError(
            "the processes did not come together as they were launched",
            got=f"{world.size} processes, ZeRO stage {world.zero}",
            expected=f"{size} processes, DeepSpeed {'with a zero_stage of 1, 2 or 3' if deepspeed else 'off'}",
            remedy="start them with launch/train.sh and a profile of cluster/accelerate",
        )
    return world


def _asked(zero: bool) -> tuple[int, bool]:
    """How many processes the launcher started, and whether it asked for DeepSpeed; refuses what would be ignored."""
    size, deepspeed = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if size != int(os.environ.get(PROCESSES, size)):
        raise StyleAvatarError(
            "fewer or more processes run than the machine profile says",
            got=size, expected=f"{os.environ[PROCESSES]} ({PROCESSES})",
            remedy="on a CPU the profile needs distributed_type MULTI_GPU or DEEPSPEED, as in cpu-2.yaml",
        )  # fmt: skip
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) != "no":
        raise ConfigError(
            "precision belongs to the run's config, not to the machine profile",
            got=f"mixed_precision {precision}", expected='mixed_precision "no"',
            remedy="--train.precision bf16 where the stage has that key",
        )  # fmt: skip
    if deepspeed and not zero:
        refuse_deepspeed("this stage", "only pictures are shared out", "launch/train.sh cpu-2 or gpu-8")
    return size, deepspeed


def check_profile(profile: dict[str, Any], settings: dict[str, Any]) -> None:
    """Refuse a DeepSpeed configuration that these settings would override, or under which no average is kept."""
    for name, value in settings.items():
        if profile.get(name, "auto") not in ("auto", value) and profile[name] != {"enabled": False}:
            raise ConfigError(
                f"{name} belongs to the run's config, not to the machine profile",
                got=f"{profile[name]} in the profile, {value} by the config",
                remedy=f"take {name} out of the profile",
            )
    offloads = [profile["zero_optimization"].get(f"offload_{part}") or {} for part in ("optimizer", "param")]
    if any(offload.get("device", "none") != "none" for offload in offloads):
        raise ConfigError(
            "the machine profile moves parts off the GPU",
            got="offload_optimizer_device or offload_param_device",
            expected="none: DeepSpeed would train with an optimizer of its own, which keeps no averaged weights",
            remedy="use more processes or a higher zero_stage",
        )


def refuse_deepspeed(training: str, reason: str, remedy: str) -> None:
    """Raises ConfigError if `accelerate launch` was told to shard a training by DeepSpeed that cannot be."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() in ("1", "true", "yes"):
        raise ConfigError(
            f"{training} does not run under DeepSpeed: {reason}",
            got="a profile with distributed_type: DEEPSPEED",
            expected="MULTI_GPU, as in cluster/accelerate/gpu-8.yaml",
            remedy=remedy,
        )


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def parameter_count(modules: Iterable[nn.Module]) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for module in modules for p in module.parameters())
