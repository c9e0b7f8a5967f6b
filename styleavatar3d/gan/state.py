"""Everything that training changes, in one object."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.assets import shipped
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.augment import Controller
from styleavatar3d.gan.backbone import Block
from styleavatar3d.gan.camera_correction import CameraCorrection
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.deformation import PoseHead
from styleavatar3d.gan.discriminator import Discriminator
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.guard import Guard
from styleavatar3d.gan.perception import Heads, Perception
from styleavatar3d.gan.recomputation import Thrifty
from styleavatar3d.gan.reconstruction import Encoder
from styleavatar3d.runtime.checkpoint import Checkpoint, load_optimizer, optimizer_tensors
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import check_shapes, load_weights


@dataclass
class TrainState:
    """What training changes: exactly what a checkpoint holds."""

    generator: Generator
    discriminator: Discriminator
    average: Generator
    generator_optimizer: torch.optim.Adam
    discriminator_optimizer: torch.optim.Adam
    encoder: Encoder | None = None
    reconstruction_optimizer: torch.optim.Adam | None = None
    """Of encoder and generator; its own, as an optimiser shared with the adversarial loss would let the larger
    gradients set the pace of the smaller."""
    perception: Perception | None = None
    """frozen: no part of a checkpoint"""
    heads: Heads | None = None
    heads_optimizer: torch.optim.Adam | None = None
    aside: torch.nn.ModuleDict = field(default_factory=torch.nn.ModuleDict)
    """What learns with the generator and is no part of it: "correction" of cameras, "pose" of neck and head."""
    controller: Controller | None = None
    guard: Guard = field(default_factory=Guard)
    seen: int = 0
    drawing: bool = False
    """whether the generator draws codes like the encoder's, from where it goes on with a discriminator"""

    @classmethod
    def fresh(cls, config: GanConfig, device: torch.device) -> "TrainState":
        """Before the first image: drawn from the run's seed, or with the generator of `model.start`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.run.seed)
            generator = Generator(config.model.generator).to(device)
            if config.model.start:
                load_weights(generator, Storage.open(shipped(config.model.start)))
            discriminator = Discriminator(config.model.discriminator).to(device)
            reader, sizes = config.model.encoder, (config.model.generator.z_dim, config.model.generator.w_dim)
            encoder = Encoder(reader, *sizes).to(device) if reader else None
            seeing = config.model.perception
            perception = Perception.from_pretrained(seeing.folder, device) if seeing else None
            heads = None
            if seeing and perception and seeing.adversarial:
                heads = Heads(perception.widths, seeing.width, config.model.label.size).to(device)
            aside = companions(config).to(device)
        config.train.precision.check(device)
        instruct([generator, discriminator, encoder, heads], config)
        if config.train.compile:
            compile_blocks(generator, device)
        average = copy.deepcopy(generator).requires_grad_(False)
        options = {"betas": (0.0, 0.99), "eps": 1e-8, "fused": True}
        smooth: dict[str, Any] = options | {"betas": (0.9, 0.99)}  # nobody answers to what reconstructs
        return cls(
            generator,
            discriminator,
            average,
            torch.optim.Adam([*generator.parameters(), *aside.parameters()], config.train.generator_rate, **options),
            torch.optim.Adam(discriminator.parameters(), config.train.discriminator_rate, **options),
            encoder,
            torch.optim.Adam([*generator.parameters(), *encoder.parameters()], **smooth) if encoder else None,
            perception,
            heads,
            torch.optim.Adam(heads.parameters(), config.train.discriminator_rate, **options) if heads else None,
            aside,
            Controller(config.train.augment) if config.train.augment.active else None,
        )

    def networks(self) -> dict[str, torch.nn.Module]:
        networks: dict[str, torch.nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "aside": self.aside,
            "guard": self.guard,
        }
        optional = {"encoder": self.encoder, "heads": self.heads, "controller": self.controller}
        return networks | {name: part for name, part in optional.items() if part is not None}

    def optimizers(self) -> dict[str, torch.optim.Adam]:
        optimizers = {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }
        some = {"reconstruction_optimizer": self.reconstruction_optimizer, "heads_optimizer": self.heads_optimizer}
        return optimizers | {name: optimizer for name, optimizer in some.items() if optimizer}

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs, by name."""
        found = {"drawing": torch.tensor(self.drawing)} if self.encoder else {}
        found |= {
            f"{k}.{name}": value for k, net in self.networks().items() for name, value in net.state_dict().items()
        }
        for name, optimizer in self.optimizers().items():
            found |= optimizer_tensors(optimizer, name)
        return found

    def restore(self, checkpoint: Checkpoint, source: str) -> None:
        """Go back to a checkpoint. Raises StyleAvatarError if it is of other networks or parts of training."""
        for key, network in self.networks().items():
            weights = {n[len(key) + 1 :]: t for n, t in checkpoint.tensors.items() if n.startswith(key + ".")}
            check_shapes(weights, network.state_dict(), source)
            network.load_state_dict(weights)
        for name, optimizer in self.optimizers().items():
            load_optimizer(optimizer, checkpoint.tensors, name)
        self.seen = checkpoint.position
        self.drawing = bool(checkpoint.tensors.get("drawing", False))


def instruct(networks: Iterable[Any], config: GanConfig) -> None:
    """Tell networks how to compute while they train: in which formats, and what to keep for the backward pass."""
    for network in filter(None, networks):
        network.precision = config.train.precision
        for part in network.modules():
            if isinstance(part, Thrifty):
                part.checkpointing = config.train.checkpointing


def compile_blocks(generator: Generator, device: torch.device) -> None:
    """Have the generator's blocks compiled at their first use. Raises StyleAvatarError where that does not pay.

    Each by itself: fades and resolutions then recompile nothing, and the renderer is one kernel already.
    """
    if device.type != "cuda":
        raise StyleAvatarError(
            f"compiling the generator does not pay on a {device.type}", got="train.compile true",
            remedy="leave it out: compiled, the miniature's backbone took as long as before, and 23 s to compile",
        )  # fmt: skip
    for part in generator.modules():
        if isinstance(part, Block):
            part.compile()


def companions(config: GanConfig) -> torch.nn.ModuleDict:
    """What learns with the generator and is no part of it."""
    z_dim, found = config.model.generator.z_dim, torch.nn.ModuleDict()
    if config.model.correction.kind != "none":
        found["correction"] = CameraCorrection(z_dim, config.model.correction)
    if config.model.discriminator.pose:
        found["pose"] = PoseHead(z_dim + 25)
    return found
