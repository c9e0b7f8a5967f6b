"""The ancestors' generators, whole: EG3D, PanoHead and Portrait3D's pyramid, in parity with their published weights.

    codes = generator.mapping(z, labels)          # [batch, slots, w]
    planes = generator.planes(codes)              # one level, or a pyramid of them
    view = generator.render(planes, labels, codes=codes)

Modules bear the names that published weights have.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.camera.ancestors import camera_labels, focal_intrinsics, look_at
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.camera.rays import rays
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.background import BackgroundNetwork, composed
from styleavatar3d.gan.classic_config import CAMERA_NUMBERS, ClassicConfig, ClassicDecoder
from styleavatar3d.gan.classic_fused import effective, fusable, render_fused, texels
from styleavatar3d.gan.classic_renderer import (
    EMPTY,
    Level,
    RayMaps,
    crop_mask,
    cull_mask,
    ray_limits,
    render_in_chunks,
    render_rays,
    volume_features,
)
from styleavatar3d.gan.classic_superresolution import ClassicSuperResolutionModule
from styleavatar3d.gan.generator import Rendering
from styleavatar3d.gan.hierarchy import HierarchicalSynthesis
from styleavatar3d.gan.pose_branch import PoseBranch, mirrored_where, on_figures_left, turned_back
from styleavatar3d.gan.stylegan2 import (
    FullyConnectedLayer,
    MappingNetwork,
    Noise,
    SynthesisNetwork,
    ToRGBLayer,
    multiply_in,
)
from styleavatar3d.ops.bias_act import bias_act
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import save_weights

Planes = Sequence[Level]
Draws = tuple[Float[Tensor, "#batch #rays coarse"], Float[Tensor, "#batch #rays fine"]]
"""numbers in [0, 1]: how far behind its step each coarse sample lies, and the quantiles of the importance samples"""

_STRETCH = 0.001
_TRANSLATION = (3, 7, 11)


class Decoder(nn.Module):
    """Features of each plane -> colour features and raw density of a point."""

    def __init__(self, channels: int, config: ClassicDecoder):
        super().__init__()
        self.colors = config.colors
        first = FullyConnectedLayer(channels, config.width, lr_multiplier=config.lr_multiplier)
        last = FullyConnectedLayer(config.width, 1 + config.features, lr_multiplier=config.lr_multiplier)
        self.net = nn.Sequential(first, nn.Softplus(), last)

    @property
    def layers(self) -> tuple[FullyConnectedLayer, FullyConnectedLayer]:
        """Those with weights."""
        return self.net[0], self.net[2]  # type: ignore[return-value]

    def forward(
        self, features: Float[Tensor, "batch 3 points channel"]
    ) -> tuple[Float[Tensor, "batch points feature"], Float[Tensor, "batch points 1"]]:
        x = self.net(features.mean(1).flatten(0, 1)).unflatten(0, (features.shape[0], -1))
        raw, colors = x[..., :1], x[..., 1:]
        if self.colors == "sigmoid":
            colors = colors.sigmoid() * (1 + 2 * _STRETCH) - _STRETCH
        elif self.colors == "lrelu":
            colors = bias_act(colors, dim=2, act="lrelu")
        return colors, raw


class ClassicGenerator(nn.Module):
    """A generator of any of the three families, at any size."""

    def __init__(self, config: ClassicConfig):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.decoder = Decoder(config.plane_channels, config.decoder)
        features = config.decoder.features
        self.torgb = ToRGBLayer(features, 3, w_dim=config.w_dim) if config.raw_layer else None
        self.bcg_synthesis = config.background and BackgroundNetwork(
            config.background, features=features, w_dim=config.w_dim, clamp=config.clamp,
            batched=config.family == "pyramid",
        )  # fmt: skip
        self.superresolution = config.super_resolution and ClassicSuperResolutionModule(
            config.super_resolution, features=features, w_dim=config.w_dim,
            input_resolution=config.super_resolution_input,
        )  # fmt: skip
        self.t_mapping = (
            MappingNetwork(config.z_dim, config.label_size, 3, layers=2, lr_multiplier=1.0, last_activation="linear")
            if config.camera_shift
            else None
        )
        self.pose_branch = PoseBranch(config.z_dim, (128, 32), config.pose_numbers) if config.pose_numbers else None
        multiply_in(self, torch.bfloat16 if config.convolutions == "bf16" else None)

    @property
    def w_mean(self) -> Float[Tensor, "w"]:
        """The mean code."""
        return self.backbone.mapping.w_avg

    # --- codes ---

    def mapping(
        self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch label"] | None = None,
        truncation: float = 1.0, cutoff: int | None = None, *, track: bool = False,
    ) -> Float[Tensor, "batch slots w"]:  # fmt: skip
        """Codes with equal slots; `truncation` < 1 draws the first `cutoff` slots (or all) towards the mean code.

        Labels are those of `condition`. `track` moves the mean code (training).
        """
        w = self.backbone.mapping(z, self.condition(labels, z))
        if track:
            self.backbone.mapping.track_mean(w)
        return self.backbone.mapping.truncate(w[:, None].expand(-1, self.config.slots, -1), truncation, cutoff)

    def condition(self, labels: Float[Tensor, "batch label"] | None, z: Tensor) -> Tensor | None:
        """What the mapping is told: the front camera if there are no labels, body pose zero if they have none."""
        if not self.config.label_size:
            return None
        labels = self.front_label(len(z)) if labels is None else labels
        labels = self._complete(labels).to(z)
        return torch.zeros_like(labels) if self.config.label_zeroed else labels * self.config.label_scale

    def front_label(self, batch: int) -> Float[Tensor, "batch 25"]:
        """The camera that looks at the face from the front."""
        return self.orbit(torch.zeros(1), torch.zeros(1)).expand(batch, -1)

    def orbit(self, yaw: Float[Tensor, "batch"], pitch: Float[Tensor, "batch"]) -> Float[Tensor, "batch 25"]:
        """Cameras around the origin, in degrees, that aim at the pivot through the lens of training."""
        camera = self.config.camera
        positions = orbit_labels(yaw, pitch, camera.radius)[:, _TRANSLATION]
        intrinsics = focal_intrinsics(torch.full((len(yaw),), camera.focal))
        return camera_labels(look_at(positions, torch.tensor([camera.pivot])), intrinsics)

    def shifted(
        self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch label"]
    ) -> Float[Tensor, "batch label"]:
        """Labels whose camera is moved by what the shift network says (PanoHead's self-adaptive camera)."""
        if self.t_mapping is None:
            return labels
        shift = self.t_mapping(z, self._complete(labels) if self.config.label_size else None)
        moved = labels.clone()
        moved[:, _TRANSLATION] += shift
        return moved

    def _complete(self, labels: Tensor) -> Tensor:
        size = self.config.label_size
        if labels.shape[1] == CAMERA_NUMBERS and size > CAMERA_NUMBERS:
            return F.pad(labels, (0, size - CAMERA_NUMBERS))
        if labels.shape[1] != size:
            raise StyleAvatarError(
                "labels have another size than this network was made for",
                got=labels.shape[1],
                expected=f"{size} numbers: camera, then body pose",
            )
        return labels

    # --- the volume ---

    def planes(self, codes: Float[Tensor, "batch slots w"], *, noise: Noise = "const") -> tuple[Level, ...]:
        """The volume's levels, coarse to fine, each [batch, 3, channel * depth, size, size]."""
        return self.backbone.levels(self._slots(codes), noise)

    def raw_field(
        self, planes: Planes, points: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points feature"], Float[Tensor, "batch points 1"]]:
        """Colour features and raw density at points of the world, uncropped. Planes of batch 1 serve all points."""
        config, levels = self.config, [level.expand(len(points), -1, -1, -1, -1) for level in planes]
        features = volume_features(
            levels, points, box=config.rendering.box, depth=config.grid_depth, third_plane=config.third_plane
        )
        return self.decoder(features)

    def field(
        self,
        planes: Planes,
        points: Float[Tensor, "batch points 3"],
        codes: Float[Tensor, "batch slots w"] | None = None,
    ) -> tuple[Float[Tensor, "batch points 3"], Float[Tensor, "batch points"]]:
        """Colour in [0, 1] and density per world unit. `codes` are needed where a layer makes the raw picture."""
        return self._measured(*self.raw_field(planes, points), codes)

    def seen_field(
        self, planes: Planes, points: Float[Tensor, "batch points 3"], codes: Float[Tensor, "batch slots w"]
    ) -> tuple[Float[Tensor, "batch points 3"], Float[Tensor, "batch points"]]:
        """`field` as pictures show it: empty where it is cropped or culled."""
        return self._measured(*self._seen_field(planes, points, 0.0), codes)

    def _measured(self, features: Tensor, raw: Tensor, codes: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.torgb is not None:
            picture = self.torgb(features.mT[..., None], self._needed(codes)[:, -1])[..., 0].mT
            colors = (picture + 1) / 2
        else:
            colors = features[..., :3] if self.config.decoder.colors == "sigmoid" else (features[..., :3] + 1) / 2
        return colors, F.softplus(raw - 1)[..., 0]

    # --- pictures ---

    def render(
        self,
        planes: Planes,
        labels: Float[Tensor, "batch label"],
        resolution: int | None = None,
        samples: tuple[int, int] | None = None,
        *,
        codes: Float[Tensor, "batch slots w"] | None = None,
        jitter: Draws | None = None,
        noise: Noise = "const",
        background_codes: Float[Tensor, "batch slots w"] | None = None,
        density_noise: float = 0.0,
        super_resolution: bool = True,
        chunk: int | None = None,
    ) -> Rendering:
        """Views of `resolution`^2 rays, at most `chunk` of them at a time.

        `codes` drive super-resolution, raw layer and background; `background_codes` replace them for the background.
        Without `jitter` coarse samples lie half a step behind, and importance quantiles are even from 0 to 1. Without
        `super_resolution` the image is the raw picture: the same from all sides, at any resolution.
        """
        size = resolution or self.config.neural_resolution
        maps = self._maps(
            planes, labels[:, :CAMERA_NUMBERS].to(planes[-1]), size, samples, jitter, density_noise, chunk
        )
        features = maps.features.mT.unflatten(2, (size, size))
        weight, depth = (x.unflatten(1, (1, size, size)) for x in (maps.weight, maps.depth))
        if self.bcg_synthesis is not None:
            behind = codes if background_codes is None else background_codes
            features = composed(features, weight, self.bcg_synthesis(self._needed(behind), noise))
        raw = features[:, :3] if self.torgb is None else self.torgb(features, self._needed(codes)[:, -1])
        image = raw
        if self.superresolution is not None and super_resolution:
            image = self.superresolution(raw, features, self._needed(codes))
        mask = weight if self.config.family == "eg3d" else weight * (1 + 2 * _STRETCH) - _STRETCH
        return Rendering(image, raw, mask, depth)

    def pictures(
        self, planes: Planes, labels: Float[Tensor, "batch label"], size: int, codes: Float[Tensor, "batch slots w"]
    ) -> Float[Tensor, "batch 3 size size"]:
        """Pictures of `size` pixels: of the network's own size with super-resolution, of others the volume alone."""
        whole = size == self.config.image_resolution
        rays = self.config.neural_resolution if whole else size
        return self.render(planes, labels, rays, codes=codes, super_resolution=whole).image

    def _maps(
        self, planes: Planes, labels: Tensor, size: int, samples: tuple[int, int] | None, jitter: Draws | None,
        density_noise: float, chunk: int | None,
    ) -> RayMaps:  # fmt: skip
        rendering = self.config.rendering
        origins, directions = rays(labels, size)
        near, far = ray_limits(origins, directions, rendering)
        coarse, fine = jitter or even_draws(samples or rendering.samples, origins)

        fused = fusable(self.config, origins)
        levels = [texels(level, self.config.grid_depth) for level in planes] if fused else []
        decoder = effective(*self.decoder.layers, len(planes))

        def seen(points: Tensor) -> tuple[Tensor, Tensor]:
            return self._seen_field(planes, points, density_noise)

        def part(where: slice) -> tuple[RayMaps, Tensor]:
            start, end = (x[:, where] if isinstance(x, Tensor) else x for x in (near, far))
            draws, quantiles = (x if x.shape[1] == 1 else x[:, where] for x in (coarse, fine))
            sampling = origins[:, where], directions[:, where], start, end, draws, quantiles
            if fused:
                return render_fused(self.config, levels, decoder, *sampling, density_noise)
            return render_rays(
                seen, *sampling, disparity=rendering.disparity, white_background=rendering.white_background,
                signed=self.config.decoder.colors == "sigmoid",
            )  # fmt: skip

        return render_in_chunks(part, origins.shape[1], chunk)

    def _seen_field(self, planes: Planes, points: Tensor, density_noise: float) -> tuple[Tensor, Tensor]:
        """The field as pictures show it: noisy if asked for, empty where it is cropped or culled."""
        rendering = self.config.rendering
        colors, raw = self.raw_field(planes, points)
        if density_noise:
            raw = raw + torch.randn_like(raw) * density_noise
        if rendering.crop is not None:
            raw = raw.masked_fill(crop_mask(points, box=rendering.box, margin=rendering.crop), EMPTY)
        if rendering.cull is not None:
            raw = raw.masked_fill(cull_mask(raw, rendering.cull), EMPTY)
        return colors, raw

    def forward(
        self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch label"], truncation: float = 1.0,
        cutoff: int | None = None, *, noise: Noise = "const", **options,
    ) -> Rendering:  # fmt: skip
        """Latents and labels -> views; `options` are those of `render`. The camera shift acts on the view alone."""
        codes = self.mapping(z, labels, truncation, cutoff)
        planes = self.planes(codes, noise=noise)
        return self.render(planes, self.shifted(z, labels), codes=codes, noise=noise, **options)

    def body_pose(
        self, z: Float[Tensor, "batch z"], labels: Float[Tensor, "batch label"]
    ) -> Float[Tensor, "batch pose"]:
        """The body pose with which training shows this latent from this camera."""
        if self.pose_branch is None:
            raise StyleAvatarError("this generator predicts no body pose", expected="pose_numbers > 0 in its config")
        mirror = on_figures_left(labels)
        return turned_back(self.pose_branch(z, mirrored_where(labels, mirror)), mirror)

    def save_pretrained(self, folder: str) -> None:
        """Write single-precision safetensors and config.json to a folder or s3:// prefix."""
        save_weights(Storage.open(folder), self, self.config.model_dump(mode="json"), half=False)

    def _slots(self, codes: Tensor) -> Tensor:
        if codes.shape[1] == 1:
            return codes.expand(-1, self.config.slots, -1)
        if codes.shape[1] != self.config.slots:
            raise StyleAvatarError(
                "codes have another number of slots than this generator",
                got=codes.shape[1],
                expected=f"{self.config.slots}, or 1 for all of them",
            )
        return codes

    def _needed(self, codes: Tensor | None) -> Tensor:
        if codes is None:
            raise StyleAvatarError("this generator's pictures depend on the codes", remedy="render(..., codes=codes)")
        return self._slots(codes)


class Backbone(nn.Module):
    """Mapping and synthesis of the volume."""

    def __init__(self, config: ClassicConfig):
        super().__init__()
        self.mapping = MappingNetwork(config.z_dim, config.label_size, config.w_dim, layers=config.mapping_layers)
        channels = config.plane_channels * (config.grid_depth or 1)
        resolution = config.backbone_resolution
        if config.family == "pyramid":
            self.synthesis = HierarchicalSynthesis(
                w_dim=config.w_dim, resolution=resolution, plane_channels=channels, clamp=config.clamp
            )
        else:
            self.synthesis = SynthesisNetwork(
                w_dim=config.w_dim, resolution=resolution, image_channels=3 * channels, clamp=config.clamp,
                channel_base=config.channel_base, channel_max=config.channel_max,
            )  # fmt: skip

    def levels(self, codes: Float[Tensor, "batch slots w"], noise: Noise) -> tuple[Level, ...]:
        if isinstance(self.synthesis, HierarchicalSynthesis):
            return tuple(level.unflatten(0, (-1, 3)) for level in self.synthesis.levels(codes, noise))
        return (self.synthesis(codes, noise).unflatten(1, (3, -1)),)


def even_draws(samples: tuple[int, int], like: Tensor) -> Draws:
    """Half a step of jitter, and quantiles from 0 to 1, both ends included."""
    coarse, fine = samples
    return like.new_full((1, 1, coarse), 0.5), torch.linspace(0, 1, fine, device=like.device, dtype=like.dtype)[
        None, None
    ]


def mixed(
    first: Float[Tensor, "batch slots w"], second: Float[Tensor, "batch slots w"], crossover: int
) -> Float[Tensor, "batch slots w"]:
    """Style mixing: `first` up to slot `crossover`, `second` from there."""
    return torch.cat([first[:, :crossover], second[:, crossover:]], 1)
