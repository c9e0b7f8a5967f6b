"""The pictures of a figure from a file: what it looks like, and what guides the diffusion model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.figures.files import FileFigure, about, load_figure
from styleavatar3d.figures.guidance import guide, hybrid, to_uint8
from styleavatar3d.figures.rasterize import rasterize
from styleavatar3d.runtime.media import grid, png

YAWS = (0.0, 45.0, 90.0, 180.0, -45.0)
_LIGHT = (0.3, 0.5, 0.8)


def write_file_guidance(
    file: str, landmarks: str = "", out: str = "runs/guidance", size: int = 256, pitch: float = 5.0
) -> dict[str, Any]:
    """Write a sheet of a figure from a file, a column for each yaw: its colours, depth, key points and both in one.

    Returns the sheet's path and what is known of the figure. Raises StyleAvatarError for bad files and sizes.
    """
    figure = load_figure(file, landmarks or None)
    columns = [torch.stack(_column(figure, Camera.orbit(yaw, pitch), size)) for yaw in YAWS]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    sheet = folder / f"{Path(file).stem}.png"
    sheet.write_bytes(png(grid(torch.stack(columns, 1).flatten(0, 1), len(YAWS))))
    return {"sheet": str(sheet), **about(figure)}


def _column(figure: FileFigure, camera: Camera, size: int) -> list[Tensor]:
    view = guide(figure, camera, size)
    depth, points = view.pictures["depth"], view.pictures["keypoints"]
    pictures = [colors(figure, camera, size), depth, points, hybrid(depth, points)]
    return [picture.permute(2, 0, 1) for picture in pictures]


def colors(figure: FileFigure, camera: Camera, size: int, supersample: int = 2) -> Tensor:
    """The file's own colours in a plain light, uint8 [size, size, 3]."""
    label = camera.label()[None]
    buffer = rasterize(figure.vertices, figure.faces, label, size * supersample, figure.closed)
    normals = torch.nn.functional.normalize(buffer.interpolate(figure.normals), dim=1)
    light = torch.nn.functional.normalize(normals.new_tensor(_LIGHT), dim=0)
    shade = 0.55 + 0.45 * (normals @ light).clamp(min=0)
    return to_uint8(255 * buffer.blocks(figure.albedo(buffer) * shade[:, None], supersample, 0.2).mean(0)[0])
