"""Adaptive discriminator augmentation (Karras et al. 2020, "Training GANs with limited data"), with cameras.

Reals and fakes are turned and tinted alike before the discriminator sees them, with a probability that a controller
steers by how sure the discriminator is of reals. Everything that moves a picture is a change of camera, and the label
follows: a mirrored picture has the mirrored camera, a turned one a rolled camera, a shifted or scaled one another
principal point or focal length. What no camera could do (quarter turns of the figure, stretching) is left out.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from styleavatar3d.camera.cameras import mirror_labels
from styleavatar3d.config import Strict

GATES: tuple[str, ...] = ("mirror", "shift", "scale", "turn", "brightness", "contrast", "saturation", "hue")
DRAWS = len(GATES) + 9
"""Uniform numbers that one image needs: a gate for each change, then its amounts (two for a shift, none to mirror) and
one more coin for the mirror."""


class AugmentConfig(Strict):
    """Spread of each change (standard deviations; 0 leaves it out), and the controller.

    Spreads of colour are the paper's. `target` is the mean sign of the discriminator's output on reals that the
    controller aims at; the probability can go from 0 to 1 within `speed_kimg`.
    """

    active: bool = False
    target: float = Field(default=0.6, gt=-1, lt=1)
    speed_kimg: float = Field(default=500.0, gt=0)
    start: float = Field(default=0.0, ge=0, le=1)
    most: float = Field(default=0.8, gt=0, le=1)
    """beyond which what the discriminator sees augmented would leak into what is made"""
    mirror: bool = True
    shift: float = Field(default=0.06, ge=0)
    """of the picture's side"""
    scale: float = Field(default=0.2, ge=0)
    """powers of two"""
    turn: float = Field(default=8.0, ge=0)
    """degrees about the camera's axis"""
    brightness: float = Field(default=0.2, ge=0)
    contrast: float = Field(default=0.5, ge=0)
    """powers of two"""
    saturation: float = Field(default=1.0, ge=0)
    """powers of two"""
    hue: bool = True


class Controller(nn.Module):
    """The probability of each change, and what it is steered by. Its two numbers are part of what training changes."""

    state: Float[Tensor, "2"]

    def __init__(self, config: AugmentConfig):
        super().__init__()
        self.config = config
        self.register_buffer("state", torch.tensor([config.start, 0.0], dtype=torch.double))

    @property
    def probability(self) -> float:
        return self.state[0].item()

    @property
    def sureness(self) -> float:
        """Mean sign of real logits when it was last looked at."""
        return self.state[1].item()

    @torch.no_grad()
    def adapt(self, sign: float, images: int) -> None:
        """After a step of `images` on whose reals the discriminator's output had the mean `sign`, over all processes:
        one step of fixed length towards the target (section 3 of the paper, r_t)."""
        towards = math.copysign(1.0, sign - self.config.target) if sign != self.config.target else 0.0
        moved = self.probability + towards * images / (self.config.speed_kimg * 1000)
        self.state.copy_(torch.tensor([min(max(moved, 0.0), self.config.most), sign], dtype=torch.double))


def augment(
    pictures: Float[Tensor, "batch channel height width"],
    labels: Float[Tensor, "batch 25"],
    draws: Float[Tensor, "batch 17"],
    probability: float,
    config: AugmentConfig,
    colors: tuple[slice, ...] = (slice(0, 3),),
) -> tuple[Float[Tensor, "batch channel height width"], Float[Tensor, "batch 25"]]:
    """Pictures and the cameras that see them so; all channels move together, those in `colors` are tinted alike.

    `draws` are uniform in [0, 1), keyed by the image. Differentiable (twice) in the pictures; with probability 0
    nothing changes, to the bit.
    """
    if probability <= 0:
        return pictures, labels
    open_, amounts = (draws[:, : len(GATES)] < probability).T, draws[:, len(GATES) :].T
    gate = dict(zip(GATES, open_, strict=True))
    normal = torch.special.ndtri(amounts.clamp(1e-6, 1 - 1e-6))
    none = torch.zeros_like(normal[0])
    flip = gate["mirror"] & (amounts[0] < 0.5) & config.mirror
    shift = torch.where(gate["shift"], normal[1:3] * config.shift, none)
    scale = torch.exp2(torch.where(gate["scale"], normal[3] * config.scale, none))
    turn = torch.deg2rad(torch.where(gate["turn"], normal[4] * config.turn, none))
    pictures = _warped(pictures, flip, shift, scale, turn)
    tint, offset = _tints(gate, amounts, normal, config)
    for channels in colors:
        tinted = torch.einsum("bij,bjhw->bihw", tint.to(pictures), pictures[:, channels])
        tinted = tinted + offset.to(pictures)[:, None, None, None]
        pictures = torch.cat([pictures[:, : channels.start], tinted, pictures[:, channels.stop :]], 1)
    return pictures, moved_labels(labels, flip, shift, scale, turn)


