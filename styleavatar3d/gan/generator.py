"""The 3D-aware generator: latent -> codes -> planes -> views (EG3D section 4)."""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.config import Strict, validate
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.backbone import Mapping, Synthesis, join
from styleavatar3d.gan.conditioning import CameraEmbedding
from styleavatar3d.gan.planes import Planes, plane_slices, to_planes
from styleavatar3d.gan.precision import PrecisionConfig
from styleavatar3d.gan.renderer import Renderer
from styleavatar3d.gan.superresolution import SuperResolution
from styleavatar3d.runtime.random import normal
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import CONFIG_FILE, load_weights, read_json, save_weights


class GeneratorConfig(Strict):
    """Sizes of a generator; stored as config.json beside its weights.

    `resolution` is that of the rendered picture, before super-resolution; the planes have `4 * 2^(len(widths) - 1)`
    texels a side. `levels` pyramid keeps what the backbone makes at each resolution from `coarsest` on as a level,
    instead of up-sampling and adding it all. (A level is zero half a texel inside the box's faces, so very coarse ones
    would thin out whatever comes near.) `box`, `density_gain`, `near_far` (the box's faces by default) and `margin`
    (empty border along x and z) are in world units.
    """

    z_dim: int = 128
    w_dim: int = 128
    mapping_layers: int = Field(default=2, ge=1)
    mapping_width: int = Field(default=0, ge=0)
    widths: tuple[int, ...] = (128, 128, 128, 96, 48)
    resolution: int = 64
    plane_channels: int = 16
    depths: tuple[int, int, int] = (3, 1, 1)
    side_resolution: int = Field(default=1024, ge=4)
    """Texels a side up to which the planes (x, z) and (y, z) have detail. Fine detail there shows as stripes across a
    face, a plaid that adversarial training likes; the (x, y) plane draws faces."""
    levels: Literal["single", "pyramid"] = "single"
    coarsest: int = 16
    decoder_width: int = 32
    features: int = Field(default=3, ge=3)
    box: float = Field(default=0.8, gt=0)
    density_gain: float = Field(default=25.0, gt=0)
    near_far: tuple[float, float] | None = None
    spacing: Literal["depth", "disparity"] = "depth"
    margin: float = Field(default=0.0, ge=0)
    samples: tuple[int, int] = (24, 24)
    super_resolution_width: int = 0
    super_resolution: Literal[2, 4, 8] = 2
    """how much larger the picture gets where there is super-resolution; each doubling beyond the first halves its
    width"""
    camera_width: int = Field(default=0, ge=0)
    """numbers beside the latent that tell the mapping network the camera; 0 tells it nothing"""
    precision: Literal["auto", "parameter", "bfloat16"] = "auto"

    @model_validator(mode="after")
    def _consistent(self):
        if self.super_resolution_width and self.features == 3:
            raise ValueError("super-resolution needs more than the 3 features that are the raw picture")
        if self.levels == "pyramid" and self.coarsest not in [4 * 2**i for i in range(len(self.widths))]:
            raise ValueError(f"coarsest {self.coarsest} is none of the resolutions 4, 8 ... {self.plane_resolution}")
        if self.near_far is not None and not 0 < self.near_far[0] < self.near_far[1]:
            raise ValueError(f"near_far {self.near_far} is not 0 < near < far")
        if self.margin >= self.box / 2:
            raise ValueError(f"margin {self.margin} leaves nothing of the box of side {self.box}")
        return self

    @property
    def volume(self) -> str:
        """What the planes are: triplane, trigrid or pyramid."""
        if self.levels == "pyramid":
            return "pyramid"
        return "triplane" if max(self.depths) == 1 else "trigrid"

    @property
    def slots(self) -> int:
        return 2 * len(self.widths)

    @property
    def plane_resolution(self) -> int:
        return 4 * 2 ** (len(self.widths) - 1)

    @property
    def image_resolution(self) -> int:
        return self.resolution * (self.super_resolution if self.super_resolution_width else 1)


class Rendering(NamedTuple):
    """A view of each sample: pictures in [-1, 1] on mid grey (0), mask in [0, 1], depth along rays in world units."""

    image: Float[Tensor, "batch 3 height width"]
    raw: Float[Tensor, "batch 3 rows columns"]
    mask: Float[Tensor, "batch 1 rows columns"]
    depth: Float[Tensor, "batch 1 rows columns"]

    def over(self, color: float) -> Float[Tensor, "batch 3 height width"]:
        """The pictures on another grey: 1 is white, -1 black."""
        mask = self.mask
        if mask.shape[-1] != self.image.shape[-1]:
            mask = F.interpolate(mask, self.image.shape[-2:], mode="bilinear", align_corners=False)
        return self.image + (1 - mask) * color


