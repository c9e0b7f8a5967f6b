"""One picture of a folder: found, checked, turned upright, cropped and reduced, with its silhouette."""

import hashlib
import io
import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.pictures import eight_bits, open_picture, upright
from styleavatar3d.shards.table import Row

GREY = 127
"""what stands where a mask shows nothing, as behind the figures of the little world"""
_MOST_BYTES = 256 << 20
_EMPTY = 16
"""a mask whose brightest pixel is below this shows nothing"""

Silhouette = Literal["alpha", "file", "none"]


class Pixels(NamedTuple):
    """A picture as it goes into a shard, where its silhouette came from, and the sha256 of its files."""

    image: UInt8[Tensor, "3 size size"]
    mask: UInt8[Tensor, "1 size size"]
    silhouette: Silhouette
    sha256: str
    mask_sha256: str


class Pictures(NamedTuple):
    """Where pictures and masks are, and how large they become. `masks` is where mask cells point."""

    folder: Path
    masks: Path
    rule: Literal["alpha", "files", "none"]
    size: int

    @staticmethod
    def find(folder: str | os.PathLike[str], mask: str, size: int) -> "Pictures":
        """Check that the folders are there."""
        root = _folder(folder, "there is no such folder of pictures")
        if mask in ("alpha", "none"):
            return Pictures(root, root, mask, size)
        return Pictures(root, _folder(mask, "there is no such folder of masks"), "files", size)

    def read(self, row: Row) -> Pixels:
        """The pixels of a row. Raises StyleAvatarError if a file is missing, elsewhere, damaged or too small."""
        data = read_inside(self.folder, row.file)
        image = _upright(data, row.file)
        name = row.mask or (str(Path(row.file).with_suffix(".png")) if self.rule == "files" else "")
        mask_data = read_inside(self.masks, name) if name else b""
        transparent = image.has_transparency_data
        image = image.convert("RGBA")
        if name:
            image.putalpha(_mask(mask_data, name, image.size))
        elif self.rule == "none":
            grey = Image.new("RGBA", image.size, (GREY, GREY, GREY, 255))
            image = Image.alpha_composite(grey, image)
        silhouette = "file" if name else "alpha" if transparent and self.rule == "alpha" else "none"
        if numpy.asarray(image.getchannel("A")).max() < _EMPTY:
            raise StyleAvatarError(
                "the mask shows nothing",
                got=name or f"{row.file}: transparent everywhere",
                expected="255 where the head is",
            )
        pixels = _reduced(image, self.size, row.file)
        return Pixels(pixels[:3], pixels[3:], silhouette, _digest(data), _digest(mask_data) if name else "")


def _folder(path: str | os.PathLike[str], what: str) -> Path:
    if not os.path.isdir(path):
        raise StyleAvatarError(what, got=os.fspath(path), expected="a folder on this machine")
    return Path(path).resolve()


def read_inside(folder: Path, name: str, most: int = _MOST_BYTES) -> bytes:
    """The bytes of a plain file inside `folder`; links and dots must not lead out of it."""
    if not name or "\0" in name:
        raise StyleAvatarError("a file has no name", got=name or "an empty cell", expected="a path inside the folder")
    try:
        path = (folder / name).resolve()
        if Path(name).is_absolute() or not path.is_relative_to(folder):
            raise StyleAvatarError(
                "a file is outside the folder",
                got=name,
                expected=f"a path relative to {folder}",
                remedy="copy the picture into the folder",
            )
        if not path.is_file():
            slash = "write / between folders" if "\\" in name else "check the spelling, upper and lower case too"
            raise StyleAvatarError("there is no such file", got=name, expected=f"a picture in {folder}", remedy=slash)
        if (size := path.stat().st_size) > most:
            raise StyleAvatarError("a file is too large", got=f"{name}: {size} bytes", expected=f"at most {most}")
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # the second for links in a circle
        raise StyleAvatarError("a file cannot be read", got=f"{name} ({error})") from None


def _upright(data: bytes, name: str) -> Image.Image:
    """Decoded, turned as EXIF says, 8 bits a channel."""
    image = open_picture(io.BytesIO(data), name)
    if getattr(image, "is_animated", False) and image.format != "MPO":  # phones keep a preview as a second frame
        raise StyleAvatarError(
            "a film is no picture",
            got=f"{name}: {getattr(image, 'n_frames', 2)} frames",
            expected="one frame",
            remedy="save the frame you mean as PNG",
        )
    return eight_bits(upright(image, name))


def _mask(data: bytes, name: str, size: tuple[int, int]) -> Image.Image:
    mask = _upright(data, name).convert("L")
    if mask.size != size:
        raise StyleAvatarError(
            "a mask has another size than its picture",
            got=f"{name}: {mask.width} x {mask.height}",
            expected=f"{size[0]} x {size[1]}",
        )
    return mask


def _reduced(image: Image.Image, size: int, name: str) -> UInt8[Tensor, "4 size size"]:
    """The centred square of an RGBA picture: a pixel is the mean of those it covers, colours weighed by alpha.

    Colours stay those of the head up to its edge (not mixed with what is behind), for the trainer multiplies them by
    the mask itself.
    """
    side = min(image.size)
    if side < size:
        raise StyleAvatarError(
            "the picture is too small",
            got=f"{name}: {image.width} x {image.height}",
            expected=f"at least {size} x {size}",
            remedy="give a smaller --size, or larger pictures",
        )
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    pixels = numpy.array(image.resize((size, size), Image.Resampling.BOX, box))
    pixels[pixels[..., 3] == 0, :3] = GREY
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
