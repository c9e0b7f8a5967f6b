"""The pictures that teach a LoRA: found, checked, turned upright, flattened, scaled, cropped; and what is said of each.

A picture is scaled so that its shorter side is the training size and cropped to a square, in the middle or, of one
that is taller than wide, at the top, where the head is. What it was is kept: SDXL is told (arXiv 2307.01952, 2.2).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Any, Literal, NamedTuple

import numpy
import torch
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from styleavatar3d.config import Strict, read_yaml
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.licences import NOT_STATED
from styleavatar3d.runtime.pictures import eight_bits, open_picture, upright

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FEWEST, WIDEST, COARSEST = 4, 3, 2
"""Fewer pictures are learned by heart; longer sides than 3 to 1 lose what matters; beyond x 2 only blur is learned."""


class LoraData(Strict):
    """About ten pictures of one character or in one style, and how they are called."""

    pictures: str | tuple[str, ...]
    """folders and files; in a folder all files with a picture's suffix"""
    trigger: str = Field(pattern=r"\w")
    """the words that call the character or style in prompts; rare ones keep their usual meaning out of it"""
    captions: str = ""
    """YAML or JSON {file name: text}, or JSON lines {"file_name", "text"}; by default texts beside the pictures
    (face.png, face.txt), or none"""
    template: str = "{trigger}, {caption}"
    """the prompt of a picture"""
    resolution: int = Field(default=512, ge=16, le=2048)
    crop: Literal["middle", "top"] = "middle"
    background: tuple[int, int, int] = (255, 255, 255)
    """what transparent parts are laid on, red green blue"""
    licence: str = NOT_STATED
    """of the pictures, as their owner states it; it goes into the model card and all that is made with the LoRA"""

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        fields = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        if "trigger" not in fields or set(fields) - {"trigger", "caption"}:
            raise ValueError("a template names {trigger}, may name {caption}, and nothing else in braces")
        return template

    @model_validator(mode="after")
    def _consistent(self):
        if self.captions and "{caption}" not in self.template:
            raise ValueError("captions are given, but the template has no {caption}")
        return self

    def prompt(self, caption: str) -> str:
        """The template, filled: without caption also without what would have joined it."""
        return " ".join(self.template.format(trigger=self.trigger, caption=caption).split()).strip(" ,")


class Example(NamedTuple):
    """One picture at the training size, its prompt, and what was made of it."""

    name: str
    pixels: UInt8[Tensor, "3 size size"]
    prompt: str
    original: tuple[int, int]
    """height and width before scaling"""
    corner: tuple[int, int]
    """top and left of the crop in the scaled picture"""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()


def read_examples(data: LoraData) -> list[Example]:
    """All pictures, by name.

    Raises:
        StyleAvatarError: there are fewer than `FEWEST` different ones; one is no picture, too small or too long; a
            caption is missing or of no picture
    """
    files = find_pictures((data.pictures,) if isinstance(data.pictures, str) else data.pictures)
    captions = _read_captions(data.captions, files) if data.captions else {path: _text_beside(path) for path in files}
    examples = [_prepare(path, captions[path], data) for path in files]
    first: dict[str, str] = {}
    named = [(one.name, first.setdefault(one.digest, one.name)) for one in examples]
    twins = [f"{name} = {other}" for name, other in named if name != other]
    if len(first) < FEWEST:
        raise StyleAvatarError(
            "these are too few pictures to learn from",
            got=f"{len(first)} different of {len(files)}" + (f" ({', '.join(twins)})" if twins else ""),
            expected=f"about ten different ones, at least {FEWEST}",
            remedy="add views, poses and expressions of the same character or style",
        )
    return examples


def find_pictures(sources: Sequence[str]) -> list[Path]:
    """The files meant: those named, and those with a picture's suffix in the folders named. Each once, sorted."""
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inside = [path for path in source.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != "."]
            if not inside:
                raise StyleAvatarError(
                    "there is no picture in this folder", got=str(source), expected=f"files named {', '.join(SUFFIXES)}"
                )
            found += inside
        elif source.is_file():
            found.append(source)
        else:
            raise StyleAvatarError(
                "there are no such pictures", got=str(source), expected="a folder of about ten, or files, on this disk",
                remedy="name them with --data.pictures; `styleavatar3d bench lora` makes ten",
            )  # fmt: skip
    return sorted({path.resolve(): path for path in found}.values(), key=lambda path: (path.name, str(path)))


def _prepare(path: Path, caption: str, data: LoraData) -> Example:
    image = eight_bits(upright(open_picture(path, str(path)), str(path)))
    width, height = image.size
    _check_size(path, width, height, data.resolution)
    scale = data.resolution / min(width, height)
    image = _flatten(image, data.background)
    image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    left = (image.width - data.resolution) // 2
    top = 0 if data.crop == "top" else (image.height - data.resolution) // 2
    image = image.crop((left, top, left + data.resolution, top + data.resolution))
    pixels = torch.from_numpy(numpy.array(image)).permute(2, 0, 1).contiguous()
    return Example(path.name, pixels, data.prompt(caption), (height, width), (top, left))


def _check_size(path: Path, width: int, height: int, resolution: int) -> None:
    if COARSEST * min(width, height) < resolution:
        raise StyleAvatarError(
            "this picture is too small", got=f"{path}: {width} x {height}",
            expected=f"a shorter side of at least {-(-resolution // COARSEST)} px to learn at {resolution}",
            remedy="find a larger one, or lower data.resolution",
        )  # fmt: skip
    if max(width, height) > WIDEST * min(width, height):
        raise StyleAvatarError(
            "this picture is too long for a square", got=f"{path}: {width} x {height}",
            expected=f"sides of at most {WIDEST} to 1", remedy="crop it to what is to be learned",
        )  # fmt: skip


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")


def _text_beside(path: Path) -> str:
    beside = path.with_suffix(".txt")
    return beside.read_text(encoding="utf-8", errors="replace").strip() if beside.is_file() else ""


def _read_captions(name: str, files: Sequence[Path]) -> dict[Path, str]:
    """The caption of each file. Raises StyleAvatarError unless pictures and captions are the same."""
    if not (path := Path(name)).is_file():
        raise StyleAvatarError("there is no such file of captions", got=name)
    rows: dict[str, Any] = _read_lines(path) if path.suffix == ".jsonl" else read_yaml(path)
    wrong = [str(key) for key, text in rows.items() if not (isinstance(key, str) and isinstance(text, str))]
    if wrong:
        raise StyleAvatarError("a caption is no text", got=", ".join(wrong), expected="{file name: text}")
    names = {file.name for file in files}
    if missing := sorted(names - set(rows)):
        raise StyleAvatarError("a picture has no caption", got=", ".join(missing), remedy=f"add it to {path}")
    if unknown := sorted(set(rows) - names):
        raise StyleAvatarError("a caption is of no picture", got=", ".join(unknown), expected="names of the pictures")
    return {file: rows[file.name].strip() for file in files}


def _read_lines(path: Path) -> dict[str, Any]:
    """JSON lines as `datasets` reads them beside a folder of pictures: metadata.jsonl."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {row["file_name"]: row["text"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise StyleAvatarError(
            f"these captions cannot be read: {error}", got=str(path), expected='lines {"file_name": ..., "text": ...}'
        ) from None