class Jitter(NamedTuple):
    """Where along its ray each sample lies within its stratum, in [0, 1): one row an image, shared by its rays.

    Jitter of its own for every ray (also taken: one row a ray) would be learned by the generator as a texture.
    """

    coarse: Float[Tensor, "batch 1 coarse"]
    fine: Float[Tensor, "batch 1 fine"]

    @classmethod
    def middle(cls, samples: tuple[int, int], like: Tensor) -> "Jitter":
        """The middle of every stratum: what inference uses."""
        return cls(*(like.new_full((1, 1, count), 0.5).expand(len(like), 1, count) for count in samples))


def mix_styles(
    codes: Float[Tensor, "batch slots w"],
    others: Float[Tensor, "batch slots w"],
    first: int | Int[Tensor, "batch"],
) -> Float[Tensor, "batch slots w"]:
    """Codes whose slots from `first` on are those of `others`: coarse looks of one, fine looks of the other (StyleGAN,
    section 3.1)."""
    slots = torch.arange(codes.shape[1], device=codes.device)
    first = torch.as_tensor(first, device=codes.device).reshape(-1, 1)
    return torch.where((slots < first)[..., None], codes, others)


class Generator(nn.Module):
    """Mapping, synthesis of planes, renderer and optional super-resolution; told the camera only if so configured."""

    w_mean: Tensor

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config, self.precision = config, PrecisionConfig()
        channels = plane_slices(config.depths) * config.plane_channels
        inputs = config.z_dim + config.camera_width
        self.map = Mapping(inputs, config.w_dim, config.mapping_layers, config.mapping_width)
        front = config.depths[0] * config.plane_channels
        self.synthesis = Synthesis(config.widths, channels, config.w_dim, (config.side_resolution, front))
        self.renderer = Renderer(
            channels=config.plane_channels,
            hidden=config.decoder_width,
            features=config.features,
            box=config.box,
            depths=config.depths,
            density_gain=config.density_gain,
            near_far=config.near_far,
            spacing=config.spacing,
            margin=config.margin,
        )
        width, factor = config.super_resolution_width, config.super_resolution
        self.super_resolution = SuperResolution(config.features, width, config.w_dim, factor) if width else None
        self.camera = CameraEmbedding(config.camera_width) if config.camera_width else None
        self.register_buffer("w_mean", torch.zeros(config.w_dim))

    def dtype(self, part: str) -> torch.dtype:
        """The number format of "backbone", "super_resolution" or, of the planes, "renderer" on this device."""
        return self.precision.dtype(part, self.w_mean, self.config.precision)

    def mapping(
        self,
        z: Float[Tensor, "batch z"],
        truncation: float = 1.0,
        cutoff: int | None = None,
        labels: Float[Tensor, "batch 25"] | None = None,
    ) -> Float[Tensor, "batch slots w"]:
        """Codes with equal slots; `truncation` < 1 draws the first `cutoff` (default: all) towards the mean code.

        `labels` are what a generator with `camera_width` is told, the front by default; another one does not listen.
        """
        w = self.map(self.told(z, labels))
        codes = w[:, None].expand(-1, self.config.slots, -1)
        if truncation == 1:
            return codes
        drawn = self.w_mean.lerp(w, truncation)[:, None].expand_as(codes)
        return drawn if cutoff is None else mix_styles(drawn, codes, cutoff)

    def told(self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch 25"] | None) -> Float[Tensor, "batch in"]:
        """What the mapping network reads."""
        if self.camera is None:
            return z
        front = orbit_labels(torch.zeros(1), torch.zeros(1)).to(z).expand(len(z), -1)
        return self.camera(z, front if labels is None else labels)

    def planes(
        self, codes: Float[Tensor, "batch slots w"], *, resolution: int | None = None, fade: float = 1.0
    ) -> Planes:
        """Feature planes; every slot may have a code of its own (W+, see `mix_styles`).

        A smaller `resolution` leaves out the finest blocks, `fade` < 1 dims the finest one used.
        """
        config = self.config
        if codes.shape[1:] != (config.slots, config.w_dim):
            raise StyleAvatarError(
                "the codes are those of another generator",
                got=list(codes.shape),
                expected=f"[batch, {config.slots}, {config.w_dim}]",
            )
        blocks = len(config.widths) if resolution is None else (resolution // 4).bit_length()
        shares = self.synthesis.shares(codes, blocks=blocks, fade=fade, dtype=self.dtype("backbone"))
        smallest = config.coarsest if config.levels == "pyramid" else config.plane_resolution
        return Planes(tuple(to_planes(level, config.depths) for level in join(shares, smallest)))

    def render(
        self,
        planes: Planes,
        labels: Float[Tensor, "batch 25"],
        resolution: int | None = None,
        samples: tuple[int, int] | None = None,
        *,
        jitter: Jitter | None = None,
        noise: Float[Tensor, "batch rays samples"] | None = None,
        codes: Float[Tensor, "batch slots w"] | None = None,
        enlarged: int | None = None,
        poses: Float[Tensor, "batch 6"] | None = None,
    ) -> Rendering:
        """Views of `resolution`^2 rays; equal arguments give equal pictures, and planes of batch 1 serve all labels.

        `noise` is added to the raw density of each ray's coarse, then fine samples. `codes` are needed where there is
        super-resolution, which reads features `enlarged` to so many pixels, or as they are. `poses` turn neck and head
        (`deformation`); without them the figure is at rest.
        """
        size = resolution or self.config.resolution
        labels = labels.to(self.w_mean)
        coarse, fine = jitter or Jitter.middle(samples or self.config.samples, labels)
        if self.precision.renderer == "bf16":
            planes = planes.to(self.dtype("renderer"))
        features, mask, depth = self.renderer(planes, labels, size, coarse, fine, noise, poses)
        features = (features * 2 - mask[..., None]).mT.unflatten(2, (size, size))
        mask, depth = mask.view(-1, 1, size, size), depth.view(-1, 1, size, size)
        image = raw = features[:, :3]
        if self.super_resolution is not None:
            if codes is None:
                raise StyleAvatarError(
                    "this generator has super-resolution, which needs the codes", remedy="render(..., codes=codes)"
                )
            if enlarged and enlarged != size:
                features = F.interpolate(features, size=enlarged, mode="bilinear", align_corners=False)
            image = self.super_resolution(features, codes[:, -1], self.dtype("super_resolution"))
        return Rendering(image, raw, mask, depth)

    def field(
        self, planes: Planes, points: Float[Tensor, "batch point 3"]
    ) -> tuple[Float[Tensor, "batch point 3"], Float[Tensor, "batch point"]]:
        """Colour in [0, 1] and density per world unit at points of the world."""
        colors, density = self.renderer.field(planes, points)
        return colors[..., :3], density

    # --- as an avatar is shown ---

    def orbit(self, yaw: Float[Tensor, "batch"], pitch: Float[Tensor, "batch"]) -> Float[Tensor, "batch 25"]:
        """Cameras around the head, in degrees."""
        return orbit_labels(yaw, pitch)

    def pictures(
        self, planes: Planes, labels: Float[Tensor, "batch 25"], size: int, codes: Float[Tensor, "batch slots w"]
    ) -> Float[Tensor, "batch 3 size size"]:
        """Pictures of `size` pixels. Raises StyleAvatarError if super-resolution does not make that size."""
        scale = self.config.image_resolution // self.config.resolution
        if size % scale:
            raise StyleAvatarError("this size cannot be rendered", got=size, expected=f"a multiple of {scale} pixels")
        return self.render(planes, labels, size // scale, codes=codes).image

    def seen_field(
        self, planes: Planes, points: Float[Tensor, "batch point 3"], codes: Float[Tensor, "batch slots w"]
    ) -> tuple[Float[Tensor, "batch point 3"], Float[Tensor, "batch point"]]:
        """`field`: all of it is seen, and `codes` do not change it."""
        return self.field(planes, points)

    def forward(self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch 25"]) -> Rendering:
        codes = self.mapping(z, labels=labels)
        return self.render(self.planes(codes), labels, codes=codes)

    @torch.no_grad()
    def measure_mean_code(self, count: int = 4096) -> None:
        """Set `w_mean` to the mean over `count` fixed latents."""
        z = normal(0, "mean code", 0, (count, self.config.z_dim)).to(self.w_mean)
        self.w_mean.copy_(self.map(self.told(z, None)).mean(0))

    # --- files ---

    def save_pretrained(self, folder: str) -> None:
        """Write half-precision safetensors and config.json to a folder or s3:// prefix."""
        save_weights(Storage.open(folder), self, self.config.model_dump(mode="json"))

    @classmethod
    def from_pretrained(cls, folder: str, device: str | torch.device = "cpu") -> Any:
        """Read what `save_pretrained` wrote. Of an import, whose config.json names its family, a ClassicGenerator.

        Raises StyleAvatarError if something is missing or does not fit.
        """
        storage = Storage.open(folder)
        tree = read_json(storage, CONFIG_FILE)
        if tree.get("family", "light") != "light":
            from styleavatar3d.gan.imports import load_classic

            return load_classic(storage, tree, device)
        config = validate(GeneratorConfig, tree, source=f"{folder}/{CONFIG_FILE}")
        generator = cls(config)
        load_weights(generator, storage)
        return generator.to(device).eval().requires_grad_(False)
