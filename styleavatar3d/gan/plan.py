"""What a training of the generator needs, before it is begun: networks are built without memory, on the meta device.

Parameters are exact. Bytes kept for the backward pass are counted by running a step on tensors that hold nothing, but
for the volume renderer where it is fused: its kernels keep little more than planes and rays. Where activations are
recomputed, those of one part at a time come on top. Seconds are reckoned.
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
from styleavatar3d.gan.perception import Heads, Perception
from styleavatar3d.gan.reconstruction import Encoder
from styleavatar3d.gan.state import companions, instruct

COPIES = {"generator": 5, "discriminator": 4, "beside": 4, "encoder": 4, "heads": 4, "perception": 1}
"""of each parameter: itself, its gradient, Adam's two means and, of the generator, the average; the frozen are alone"""
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
    """Parameters, bytes of a process and estimated seconds a kimg of `config`; nothing is trained."""
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
    if seeing := config.model.perception:
        networks["perception"] = perception = Perception.from_pretrained(seeing.folder, torch.device("cpu")).to("meta")
        if seeing.adversarial:
            with torch.device("meta"):
                networks["heads"] = Heads(perception.widths, seeing.width, config.model.label.size)
    instruct([networks[name] for name in ("generator", "discriminator", "heads") if name in networks], config)
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    kept = 4 * sum(COPIES[name] * count for name, count in parameters.items())
    plain = len(companions(config)) > 0  # cameras and poses that learn take the renderer that knows their gradients
    images = config.train.micro_batch or config.train.batch
    activations, operations = step_of(config, **networks)
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


def step_of(
    config: GanConfig, generator: Any, discriminator: Any, perception: Any = None, heads: Any = None, **_: Any
) -> tuple[float, float]:
    """Bytes that the largest of the steps keeps for its backward pass, and operations of all; of one image."""
    judge: Discriminator = discriminator
    group = judge.config.group
    size, settings = generator.config.resolution, generator.config
    with torch.device("meta"):
        codes, label = torch.zeros(group, settings.slots, settings.w_dim), torch.zeros(group, judge.config.label_size)
        features = torch.zeros(group, settings.features, size, size, requires_grad=True)
        pictures = torch.zeros(group, judge.config.channels, *[judge.config.resolution] * 2)
        fakes = torch.zeros(group, 3, *[judge.config.resolution] * 2, requires_grad=True)

    def make() -> None:
        generator.planes(codes)
        if generator.super_resolution is not None:
            generator.super_resolution(features, codes[:, -1], generator.dtype("super_resolution"))

    made, making = watched(make)
    judged, judging = watched(lambda: judge(pictures, label))
    seen, seeing, headed, heading = 0.0, 0.0, 0.0, 0.0
    if heads is not None:
        seen, seeing = watched(lambda: perception(fakes))
        levels = [level.detach() for level in perception(fakes)]
        headed, heading = watched(lambda: heads(levels, label))
    # the generator's step passes what judges once, the judges' own steps see reals and fakes; what is frozen has
    # gradients of its pictures only, and none in the steps of the judges
    passes = 1 + BACKWARD + config.train.checkpointing
    operations = passes * (making + 3 * (judging + heading)) + (1 + BACKWARD / 2 + 2) * seeing
    penalty = passes * 2 * (judging + heading) / config.train.penalty_interval
    return max(made + judged + seen + headed, 2 * judged, 2 * headed) / group, (operations + penalty) / group


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
