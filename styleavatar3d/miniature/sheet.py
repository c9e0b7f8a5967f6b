"""A sheet of figures beside the pictures that guide the diffusion model: what `styleavatar3d guidance` writes."""

from pathlib import Path
from typing import Any

import torch

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import hybrid
from styleavatar3d.figures.looks import STYLES, draw_look
from styleavatar3d.miniature.renders import render_view
from styleavatar3d.runtime.media import grid, png

YAWS = (0.0, 40.0, -75.0, 160.0)


def write_guidance(out: str, count: int = 6, seed: int = 0, size: int = 128) -> dict[str, Any]:
    """Write, for each of `count` figures, the render, its depth, its key points and both in one; and a sheet of all."""
    if not 1 <= count <= 256 or not 16 <= size <= 1024:
        raise StyleAvatarError("no such sheet", got=f"{count} figures of {size} px", expected="1-256 of 16-1024 px")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows, files = [], []
    for index in range(count):
        view = render_view(
            build_figure(draw_look(seed, index)), STYLES[index % len(STYLES)], Camera.orbit(YAWS[index % 4], 5.0), size
        )
        guide = view.guidance
        pictures = {
            "figure": view.image,
            "depth": guide.depth_rgb,
            "keypoints": guide.keypoints_rgb,
            "hybrid": hybrid(guide.depth_rgb, guide.keypoints_rgb),
        }
        for kind, picture in pictures.items():
            files.append(str(folder / f"{index:03d}-{kind}.png"))
            Path(files[-1]).write_bytes(png(picture.permute(2, 0, 1)))
        rows += [picture.permute(2, 0, 1) for picture in pictures.values()]
    sheet = folder / "sheet.png"
    sheet.write_bytes(png(grid(torch.stack(rows), columns=8)))
    return {"out": out, "sheet": str(sheet), "files": files}
