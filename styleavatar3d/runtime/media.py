"""Pictures and films as bytes: PNG, grids, H.264."""

import io
from collections.abc import Iterable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError


def to_uint8(images: Float[Tensor, "*batch 3 height width"]) -> UInt8[Tensor, "*batch 3 height width"]:
    """[-1, 1] -> 0..255, rounded; -1, 0 and 1 become 0, 128 and 255."""
    return ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def grid(images: UInt8[Tensor, "count 3 height width"], columns: int, scale: int = 1) -> UInt8[Tensor, "3 rows cols"]:
    """Pictures row by row in one picture; each pixel `scale` wide; an unfinished row is filled with black."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    padding = images.new_zeros(rows * columns - count, channels, height, width)
    cells = torch.cat([images, padding]).view(rows, columns, channels, height, width)
    sheet = cells.permute(2, 0, 3, 1, 4).reshape(channels, rows * height, columns * width)
    return sheet.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def png(image: UInt8[Tensor, "3 height width"]) -> bytes:
    """PNG file of a picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def mp4(frames: Iterable[UInt8[Tensor, "3 height width"]], fps: int = 24, quality: int = 8) -> bytes:
    """H.264 film in yuv420p, which every browser plays. Frames must have even sides.

    Raises StyleAvatarError for no frames or odd sizes.
    """
    import tempfile

    import imageio_ffmpeg

    pictures = [frame.permute(1, 2, 0).contiguous().cpu().numpy() for frame in frames]
    height, width = pictures[0].shape[:2] if pictures else (0, 0)
    if not pictures or height % 2 or width % 2:
        got = f"{len(pictures)} frames of {width} x {height}"
        raise StyleAvatarError("a film needs frames of even height and width", got=got)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        writer = imageio_ffmpeg.write_frames(
            file.name, (width, height), fps=fps, quality=quality, codec="libx264", macro_block_size=2,
            output_params=["-threads", "1"],
        )  # fmt: skip
        writer.send(None)  # starts ffmpeg
        for picture in pictures:
            writer.send(picture)
        writer.close()
        return file.read()
