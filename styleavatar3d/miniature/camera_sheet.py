"""The pictures of docs/cameras.md: one figure from all around, from below and above, and what is known of a view.

python -m styleavatar3d.miniature.camera_sheet docs/pictures
"""

import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from styleavatar3d.camera.cameras import orbit_labels, view_name
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import hybrid
from styleavatar3d.figures.keypoints import POINTS
from styleavatar3d.figures.looks import Look
from styleavatar3d.miniature.renders import RenderedView, render_views

LOOK = Look(gender="woman", skin="tan", hair="bun", hair_color="red", shirt_color="green", smile=True, seed=5)
STYLE = "cartoon"
YAWS = (-135.0, -90.0, -45.0, 0.0, 45.0, 90.0, 135.0, 180.0)
PITCHES = (-15.0, -5.0, 5.0, 15.0, 25.0)
PAPER, INK, LEFT = (250, 249, 246), (40, 42, 48), (226, 60, 90)
_LETTERS = 26
"""height of the line under a picture, in pixels"""


def write_camera_pictures(out: str | Path, size: int = 160) -> list[Path]:
    """Write cameras-{yaw,around,pitch,depth}.png into `out`; views are `size` pixels square."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {"yaw": yaw_sheet(size), "around": around_sheet(size), "pitch": pitch_sheet(size),
              "depth": depth_sheet(size)}  # fmt: skip
    return [_save(sheet, folder / f"cameras-{name}.png") for name, sheet in sheets.items()]


def yaw_sheet(size: int) -> Image.Image:
    """Eight views at pitch 0, with the figure's left ear marked wherever it is seen."""
    views = look_from([(yaw, 0.0) for yaw in YAWS], size)
    names = [f"yaw {yaw:+.0f}: {view_name(yaw)}" for yaw in YAWS]
    return _rows([_mark_left_ear(view) for view in views], names, columns=4)


def pitch_sheet(size: int) -> Image.Image:
    """Five pitches at yaw 30."""
    views = look_from([(30.0, pitch) for pitch in PITCHES], size)
    return _rows([_picture(view.image) for view in views], [f"pitch {pitch:+.0f}" for pitch in PITCHES], columns=5)


def depth_sheet(size: int) -> Image.Image:
    """A view and all that the renderer knows about it."""
    [view] = look_from([(30.0, 10.0)], size)
    seen = view.mask > 127
    near, far = view.depth[seen].min().item(), view.depth[seen].max().item()
    metric = torch.where(seen, 255 - 200 * (view.depth - near) / (far - near), 0.0).to(torch.uint8)
    pictures = {
        "picture": view.image,
        "mask": _grey(view.mask),
        f"depth {near:.2f} to {far:.2f}": _grey(metric),
        "depth guidance": view.guidance.pictures["depth"],
        "key points": view.guidance.pictures["keypoints"],
        "both in one": hybrid(*view.guidance.pictures.values()),
    }
    return _rows([_picture(picture) for picture in pictures.values()], list(pictures), columns=3)


def around_sheet(size: int) -> Image.Image:
    """The world from above, with each view where its camera stands: +x to the right, +z downwards."""
    radius, side = int(1.7 * size), int(4.7 * size)
    centre = side // 2
    sheet = Image.new("RGB", (side, side + _LETTERS), PAPER)
    pen = ImageDraw.Draw(sheet)
    _axes(pen, centre, int(0.55 * size))
    for yaw, view in zip(YAWS, look_from([(yaw, 0.0) for yaw in YAWS], size), strict=True):
        x = centre + radius * math.sin(math.radians(yaw)) - size // 2
        y = centre + radius * math.cos(math.radians(yaw)) - size // 2
        sheet.paste(_mark_left_ear(view), (round(x), round(y)))
        _write(pen, (round(x) + size // 2, round(y) + size + 3), f"yaw {yaw:+.0f}")
    _write(pen, (centre, side + 2), "the world from above; the red dot is the figure's left ear")
    return sheet


def look_from(angles: Sequence[tuple[float, float]], size: int) -> list[RenderedView]:
    """Views of the figure at (yaw, pitch) in degrees."""
    yaws, pitches = torch.tensor(angles).T
    return render_views(build_figure(LOOK), STYLE, orbit_labels(yaws, pitches), size)


def _axes(pen: ImageDraw.ImageDraw, centre: int, length: int) -> None:
    """The head as a circle with a nose, and the two horizontal axes."""
    head = length // 3
    for end, name in (((centre + length, centre), "+x, its left"), ((centre, centre + length), "+z, where it looks")):
        pen.line([(centre, centre), end], fill=INK, width=2)
        pen.ellipse(_disc(end, 4), fill=INK)
        _write(pen, (end[0], end[1] + 8), name)
    pen.ellipse(_disc((centre, centre), head), fill=PAPER, outline=INK, width=2)
    pen.polygon([(centre - 6, centre + head), (centre + 6, centre + head), (centre, centre + head + 12)], fill=INK)
    pen.ellipse(_disc((centre + head, centre), 5), fill=LEFT)


def _mark_left_ear(view: RenderedView) -> Image.Image:
    picture = _picture(view.image)
    ear = POINTS.index("left_ear")
    if view.guidance.visible[ear]:
        x, y = view.guidance.keypoints[ear].tolist()
        pen = ImageDraw.Draw(picture)
        pen.ellipse(_disc((x, y), picture.width // 32), fill=LEFT, outline=PAPER)
    return picture


def _rows(pictures: Sequence[Image.Image], names: Sequence[str], columns: int) -> Image.Image:
    """Pictures in rows, each above its name."""
    size, gap = pictures[0].width, 8
    cell, row = size + gap, size + _LETTERS + gap
    sheet = Image.new("RGB", (columns * cell + gap, -(-len(pictures) // columns) * row + gap), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x, y = gap + place % columns * cell, gap + place // columns * row
        sheet.paste(picture, (x, y))
        _write(pen, (x + size // 2, y + size + 4), name)
    return sheet


def _write(pen: ImageDraw.ImageDraw, above: tuple[int, int], text: str) -> None:
    """One line of text, centred below a point."""
    pen.text(above, text, fill=INK, font=ImageFont.load_default(15), anchor="ma")


def _disc(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    return centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius


def _picture(pixels: UInt8[Tensor, "height width 3"]) -> Image.Image:
    return Image.fromarray(numpy.ascontiguousarray(pixels.numpy()))


def _grey(values: UInt8[Tensor, "height width"]) -> UInt8[Tensor, "height width 3"]:
    return values[..., None].expand(*values.shape, 3)


def _save(sheet: Image.Image, path: Path) -> Path:
    """As a PNG of 256 colours, which is a third of the size."""
    buffer = io.BytesIO()
    sheet.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(buffer, "PNG", optimize=True)
    path.write_bytes(buffer.getvalue())
    return path


if __name__ == "__main__":
    print(*write_camera_pictures(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures"), sep="\n")
