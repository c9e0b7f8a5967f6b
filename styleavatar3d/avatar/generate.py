"""Avatars as files: what `styleavatar3d generate` and `export` write."""

import hashlib
import io
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from styleavatar3d import __version__
from styleavatar3d.avatar.avatar import Avatar
from styleavatar3d.avatar.files import write_whole
from styleavatar3d.avatar.glb import to_glb
from styleavatar3d.avatar.requests import Request, read_table
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.media import grid, mp4, png

VIEWS = {"front": 0.0, "left": 90.0, "right": -90.0, "back": 180.0}
"""named views and their yaw in degrees; left is the figure's own left"""
MESH_FORMATS = (".glb", ".obj", ".ply", ".stl")


def generate(
    prompts: Sequence[str] = (),
    images: Sequence[str] = (),
    seeds: Sequence[int] = (),
    out: str = "runs/generate",
    model: str | None = None,
    size: int = 128,
    mesh: int = 128,
    frames: int = 48,
    table: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Make avatars and write for each a folder of `out`: four PNG views, an MP4 turntable, a GLB, the avatar file and
    its provenance as JSON; and a sheet of all fronts.

    `mesh` is the grid side of the GLB (0: none), `frames` the length of the turntable (0: none). `table` is a CSV of
    more requests. `settings` are fields of `Request` for all of them; what a row of the table says goes before.
    """
    asked = _requests(prompts, images, seeds, table)
    if not asked and not settings.get("attributes"):
        raise StyleAvatarError("nothing was asked for", expected="--prompt, --image, --attributes, --seeds or --table")
    asked = asked or {"avatar": {}}
    from styleavatar3d.avatar.pipelines import AvatarPipeline

    start = time.monotonic()
    alone = all(request.keys() <= {"seed", "truncation"} for request in asked.values()) and not settings.get(
        "attributes"
    )
    pipeline = AvatarPipeline.from_pretrained(model, seeds_only=alone)
    loaded = time.monotonic()
    avatars: dict[str, Avatar] = {}
    first_view = 0.0
    for name, request in asked.items():
        made = pipeline.make(Request(**_opened(settings | request, pipeline)))
        made[0].render(size=size)
        first_view = first_view or time.monotonic() - loaded
        avatars |= {f"{name}-{i:02d}" if len(made) > 1 else name: avatar for i, avatar in enumerate(made)}
    written = [_write(avatar, Path(out) / name, size, mesh, frames) for name, avatar in avatars.items()]
    front = pipeline.generator.orbit(torch.zeros(1), torch.zeros(1))
    fronts = torch.cat([avatar.views(front, size) for avatar in avatars.values()])
    write_whole(Path(out) / "sheet.png", png(grid(fronts, columns=min(8, len(fronts)))))
    return {
        "out": out,
        "avatars": written,
        "sheet": str(Path(out) / "sheet.png"),
        "seconds_to_load": round(loaded - start, 2),
        "seconds_to_first_view": round(first_view, 2),
        "seconds": round(time.monotonic() - start, 2),
    }


def walk(
    avatars: Sequence[str],
    out: str = "runs/walk.mp4",
    frames: int = 96,
    size: int = 128,
    turns: int = 1,
    model: str | None = None,
) -> dict[str, Any]:
    """A film of the way through avatar files and back to the first, while the camera goes `turns` times around."""
    from styleavatar3d.avatar.pipelines import AvatarPipeline
    from styleavatar3d.avatar.walk import write_walk

    generator = AvatarPipeline.from_pretrained(model, seeds_only=True).generator
    write_walk(out, [Avatar.load(path, generator) for path in avatars], frames, size, turns)
    return {"out": out, "avatars": len(avatars), "frames": frames}


def mix(
    coarse: str, fine: str, first: int, out: str, size: int = 128, mesh: int = 128, frames: int = 48,
    model: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The shapes of one avatar file with the details of another, from slot `first` on, as the files of an avatar."""
    from styleavatar3d.avatar import walk as ways
    from styleavatar3d.avatar.pipelines import AvatarPipeline

    generator = AvatarPipeline.from_pretrained(model, seeds_only=True).generator
    mixed = ways.mix(Avatar.load(coarse, generator), Avatar.load(fine, generator), first)
    return _write(mixed, Path(out), size, mesh, frames)


def export(avatar: str, out: str, mesh: int = 128, model: str | None = None) -> dict[str, Any]:
    """The mesh of an avatar file as .glb, .obj, .ply or .stl, in metres, y up."""
    from styleavatar3d.avatar.pipelines import AvatarPipeline

    ending = Path(out).suffix.lower()
    if ending not in MESH_FORMATS:
        raise StyleAvatarError("this is no format of meshes here", got=out, expected=" ".join(MESH_FORMATS))
    surface = Avatar.load(avatar, AvatarPipeline.from_pretrained(model, seeds_only=True).generator).mesh(mesh)
    if ending == ".glb":
        write_whole(out, to_glb(surface))
    else:
        import trimesh

        shape = trimesh.Trimesh(
            surface.vertices,
            surface.faces,
            vertex_normals=surface.normals,
            process=False,
            vertex_colors=(surface.colors * 255).round().astype("uint8"),
        )
        data = shape.export(file_type=ending[1:])
        write_whole(out, data if isinstance(data, bytes) else str(data).encode())
    return {"out": out, "vertices": len(surface.vertices), "faces": len(surface.faces)}


def _requests(
    prompts: Sequence[str], images: Sequence[str], seeds: Sequence[int], table: str
) -> dict[str, dict[str, Any]]:
    """What was asked for, each under the name of its folder."""
    asked: list[tuple[str, dict[str, Any]]] = [(_slug(prompt), {"prompt": prompt}) for prompt in prompts]
    asked += [(_slug(Path(image).stem), {"image": image}) for image in images]
    asked += [(f"seed-{seed:04d}", {"seed": seed}) for seed in seeds]
    for number, row in enumerate(read_table(table) if table else [], 1):
        asked.append((_slug(row.pop("name", "")) if "name" in row else f"row-{number:04d}", row))
    names: dict[str, dict[str, Any]] = {}
    for name, request in asked:
        number = sum(taken == name or taken.startswith(f"{name}.") for taken in names)
        names[f"{name}.{number + 1}" if number else name] = request
    return names


def _opened(request: dict[str, Any], pipeline: Any) -> dict[str, Any]:
    """The same with the avatar in place of the name of its file."""
    start = request.get("start")
    return request | {"start": Avatar.load(start, pipeline.generator) if start else None}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "avatar"


def _write(avatar: Avatar, folder: Path, size: int, mesh: int, frames: int) -> dict[str, Any]:
    """Make every file of one avatar, then write them: an error leaves no half of a set behind."""
    files = artefacts(avatar, size, mesh, frames)
    for name, data in files.items():
        write_whole(folder / name, data)
    return {"folder": str(folder), "files": sorted(files), **avatar.provenance["request"]}


def artefacts(avatar: Avatar, size: int, mesh: int, frames: int) -> dict[str, bytes]:
    """The files of one avatar by name. Every one says that a machine made it, from what, under which licence."""
    about = {**avatar.provenance, "software": f"styleavatar3d {__version__}"}
    about["config_hash"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    avatar = Avatar(avatar.codes, avatar.generator, about)
    yaw = torch.tensor(list(VIEWS.values()))
    views = avatar.views(avatar.generator.orbit(yaw, torch.zeros(len(yaw))), size)
    files = {f"{name}.png": _signed_png(view, about) for name, view in zip(VIEWS, views, strict=True)}
    if frames:
        files["turntable.mp4"] = mp4(avatar.turn(frames, size + size % 2))
    if mesh:
        files["avatar.glb"] = to_glb(avatar.mesh(mesh))
    files["avatar.safetensors"] = avatar.to_bytes()
    files["provenance.json"] = json.dumps(about, indent=2).encode()
    return files


def _signed_png(view: torch.Tensor, about: dict[str, Any]) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    notes, buffer = PngInfo(), io.BytesIO()
    notes.add_text("provenance", json.dumps(about))
    Image.fromarray(view.permute(1, 2, 0).numpy()).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()