def moved_labels(
    labels: Float[Tensor, "batch 25"], flip: Tensor, shift: Float[Tensor, "2 batch"], scale: Tensor, turn: Tensor
) -> Float[Tensor, "batch 25"]:
    """The camera that sees the picture mirrored, then turned clockwise and scaled about its middle, then shifted."""
    labels = torch.where(flip[:, None], mirror_labels(labels), labels)
    cos, sin = turn.cos(), turn.sin()
    pose, intrinsics = labels[:, :16].unflatten(1, (4, 4)).clone(), labels[:, 16:].unflatten(1, (3, 3)).clone()
    centre = intrinsics[:, :2, 2] - 0.5
    right, down = pose[:, :, 0].clone(), pose[:, :, 1].clone()
    pose[:, :, 0] = right * cos[:, None] - down * sin[:, None]
    pose[:, :, 1] = right * sin[:, None] + down * cos[:, None]
    turned = torch.stack([centre[:, 0] * cos - centre[:, 1] * sin, centre[:, 0] * sin + centre[:, 1] * cos], 1)
    intrinsics[:, :2, :2] *= scale[:, None, None]
    intrinsics[:, :2, 2] = 0.5 + turned * scale[:, None] + shift.T
    return torch.cat([pose.flatten(1), intrinsics.flatten(1)], 1)


def _warped(pictures: Tensor, flip: Tensor, shift: Tensor, scale: Tensor, turn: Tensor) -> Tensor:
    """Bilinear; beyond its edges a picture goes on as its mirror image."""
    cos, sin = turn.cos() / scale, turn.sin() / scale
    linear = torch.stack([cos, sin, -sin, cos], 1).unflatten(1, (2, 2))  # where a pixel of the result comes from
    start = -(linear @ (2 * shift.T)[..., None])
    mirror = torch.where(flip, -1.0, 1.0)[:, None]
    source = torch.cat([linear, start], 2)
    source = torch.stack([source[:, 0] * mirror, source[:, 1]], 1)
    grid = F.affine_grid(source.to(pictures), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def _tints(
    gate: dict[str, Tensor], amounts: Tensor, normal: Tensor, config: AugmentConfig
) -> tuple[Float[Tensor, "batch 3 3"], Float[Tensor, "batch"]]:
    """Linear map of colours in [-1, 1], and what is added to all of them."""
    none = torch.zeros_like(normal[0])
    offset = torch.where(gate["brightness"], normal[5] * config.brightness, none)
    contrast = torch.exp2(torch.where(gate["contrast"], normal[6] * config.contrast, none))
    saturation = torch.exp2(torch.where(gate["saturation"], normal[7] * config.saturation, none))
    angle = torch.where(gate["hue"] & config.hue, (2 * amounts[8] - 1) * math.pi, none)
    grey = torch.full((3, 3), 1 / 3, device=normal.device)
    around = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=normal.device) / math.sqrt(3)
    plane = torch.eye(3, device=normal.device) - grey
    cos, sin, much = (x[:, None, None] for x in (angle.cos(), angle.sin(), saturation))
    hue = (plane * cos + around * sin) * much + grey
    return hue * contrast[:, None, None], offset
