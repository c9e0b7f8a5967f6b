"""What a training of the generator needs, before it is begun: networks are built without memory, on the meta device.

Parameters are exact. Bytes kept for the backward pass are counted by running a step on tensors that hold nothing, but
for the volume renderer where it is fused: its kernels keep little more than planes and rays. Seconds are reckoned.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.discriminator import Discriminator
from styleavatar3d.gan.generator import Generator, GeneratorConfig
from styleavatar3d.gan.reconstruction import Encoder
from styleavatar3d.gan.state import companions

COPIES = {"generator": 5, "discriminator": 4, "beside": 4, "encoder": 4}
"""of each parameter: itself, its gradient, Adam's two means and, of the generator, the average"""
BACKWARD = 2.0
"""operations of a backward pass, in forward passes"""


class Machine(NamedTuple):
    """What a step really gets of a machine: operations a second in convolutions, bytes a second gathered from planes.

    Our assumptions: the first row from the miniature's 28 images a second, the second from EG3D's published 24 s a kimg
    on eight V100, scaled to one A100; neither was measured for these configs.
    """

    operations: float
    gathered: float


MACHINES = {"2 CPU cores": Machine(2.5e11, 2.5e10), "A100": Machine(3e13, 4e11)}


def plan(config: GanConfig) -> dict[str, Any]:
    """Parameters, bytes of a process and estimated seconds a kimg of `config`; nothing is trained or read."""
    with torch.device("meta"):
        networks: dict[str, nn.Module] = {
            "generator": Generator(config.model.generator),
            "discriminator": Discriminator(config.model.discriminator),
            "beside": companions(config),
        }
        if config.model.encoder:
            networks["encoder"] = Encoder(
                config.model.encoder, config.model.generator.z_dim, config.model.generator.w_dim
            )
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    kept = 4 * sum(COPIES[name] * count for name, count in parameters.items())
    plain = len(companions(config)) > 0  # cameras and poses that learn take the renderer that knows their gradients
    images = config.train.micro_batch or config.train.batch
    activations, operations = step_of(networks["generator"], networks["discriminator"], config)  # type: ignore[arg-type]
    gathered = gathered_bytes(config.model.generator, config.train.schedule.samples)
    seconds = {
        name: round(1000 * (operations / machine.operations + gathered / machine.gathered), 1)
        for name, machine in MACHINES.items()
    }
    return {
        "parameters": parameters,
        "networks_gib": round(kept / 2**30, 3),
        "activations_gib": round(images * activations / 2**30, 3),
        "renderer": "plain" if plain else "fused",
        "rendering_gib": round(images * plain * rendering_bytes(networks["generator"], config) / 2**30, 3),  # type: ignore[arg-type]
        "images_at_once": images,
        "operations_per_image": float(f"{operations:.3g}"),
        "seconds_per_kimg": seconds,
        "seconds_are": "estimated; one device, all other things in memory",
    }


def step_of(generator: Generator, judge: Discriminator, config: GanConfig) -> tuple[float, float]:
    """Bytes that the larger of the two steps keeps for its backward pass, and operations of both; of one image."""
    group = judge.config.group
    size, settings = generator.config.resolution, generator.config
    with torch.device("meta"):
        codes, label = torch.zeros(group, settings.slots, settings.w_dim), torch.zeros(group, judge.config.label_size)
        features = torch.zeros(group, settings.features, size, size, requires_grad=True)
        pictures = torch.zeros(group, judge.config.channels, *[judge.config.resolution] * 2)

    def make() -> None:
        generator.planes(codes)
        if generator.super_resolution is not None:
            generator.super_resolution(features, codes[:, -1], generator.dtype)

    made, making = watched(make)
    judged, judging = watched(lambda: judge(pictures, label))
    # the generator's step passes the discriminator once, its own once; the discriminator's sees reals and fakes
    operations = (1 + BACKWARD) * (making + 3 * judging)
    penalty = (1 + BACKWARD) * 2 * judging / config.train.penalty_interval
    return max(made + judged, 2 * judged) / group, (operations + penalty) / group


def rendering_bytes(generator: Generator, config: GanConfig) -> float:
    """Bytes that the plain renderer keeps of one image, from what a few more rays make it keep."""
    with torch.device("meta"):
        codes = torch.zeros(1, generator.config.slots, generator.config.w_dim)
        planes = generator.planes(codes)
        label, poses = torch.zeros(1, 25, requires_grad=True), torch.zeros(1, 6, requires_grad=True)
    turned = poses if config.model.discriminator.pose else None
    samples = config.train.schedule.samples
    few, many = (
        watched(partial(generator.render, planes, label, size, samples, codes=codes, enlarged=4, poses=turned))[0]
        for size in (4, 8)
    )
    return (many - few) / (8**2 - 4**2) * generator.config.resolution**2


def gathered_bytes(config: GeneratorConfig, samples: tuple[int, int]) -> float:
    """Bytes that rendering one image reads from planes and, backwards, adds to them."""
    corners = sum(4 if depth == 1 else 8 for depth in config.depths)
    levels = config.plane_resolution.bit_length() - config.coarsest.bit_length() + 1
    points = config.resolution**2 * sum(samples) * (levels if config.volume == "pyramid" else 1)
    return (1 + BACKWARD) * 4 * points * corners * config.plane_channels


def watched(work: Any) -> tuple[float, float]:
    """Bytes of the tensors that `work` keeps for a backward pass, each once, and its operations."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return float(sum(kept.values())), float(counter.get_total_flops())
