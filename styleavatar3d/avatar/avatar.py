"""The thing a user holds: a code, the generator that reads it, and where both come from."""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from styleavatar3d.avatar.files import write_whole
from styleavatar3d.avatar.mesh import Mesh, mesh_of_field
from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.classic import ClassicGenerator
from styleavatar3d.gan.generator import Generator
from styleavatar3d.runtime.media import mp4, to_uint8
from styleavatar3d.runtime.weights import weights_sha256

FORMAT = "styleavatar3d avatar 1"
LARGEST_VIEW = 1024
MOST_FRAMES = 1000
_RAYS_AT_ONCE = 512 * 512


@dataclass(frozen=True)
class Avatar:
    """`codes` [slots, w] of `generator`, and `provenance`: how it was made, by which models, under which licence."""

    codes: Tensor
    generator: Generator | ClassicGenerator = field(repr=False)
    provenance: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def planes(self) -> Any:
        """The feature planes, computed once: every view and the mesh read them."""
        with torch.inference_mode():
            return self.generator.planes(self.codes[None])

    def render(self, camera: Camera | None = None, size: int | None = None) -> Image.Image:
        """One RGB picture of size x size pixels, from the front unless a camera is given."""
        label = camera.label()[None] if camera else self.generator.orbit(torch.zeros(1), torch.zeros(1))
        return Image.fromarray(self.views(label, size)[0].permute(1, 2, 0).numpy())

    @torch.inference_mode()
    def views(self, labels: Float[Tensor, "views 25"], size: int | None = None) -> UInt8[Tensor, "views 3 size size"]:
        """Pictures from many cameras. The default size is that of the generator."""
        size = size or self.generator.config.image_resolution
        if not 1 <= size <= LARGEST_VIEW:
            raise StyleAvatarError("this size cannot be rendered", got=size, expected=f"1 to {LARGEST_VIEW} pixels")
        images = []
        for some in labels.split(max(1, _RAYS_AT_ONCE // size**2)):
            codes = self.codes.expand(len(some), -1, -1)
            images.append(to_uint8(self.generator.pictures(self.planes, some, size, codes)))
        return torch.cat(images)

    def turn(self, frames: int = 48, size: int | None = None) -> UInt8[Tensor, "frames 3 size size"]:
        """The pictures of one full turn from slightly above eye height; the last leads back to the first, the front."""
        if not 1 <= frames <= MOST_FRAMES:
            raise StyleAvatarError("no turn has this many pictures", got=frames, expected=f"1 to {MOST_FRAMES}")
        around = self.generator.orbit(torch.arange(frames) * (360.0 / frames), torch.full((frames,), 5.0))
        return self.views(around, size)

    def turntable(self, path: str | Path, frames: int = 48, size: int | None = None, fps: int = 24) -> Path:
        """Write an MP4 of one full turn, which loops without a jump. The size must be even."""
        if Path(path).suffix.lower() != ".mp4":
            raise StyleAvatarError("a turntable is written as MP4", got=str(path), expected="a name that ends in .mp4")
        return write_whole(path, mp4(self.turn(frames, size), fps))

    def mesh(self, resolution: int = 128, level: float = 10.0) -> Mesh:
        """The surface where the density passes `level` (per world unit), coloured, in metres."""

        def read(points: Tensor) -> tuple[Tensor, Tensor]:
            colors, density = self.generator.seen_field(self.planes, points.to(self.codes)[None], self.codes[None])
            return colors[0], density[0]

        return replace(mesh_of_field(read, self.generator.config.box, resolution, level), provenance=self.provenance)

    def to_bytes(self) -> bytes:
        """A safetensors file of the codes and the provenance: a few kilobytes, for the generator is not in it."""
        from safetensors.torch import save

        about = {**self.provenance, "generator_sha256": weights_sha256(self.generator)}
        return save({"codes": self.codes.cpu().contiguous()}, {"format": FORMAT, "provenance": json.dumps(about)})

    def save(self, path: str | Path) -> Path:
        """Write the avatar file, which `load` reads back."""
        return write_whole(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path, generator: Generator | ClassicGenerator) -> "Avatar":
        """Read an avatar file and refuse it if another generator made it."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError("its metadata do not say so")
                provenance, codes = json.loads(metadata["provenance"]), file.get_tensor("codes")
            if codes.shape != (generator.config.slots, generator.config.w_dim):
                raise ValueError(f"codes of shape {tuple(codes.shape)}")
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise StyleAvatarError(
                "this file is no avatar", got=f"{path} ({error})", expected="a .safetensors file written by Avatar.save"
            ) from None
        theirs, ours = provenance.pop("generator_sha256", "unknown"), weights_sha256(generator)
        if theirs != ours:
            raise StyleAvatarError(
                "this avatar belongs to another generator",
                got=f"generator {theirs[:12]}",
                expected=f"generator {ours[:12]}",
                remedy="open it with the pipeline that made it",
            )
        return cls(codes.to(generator.w_mean), generator, provenance)
