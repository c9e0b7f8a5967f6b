"""Shards as plain webdataset tars whose bytes depend on their samples only."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from styleavatar3d.shards.schema import Coding, Record

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG = Coding()


class Sample(NamedTuple):
    """One picture with its silhouette and the guidance that posed it (kind -> picture).

    Bytes stand for a picture that is a PNG or JPEG file already; they are kept as they are.
    """

    record: Record
    image: UInt8[Tensor, "channel height width"] | bytes
    mask: UInt8[Tensor, "1 height width"] | bytes
    guidance: Mapping[str, UInt8[Tensor, "channel height width"] | bytes]


def pack(samples: Iterable[Sample], coding: Coding = PNG) -> bytes:
    """A tar of the samples by key, then by part: guidance-KIND.png, image.png (or .jpg), json, mask.png."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in sorted(samples, key=lambda sample: sample.record.index):
            for name, data in sorted(members_of(sample, coding).items()):
                tar.addfile(header(f"{sample.record.key}.{name}", len(data)), io.BytesIO(data))
    return buffer.getvalue()


def members_of(sample: Sample, coding: Coding = PNG) -> dict[str, bytes]:
    """The files of a sample by part, "json" among them."""
    pictures = {f"guidance-{kind}": _encode(image) for kind, image in sample.guidance.items()}
    pictures |= {"image": _encode(sample.image, coding), "mask": _encode(sample.mask)}
    files = {f"{part}.{ending(data)}": data for part, data in pictures.items()}
    return files | {"json": sample.record.to_json()}


def ending(data: bytes) -> str:
    """png or jpg."""
    return "png" if data.startswith(PNG_SIGNATURE) else "jpg"


def encode_png(image: UInt8[Tensor, "channel height width"]) -> bytes:
    """A PNG of a grey (1 channel) or RGB (3 channels) picture, without metadata."""
    return _save(image, "PNG", compress_level=6)


def encode_jpeg(image: UInt8[Tensor, "3 height width"], quality: int = 95) -> bytes:
    """A JPEG, colours at half resolution as in any photograph, without metadata."""
    return _save(image, "JPEG", quality=quality, subsampling="4:2:0", optimize=True)


def header(name: str, size: int) -> tarfile.TarInfo:
    """Of a plain file without owner or time."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, 0, 0o644
    return member


def _encode(image: Tensor | bytes, coding: Coding = PNG) -> bytes:
    if isinstance(image, bytes):
        return image
    return encode_jpeg(image, coding.quality) if coding.image == "jpeg" else encode_png(image)


def _save(image: Tensor, kind: str, **options: object) -> bytes:
    from PIL import Image

    array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, kind, **options)
    return buffer.getvalue()
