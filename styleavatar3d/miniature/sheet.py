"""Contact sheets: figures beside the pictures that guide the diffusion model, and everything that a look can name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.camera.cameras import Camera, orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import KINDS as GUIDES
from styleavatar3d.figures.guidance import guide, hybrid
from styleavatar3d.figures.heads import HeadModel
from styleavatar3d.figures.looks import ATTRIBUTES, STYLES, Look, draw_look
from styleavatar3d.miniature import backgrounds
from styleavatar3d.miniature.renders import render_view, render_views
from styleavatar3d.runtime.media import grid, png

_STEP = 4
"""Colours of contact sheets are rounded, which nobody sees, and which halves the files."""
YAWS = (0.0, 40.0, -75.0, 160.0)
HAIR_YAWS = (0.0, 45.0, 90.0, 135.0, 180.0)
GUIDE_YAWS = (0.0, 40.0, -75.0, 130.0, 180.0)
WOMAN = Look(gender="woman", skin="tan", hair="long", hair_color="red", eyes="green", shirt_color="blue",
             smile=True, seed=3)  # fmt: skip
MAN = Look(gender="man", skin="brown", hair="quiff", hair_color="black", beard="full beard", shirt="collared shirt",
           shirt_color="yellow", seed=21)  # fmt: skip
KINDS = (
    WOMAN,
    MAN,
    Look(kind="alien", skin="purple", hair="bob", hair_color="pink", eyes="yellow", shirt="turtleneck",
         shirt_color="white", smile=True, seed=9),
    Look(kind="orc", gender="man", skin="green", hair="mohawk", hair_color="black", eyes="yellow",
         shirt_color="red", seed=11),
    Look(kind="robot", skin="silver", hair="bald", eyes="blue", shirt_color="purple", smile=True, seed=13),
    Look(kind="statue", gender="man", skin="stone", hair="curly", hair_color="white", beard="full beard", seed=14),
)  # fmt: skip
"""One of each kind, and two of the first."""


def write_guidance(
    out: str, count: int = 6, seed: int = 0, size: int = 128, kinds: Sequence[str] = GUIDES
) -> dict[str, Any]:
    """Write, for each of `count` figures, the render and its guidance of all `kinds`, and a sheet of all.

    Asked for both, depth and key points are also drawn into one picture.
    """
    if not 1 <= count <= 256 or not 16 <= size <= 1024:
        raise StyleAvatarError("no such sheet", got=f"{count} figures of {size} px", expected="1-256 of 16-1024 px")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows, files = [], []
    for index in range(count):
        figure, camera = build_figure(draw_look(seed, index)), Camera.orbit(YAWS[index % 4], 5.0)
        view = render_view(figure, STYLES[index % len(STYLES)], camera, size)
        pictures = {"figure": view.image} | guide(figure, camera, size, kinds).pictures
        if {"depth", "keypoints"} <= pictures.keys():
            pictures["hybrid"] = hybrid(pictures["depth"], pictures["keypoints"])
        for kind, picture in pictures.items():
            files.append(str(folder / f"{index:03d}-{kind}.png"))
            Path(files[-1]).write_bytes(png(picture.permute(2, 0, 1)))
        rows += [picture.permute(2, 0, 1) for picture in pictures.values()]
    sheet = folder / "sheet.png"
    sheet.write_bytes(png(grid(torch.stack(rows), columns=len(pictures))))
    return {"out": out, "sheet": str(sheet), "files": files}


def write_sheets(out: str, size: int = 96) -> dict[str, Any]:
    """Write the contact sheets of docs/styles.md into the folder `out`, pictures `size` pixels square."""
    if not 32 <= size <= 512:
        raise StyleAvatarError("no such sheet", got=f"pictures of {size} px", expected="32-512 px")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, sheet in _SHEETS.items():
        files.append(str(folder / f"{name}.png"))
        steps = (sheet(size).int() + _STEP // 2) // _STEP * _STEP
        Path(files[-1]).write_bytes(png(steps.clamp(max=255).to(torch.uint8)))
    return {"out": out, "files": files}


def _views(look: Look, style: str, yaws: Sequence[float], size: int, **more: Any) -> list[Tensor]:
    """Pictures [3, size, size] of one figure from several sides."""
    labels = orbit_labels(torch.tensor(yaws), torch.full((len(yaws),), 5.0))
    views = render_views(build_figure(look, **more), style, labels, size)
    return [view.image.permute(2, 0, 1) for view in views]


def _styles(size: int) -> Tensor:
    """A row for each kind, a column for each style."""
    cells = [_views(look, style, [25.0], size)[0] for look in KINDS for style in STYLES]
    return grid(torch.stack(cells), columns=len(STYLES))


def _hair(size: int) -> Tensor:
    """A row for each yaw, a column for each cut."""
    looks = [replace(WOMAN, hair=cut, hair_color="brown", skin="pale", seed=40) for cut in ATTRIBUTES["hair"]]
    columns = [torch.stack(_views(look, "cartoon", HAIR_YAWS, size)) for look in looks]
    return grid(torch.stack(columns, 1).flatten(0, 1), columns=len(looks))


def _people(size: int) -> Tensor:
    """Women above, men below; children, young and old people of four skins."""
    cells = []
    for gender in ("woman", "man"):
        for age, hair in (("child", "short"), ("young", "ponytail"), ("old", "bun")):
            hair = hair if gender == "woman" else "buzz cut"
            for index, skin in enumerate(ATTRIBUTES["skin"][:4]):
                color = "white" if age == "old" else ATTRIBUTES["hair_color"][index]
                look = Look(gender=gender, age=age, skin=skin, hair=hair, hair_color=color, smile=index % 2 == 0,
                            shirt=ATTRIBUTES["shirt"][index], shirt_color=ATTRIBUTES["shirt_color"][index],
                            build=index / 3, seed=100 + len(cells))  # fmt: skip
                cells += _views(look, "cartoon", [15.0], size)
    return grid(torch.stack(cells), columns=12)


def _worn(size: int) -> Tensor:
    """Beards, glasses, hats and shirts, from the left and from the right."""
    man = replace(MAN, hair="short", beard="none", skin="pale", hair_color="brown", smile=True)
    looks = [replace(man, beard=beard) for beard in ATTRIBUTES["beard"][1:]]
    looks += [replace(WOMAN, glasses=glasses) for glasses in ATTRIBUTES["glasses"][1:]]
    looks += [replace(WOMAN, hat=hat, hair="braids") for hat in ATTRIBUTES["hat"][1:]]
    looks += [replace(man, shirt=shirt) for shirt in ATTRIBUTES["shirt"]]
    pairs = [torch.stack(_views(look, "toy", [-30.0, 30.0], size)) for look in looks]
    return grid(torch.stack(pairs, 1).flatten(0, 1), columns=len(looks))


def _expressions(size: int) -> Tensor:
    """The neutral face, the 52 expressions in their order, and a look's smile, cut out around the face."""
    look = replace(WOMAN, smile=False, hair="short", skin="pale")
    margin = size // 4
    cells = [_views(look, "cartoon", [0.0], size + 2 * margin)[0]]
    for name in HeadModel.load().expressions.names:
        cells += _views(look, "cartoon", [0.0], size + 2 * margin, expression={name: 1.0})
    cells += _views(replace(look, smile=True), "cartoon", [0.0], size + 2 * margin)
    faces = torch.stack(cells)[:, :, margin : margin + size, margin : margin + size]
    return grid(faces, columns=9)


def _backgrounds(size: int) -> Tensor:
    figure, cells = build_figure(WOMAN), []
    for name in backgrounds.NAMES:
        view = render_view(figure, "cartoon", Camera.orbit(-20.0, 5.0), size, background=name)
        cells.append(view.image.permute(2, 0, 1))
    return grid(torch.stack(cells), columns=len(cells))


def _guidance(size: int) -> Tensor:
    """A row for the picture and one for each kind of guidance, a column for each yaw; larger, for lines to be seen."""
    figure, rows, size = build_figure(replace(MAN, beard="none", glasses="round glasses")), [], size * 5 // 3
    for yaw in GUIDE_YAWS:
        camera = Camera.orbit(yaw, 5.0)
        guides = guide(figure, camera, size, GUIDES).pictures.values()
        rows.append(torch.stack([render_view(figure, "cartoon", camera, size).image, *guides]))
    return grid(torch.stack(rows, 1).flatten(0, 1).permute(0, 3, 1, 2), columns=len(GUIDE_YAWS))


_SHEETS = {
    "guidance": _guidance,
    "styles": _styles,
    "hair": _hair,
    "people": _people,
    "worn": _worn,
    "expressions": _expressions,
    "backgrounds": _backgrounds,
}
