"""Sizes of the ancestors' networks: EG3D, PanoHead and Portrait3D's pyramid.

Every size is a setting. `PRESETS` and `DISCRIMINATOR_PRESETS` hold the published full-size networks with their number
of parameters.
"""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from styleavatar3d.config import Strict
from styleavatar3d.gan.stylegan2 import Noise, block_resolutions

Family = Literal["eg3d", "panohead", "pyramid"]
FAMILIES = ("eg3d", "panohead", "pyramid")
CAMERA_NUMBERS = 25
FACTORS = {"2x": 2, "4x": 2, "8x": 4, "8xdc": 4}
"""image over input size of each super-resolution module (the names count from the smallest rays)"""


class ClassicRendering(Strict):
    """Where rays are sampled. Lengths are world units; "auto" for both `near` and `far` is the box itself."""

    samples: tuple[PositiveInt, int] = (48, 48)
    near: float | Literal["auto"] = 2.25
    far: float | Literal["auto"] = 3.3
    box: PositiveFloat = 1.0
    disparity: bool = False
    white_background: bool = False
    crop: float | None = Field(default=None, ge=0)
    """empty the field beyond box / 2 - crop in x and z, in pictures only"""
    cull: float | None = Field(default=None, ge=0, le=1)
    """empty the field where a unit of its density lets more than 1 - cull of the light through"""

    @model_validator(mode="after")
    def _consistent(self):
        if (self.near == "auto") != (self.far == "auto"):
            raise ValueError("near and far are both numbers or both auto")
        if not isinstance(self.near, str) and not isinstance(self.far, str) and self.near >= self.far:
            raise ValueError(f"near {self.near} is not before far {self.far}")
        coarse, fine = self.samples
        if fine < 0 or coarse < (4 if fine else 2):
            raise ValueError("needs 2 coarse samples, 4 with importance samples, and no negative number of those")
        return self


class ClassicCamera(Strict):
    """The camera that training saw from the front: distance, aim and focal length over image size."""

    radius: PositiveFloat = 2.7
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)
    focal: PositiveFloat = 4.2647


class ClassicDecoder(Strict):
    """Features of a point -> density and colour features: one hidden layer."""

    width: PositiveInt = 64
    features: int = Field(default=32, ge=3)
    colors: Literal["sigmoid", "none", "lrelu"] = "sigmoid"
    lr_multiplier: PositiveFloat = 1.0


class ClassicBackground(Strict):
    """A synthesis network for what lies behind the volume, driven by the same codes."""

    resolution: PositiveInt = 128
    channel_base: PositiveInt = 16384
    channel_max: PositiveInt = 512


class ClassicSuperResolution(Strict):
    """`noise` is that of its layers; `clamp` bounds their results as half precision wanted it."""

    module: Literal["2x", "4x", "8x", "8xdc"] = "8xdc"
    antialias: bool = True
    noise: Noise = "none"
    clamp: PositiveFloat | None = 256.0


class ClassicConfig(Strict):
    """A generator of one of the three families; stored as config.json beside its weights."""

    family: Family
    z_dim: PositiveInt = 512
    w_dim: PositiveInt = 512
    label_size: int = Field(default=CAMERA_NUMBERS, ge=0)
    """numbers that condition the mapping: the camera's 25, then those of the body pose"""
    label_scale: float = 1.0
    label_zeroed: bool = False
    mapping_layers: PositiveInt = 2
    channel_base: PositiveInt = 32768
    channel_max: PositiveInt = 512
    clamp: PositiveFloat | None = None
    plane_resolution: int = Field(default=256, ge=4)
    """of the finest level"""
    plane_channels: PositiveInt = 32
    grid_depth: PositiveInt | None = None
    """slices of each plane, sampled in three dimensions; None is a true plane"""
    third_plane: Literal["zx", "yz"] = "yz"
    """"zx" repeats the second plane as EG3D does: for imports only"""
    decoder: ClassicDecoder = ClassicDecoder()
    rendering: ClassicRendering = ClassicRendering()
    camera: ClassicCamera = ClassicCamera()
    raw_layer: bool = False
    """the raw picture comes from a to-image layer; otherwise it is the first three features"""
    background: ClassicBackground | None = None
    camera_shift: bool = False
    """a network of (z, label) moves the camera"""
    convolutions: Literal["fp32", "bf16"] = "fp32"
    """what they multiply in: bf16 is faster where the processor has it, and off by up to one per cent"""
    pose_numbers: int = Field(default=0, ge=0)
    """body-pose numbers that a network of (z, camera) predicts"""
    neural_resolution: PositiveInt = 64
    image_resolution: PositiveInt = 512
    super_resolution: ClassicSuperResolution | None = ClassicSuperResolution()

    @model_validator(mode="after")
    def _consistent(self):
        if (self.family == "eg3d") != (self.grid_depth is None):
            raise ValueError("eg3d has true planes (grid_depth null); panohead and pyramid have grids of a depth")
        if self.grid_depth and self.third_plane == "zx":
            raise ValueError("only true planes may repeat the second plane")
        for name in ("plane_resolution", "image_resolution"):
            size = getattr(self, name)
            if size & (size - 1):
                raise ValueError(f"{name} {size} is no power of two")
        if self.super_resolution is None and self.image_resolution != self.neural_resolution:
            raise ValueError("without super-resolution the image has the neural resolution")
        if self.background and not self.raw_layer:
            raise ValueError("a background is composed before the raw layer: raw_layer has to be true")
        if self.family == "pyramid" and self.plane_resolution < 8:
            raise ValueError("the coarsest level of a pyramid has 8 texels a side")
        return self

    @property
    def box(self) -> float:
        """Side of the volume in world units."""
        return self.rendering.box

    @property
    def backbone_resolution(self) -> int:
        """Of the picture branch; a pyramid's level has twice the size of the block that it grows from."""
        return self.plane_resolution // 2 if self.family == "pyramid" else self.plane_resolution

    @property
    def level_resolutions(self) -> list[int]:
        """Texels a side of each level, coarse to fine; one level unless this is a pyramid."""
        if self.family != "pyramid":
            return [self.plane_resolution]
        return [2 * size for size in block_resolutions(self.backbone_resolution)]

    @property
    def slots(self) -> int:
        """Style slots of the backbone."""
        return 2 * len(block_resolutions(self.backbone_resolution))

    @property
    def super_resolution_input(self) -> int:
        """Size to which features are brought before super-resolution."""
        return self.image_resolution // FACTORS[self.super_resolution.module] if self.super_resolution else 0


