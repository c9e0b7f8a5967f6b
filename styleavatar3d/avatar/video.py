"""MP4 films that every browser plays."""

from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.avatar.files import write_whole
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.media import mp4


def write_video(path: str | Path, frames: UInt8[Tensor, "frames 3 height width"], fps: int = 24) -> Path:
    """Encode frames as H.264 and write the film all at once. Odd sizes grow by a pixel, as yuv420p asks."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise StyleAvatarError("a film is written as MP4", got=path.name, expected="a name that ends in .mp4")
    height, width = frames.shape[2:]
    even = F.pad(frames.float(), (0, width % 2, 0, height % 2), mode="replicate").byte()
    return write_whole(path, mp4(even, fps))

