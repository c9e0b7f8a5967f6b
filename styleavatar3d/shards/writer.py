"""Shards as plain webdataset tars whose bytes depend on their samples only."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from styleavatar3d.shards.schema import Record


class Sample(NamedTuple):
    """One picture with its silhouette and the guidance that posed it (kind -> picture)."""

    record: Record
    image: UInt8[Tensor, "channel height width"]
    mask: UInt8[Tensor, "1 height width"]
    guidance: Mapping[str, UInt8[Tensor, "channel height width"]]


def pack(samples: Iterable[Sample]) -> bytes:
    """A tar of the samples, sorted by key; members KEY.image.png, KEY.mask.png, KEY.guidance-KIND.png, KEY.json."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in sorted(samples, key=lambda sample: sample.record.index):
            for name, data in sorted(_members(sample).items()):
                tar.addfile(_header(f"{sample.record.key}.{name}", len(data)), io.BytesIO(data))
    return buffer.getvalue()


def encode_png(image: UInt8[Tensor, "channel height width"]) -> bytes:
    """A PNG of a grey (1 channel) or RGB (3 channels) picture, without metadata."""
    from PIL import Image

    array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _members(sample: Sample) -> dict[str, bytes]:
    guidance = {f"guidance-{kind}.png": encode_png(image) for kind, image in sample.guidance.items()}
    pictures = {"image.png": encode_png(sample.image), "mask.png": encode_png(sample.mask)}
    return {**pictures, **guidance, "json": sample.record.to_json()}


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mtime, header.mode = size, 0, 0o644
    return header