class ClassicDiscriminatorConfig(Strict):
    """A residual discriminator on the image beside the resized raw image and, if it looks at masks, the resized mask.

    `mask_tower` gives the mask a tower of its own, added at 4 x 4; otherwise it is a seventh channel.
    """

    family: Family
    resolution: PositiveInt = 512
    label_size: int = Field(default=CAMERA_NUMBERS, ge=0)
    channel_base: PositiveInt = 32768
    channel_max: PositiveInt = 512
    clamp: PositiveFloat | None = 256.0
    mask: bool = False
    mask_tower: bool = False
    mask_tower_resolution: PositiveInt | None = None
    group: PositiveInt = 4
    deviation_channels: int = Field(default=1, ge=0)
    mapping_layers: PositiveInt = 8
    label_noise: float = Field(default=0.0, ge=0)
    """in standard deviations of the labels of the batch"""
    resize: Literal["antialiased", "none", "classic"] | float = "antialiased"
    pose_numbers: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self):
        if self.mask_tower and not self.mask:
            raise ValueError("a mask tower needs mask: true")
        if self.resolution & (self.resolution - 1) or self.resolution < 8:
            raise ValueError(f"resolution {self.resolution} is no power of two from 8 up")
        return self


_GRID = {"grid_depth": 3, "raw_layer": True}

PRESETS: dict[str, tuple[ClassicConfig, int]] = {
    "eg3d": (ClassicConfig(family="eg3d", camera=ClassicCamera(pivot=(0, 0, 0.2))), 30_662_136),
    "panohead": (
        ClassicConfig(
            family="panohead", **_GRID, decoder=ClassicDecoder(colors="none"), background=ClassicBackground(),
            rendering=ClassicRendering(crop=0.1), camera_shift=True,
        ),
        53_741_548,
    ),
    "pyramid": (
        ClassicConfig(
            family="pyramid", **_GRID, label_size=31, pose_numbers=6, plane_channels=12, plane_resolution=512,
            channel_base=18432, channel_max=144, decoder=ClassicDecoder(width=32, colors="none"),
            background=ClassicBackground(channel_base=32768),
            rendering=ClassicRendering(near=2.385, far=3.12, box=0.7, crop=0.07),
            camera=ClassicCamera(pivot=(0, 0.0649, 0), focal=6.5104),
        ),
        36_420_530,
    ),
}  # fmt: skip
"""full-size generators for 512 px, with the number of their parameters"""

DISCRIMINATOR_PRESETS: dict[str, tuple[ClassicDiscriminatorConfig, int]] = {
    "eg3d": (ClassicDiscriminatorConfig(family="eg3d"), 31_359_744),
    "panohead": (ClassicDiscriminatorConfig(family="panohead", mask=True), 31_359_808),
    "pyramid": (
        ClassicDiscriminatorConfig(
            family="pyramid", mask=True, label_size=31, channel_base=18432, channel_max=144, pose_numbers=6
        ),
        8_763_322,
    ),
}
