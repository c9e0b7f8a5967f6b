"""A network that learns: one interface, whether a process holds the whole optimizer or under ZeRO a part of it.

The moving average of the weights is one more slot of the optimizer's state, beside Adam's moments. So whatever shares
the state out among processes shares it too, and a step needs no other communication for it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from styleavatar3d.errors import ConfigError, StyleAvatarError, require
from styleavatar3d.runtime.distributed import World

SLOTS = ("exp_avg", "exp_avg_sq", "average")
"""what the optimizer keeps of each parameter, in the parameter's shape"""


class AveragedAdamW(torch.optim.AdamW):
    """AdamW that also keeps a moving average of each parameter; `average_weight` of a group is the share of the new."""

    def begin(self, parameters: list[Tensor]) -> None:
        """Make the state before the first step; the average is what the parameters are."""
        for parameter in parameters:
            self.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
                "average": parameter.detach().clone(),
            }

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["average"].lerp_(parameter, group["average_weight"])
        return loss


class Learner:
    """A network and its optimizer. Called like the network, it computes with the weights that learn.

    Every process of the world makes each call: some of them communicate.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: AveragedAdamW,
        world: World,
        batch: int,
        precision: str = "fp32",
        clip: float = 1.0,
        compiled: bool = False,
        saved: dict[str, Tensor] | None = None,
    ):
        """`saved` is what `tensors` gave, under any number of processes and any stage of ZeRO.

        `precision` is that of the network's arithmetic, fp32 or bf16; weights and state are kept in fp32 in any case.
        `clip` is the largest norm of the gradient, `batch` the number of samples that all processes take in a step.

        Raises:
            StyleAvatarError: `saved` is of another network, the batch cannot be shared out, or the machine profile
                and these settings contradict each other
        """
        self.network, self.optimizer, self.world = network, optimizer, world
        self.batch, self.precision, self.clip, self.compiled = batch, precision, clip, compiled
        if saved:
            _check(saved, network)
            network.load_state_dict({name: saved[f"network.{name}"] for name in network.state_dict()})
        masters = self._join()
        if compiled:
            network.compile()
        optimizer.begin(masters)
        self._link()
        if saved:
            for name, parameter in network.named_parameters():
                for slot in SLOTS:
                    self._write(parameter, saved[f"{slot}.{name}"], slot)
            for master in masters:
                optimizer.state[master]["step"].copy_(saved["steps"])

    def __call__(self, *inputs: Any) -> Tensor:
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(*inputs).float()

    def step(self, loss: Tensor, rate: float, average_weight: float) -> None:
        """One step down the gradient of the mean loss of all processes."""
        for group in self.optimizer.param_groups:
            group["lr"], group["average_weight"] = rate, average_weight
        self._descend(loss)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a later Learner needs to go on exactly, whole on every process."""
        found = {f"network.{name}": self._read(parameter) for name, parameter in self.network.named_parameters()}
        for slot in SLOTS:
            found |= {f"{slot}.{name}": self._read(p, slot) for name, p in self.network.named_parameters()}
        return found | {"steps": next(iter(self.optimizer.state.values()))["step"]}

    @torch.no_grad()
    def average_into(self, network: nn.Module) -> None:
        """Put the averaged weights into a network of the same make."""
        for mine, other in zip(self.network.parameters(), network.parameters(), strict=True):
            other.copy_(self._read(mine, "average"))

    # --- what ZeRO does otherwise ---

    def _join(self) -> list[Tensor]:
        """Ready for training; returns what the optimizer steps, the parameters in fp32 or this process's parts."""
        return list(self.network.parameters())

    def _link(self) -> None:
        """Called once the optimizer's state is there."""

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.world.average_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()

    def _read(self, parameter: Tensor, slot: str = "") -> Tensor:
        return self.optimizer.state[parameter][slot] if slot else parameter.detach()

    @torch.no_grad()
    def _write(self, parameter: Tensor, value: Tensor, slot: str = "") -> None:
        self._read(parameter, slot).copy_(value)


class ZeroLearner(Learner):
    """The same with optimizer, gradients or weights shared out by DeepSpeed (arXiv:1910.02054), stages 1 to 3."""

    def __call__(self, *inputs: Any) -> Tensor:
        return self._engine(*inputs).float()

    def _join(self) -> list[Tensor]:
        if self.compiled and self.world.zero == 3:
            raise ConfigError(
                "ZeRO-3 fetches weights in the middle of what torch.compile would make one piece",
                got="train.compile with zero_stage 3", expected="one of them", remedy="use ZeRO-1 or ZeRO-2",
            )  # fmt: skip
        self._tools = require("deepspeed.utils", "deepspeed")
        exact = {name: parameter.detach().clone() for name, parameter in self.network.named_parameters()}
        self._engine = self.world.share_out(
            self.network,
            self.optimizer,
            train_batch_size=self.batch,
            train_micro_batch_size_per_gpu=self.world.share(self.batch),
            gradient_accumulation_steps=1,
            gradient_clipping=self.clip,
            bf16={"enabled": self.precision == "bf16"},
        )
        for name, parameter in self.network.named_parameters():
            self._write(parameter, exact[name])  # in bf16 DeepSpeed has begun with rounded weights
        if self.world.zero == 3:
            return self._engine.optimizer.fp32_partitioned_groups_flat
        return [part for group in self.optimizer.param_groups for part in group["params"]]

    def _link(self) -> None:
        if self.world.zero < 3:  # stage 3 looks the state up each time
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _descend(self, loss: Tensor) -> None:
        self._engine.backward(loss)
        self._engine.step()

    def _read(self, parameter: Tensor, slot: str = "") -> Tensor:
        tools = self._tools
        return (
            tools.safe_get_full_optimizer_state(parameter, slot) if slot else tools.safe_get_full_fp32_param(parameter)
        )

    @torch.no_grad()
    def _write(self, parameter: Tensor, value: Tensor, slot: str = "") -> None:
        tools = self._tools
        if self.world.zero < 3:
            write_state, write = tools.safe_set_full_optimizer_state, tools.safe_set_full_fp32_param
        else:  # its setters of whole tensors fail where the processes do not divide one
            write_state, write = tools.safe_set_local_optimizer_state, tools.safe_set_local_fp32_param
            value = part(value, self.world)
        write_state(parameter, value, slot) if slot else write(parameter, value)


def learner(network: nn.Module, optimizer: AveragedAdamW, world: World, **settings: Any) -> Learner:
    """The Learner for what the world was launched as; the settings are those of Learner."""
    return (ZeroLearner if world.zero else Learner)(network, optimizer, world, **settings)


def part(whole: Tensor, world: World) -> Tensor:
    """This process's part of a tensor, flat; parts are equally long, the last ones are filled up with zeros."""
    length = -(-whole.numel() // world.size)
    padded = nn.functional.pad(whole.flatten(), (0, length * world.size - whole.numel()))
    return padded[world.rank * length : (world.rank + 1) * length]


def _check(saved: dict[str, Tensor], network: nn.Module) -> None:
    """Refuse a checkpoint of another network."""
    shapes = {f"{part}.{name}": p.shape for name, p in network.named_parameters() for part in ("network", *SLOTS)}
    shapes["steps"] = torch.Size()
    if wrong := [name for name in {**saved, **shapes} if name not in saved or saved[name].shape != shapes.get(name)]:
        raise StyleAvatarError(
            "the checkpoint is of another network",
            got=f"{len(wrong)} tensors that do not fit, such as {sorted(wrong)[0]}",
            expected="the config that the run began with",
            remedy="resume with that config, or start anew with another --run.out",
        )
