"""What a 3D file holds, whatever its format: triangles with colours, the names they go by, and bones.

Files come from strangers. Every reader counts what it is about to make with a `Guard` before it makes it, never opens
anything but the file (an OBJ: what lies in its folder), and runs no code from it. The readers are our own: trimesh
reads neither skins nor VRM and follows URIs through resolvers, pygltflib checks neither indices nor sizes, and what a
stranger's file needs most is exactly those checks; JSON is left to pydantic and pictures to Pillow.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from styleavatar3d.errors import StyleAvatarError

_PICTURES = ("PNG", "JPEG", "WEBP")
_TEXTURE = 1024
"""Longest side of a kept texture: more than a picture of the figure can show."""


class FileRefused(StyleAvatarError):
    """A file that is broken, unsupported, or asks for more than the limits. The message says which, and the remedy."""


@dataclass(frozen=True)
class Limits:
    """What one file may cost."""

    bytes: int = 256 << 20
    vertices: int = 2_000_000
    faces: int = 1_000_000
    nodes: int = 20_000
    numbers: int = 200_000_000
    """Read from the file, all arrays together."""
    pixels: int = 1 << 26
    """Decoded, all pictures together."""
    seconds: float = 60.0
    """Of this thread on a processor, so that a busy machine refuses no more than an idle one."""


@dataclass
class Guard:
    """The limits of one file, and how much of them is used up."""

    name: str
    limits: Limits = field(default_factory=Limits)
    used: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.thread_time)

    def spend(self, what: str, amount: int) -> None:
        """Count `amount` of "vertices", "faces", "nodes", "numbers" or "pixels", before they exist."""
        self.used[what] = self.used.get(what, 0) + amount
        limit = getattr(self.limits, what)
        if self.used[what] > limit:
            self.refuse(f"too many {what}", got=self.used[what], expected=f"at most {limit:,}",
                        remedy="simplify the model (in Blender: Decimate) or shrink its textures")  # fmt: skip
        self.tick()

    def tick(self) -> None:
        """Refuse the file once its time is up."""
        if time.thread_time() - self.started > self.limits.seconds:
            self.refuse("reading takes too long", expected=f"at most {self.limits.seconds:g} s",
                        remedy="simplify the model, or export it as GLB")  # fmt: skip

    def refuse(self, what: str, *, got: Any = None, expected: str | None = None, remedy: str | None = None) -> NoReturn:
        """Raise FileRefused with the name of the file."""
        raise FileRefused(f"{self.name}: {what}", got=got, expected=expected, remedy=remedy)

    def finite(self, values: np.ndarray, what: str) -> np.ndarray:
        """The values; refuses the file where one is not finite, or too large to square."""
        if not np.isfinite(values).all() or (values.size and np.abs(values).max() > 1e12):
            self.refuse(f"{what} that are no numbers", got="NaN, infinity or beyond 1e12", expected="finite numbers",
                        remedy="export the model again")  # fmt: skip
        return values


@dataclass(frozen=True)
class Paint:
    """What some faces are called, and how they are coloured."""

    name: str
    """Names of the mesh, the node and the material, for telling hair from skin."""
    tint: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Linear RGBA, multiplied with vertex colours and texture."""
    texture: np.ndarray | None = None
    """[height, width, 4] uint8, sRGB."""
    cutout: float | None = None
    """Alpha under which a texel is a hole."""
    wrap: bool = True
    """Whether the texture repeats."""


@dataclass(frozen=True)
class Model3D:
    """A 3D file in its own axes and units, skins in the pose that the file rests in."""

    vertices: np.ndarray
    """[vertices, 3] float64."""
    faces: np.ndarray
    """[faces, 3] int64."""
    uv: np.ndarray
    """[vertices, 2]; (0, 0) is the upper left corner of the picture."""
    colors: np.ndarray
    """[vertices, 3], linear, 0..1."""
    paint: np.ndarray
    """[faces], an index into `paints`."""
    paints: tuple[Paint, ...]
    format: str
    owner: np.ndarray | None = None
    """[vertices]: the node that moves it most."""
    nodes: tuple[str, ...] = ()
    parents: tuple[int, ...] = ()
    """Of nodes; -1 for roots."""
    positions: np.ndarray | None = None
    """[nodes, 3]."""
    joints: tuple[int, ...] = ()
    """Nodes that are bones of a skin."""
    humanoid: dict[str, int] = field(default_factory=dict)
    """VRM bone names, such as leftUpperArm, and their nodes."""
    gaze: np.ndarray | None = None
    """Where a VRM says that its eyes are, [3]."""
    title: str = ""
    licence: str = ""


def read_bytes(path: Path, limits: Limits) -> bytes:
    """The content of a regular file of at most `limits.bytes`."""
    try:
        if not path.is_file():
            raise FileRefused("no such file", got=str(path), expected="a GLB, glTF, VRM, OBJ or PLY file")
        size = path.stat().st_size
        if not 0 < size <= limits.bytes:
            raise FileRefused(f"{path.name}: size out of range", got=f"{size:,} bytes", expected=f"1-{limits.bytes:,}")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise FileRefused("cannot read this file", got=f"{str(path)[:200]!r} ({error})") from error


def decode(data: bytes, guard: Guard, name: str) -> np.ndarray:
    """Pixels [height, width, 4] of a PNG, JPEG or WebP picture, shrunk to what is of use."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_PICTURES) as picture:
            guard.spend("pixels", picture.width * picture.height)
            picture.draft("RGB", (_TEXTURE, _TEXTURE))
            rgba = picture.convert("RGBA")
    except StyleAvatarError:
        raise
    except Exception as error:  # noqa: BLE001  decoders raise whatever they like on broken files
        guard.refuse(f"picture {name} cannot be decoded", got=str(error) or type(error).__name__,
                     expected=" or ".join(_PICTURES), remedy="export the model with PNG or JPEG textures")  # fmt: skip
    rgba.thumbnail((_TEXTURE, _TEXTURE))
    return np.asarray(rgba).copy()
