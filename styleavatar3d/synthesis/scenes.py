"""What a picture is to show, before any pixel: a figure, a style, a camera, and the prompt for all three.

Everything about picture `index` follows from (run seed, index). Figures are parametric heads, or those of 3D files;
words are the closed ones of the miniature world, or, where the config has a section `prompts`, the full-size ones.
"""

import hashlib
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from styleavatar3d.camera.cameras import Camera
from styleavatar3d.config import Strict
from styleavatar3d.errors import ConfigError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import STYLES, Look, draw_look, visible_attributes
from styleavatar3d.runtime.random import uniform
from styleavatar3d.shards.schema import Coding
from styleavatar3d.shards.schema import Figure as Source
from styleavatar3d.synthesis.drawing import draw_prompt, settled_by
from styleavatar3d.synthesis.prompts import Prompt, compose
from styleavatar3d.synthesis.vocabulary import PromptsConfig, StyleModel

HEADS = "data/heads.safetensors"
HEADS_LICENCE = "CC0-1.0"


class DataConfig(Strict):
    """What is drawn. Near-front views are drawn more often: `front_share` of all have |yaw| < `front_yaw`."""

    count: int = Field(default=8000, ge=1)
    shard_size: int = Field(default=250, ge=1)
    resolution: int = Field(default=64, ge=16)
    figures: tuple[str, ...] = ()
    """3D files whose figures are posed, in turn; by default parametric heads, a new one each time"""
    views_per_figure: int = Field(default=3, ge=1)
    styles: tuple[str, ...] = STYLES
    """of the miniature world; full-size ones are chosen in the section prompts"""
    front_share: float = Field(default=0.35, ge=0, le=1)
    front_yaw: float = Field(default=50.0, gt=0, le=180)
    pitch: tuple[float, float] = (-15.0, 25.0)
    keep_guidance: bool = True
    """store the guidance pictures with each image"""
    masks: Literal["refined", "silhouette"] = "refined"
    """whether masks keep to the edges of the picture or to those of the figure that posed it"""
    coding: Literal["auto", "png", "jpeg"] = "auto"
    """of the images; auto is JPEG from 256 px on"""
    quality: int = Field(default=95, ge=1, le=95)
    """of JPEGs"""

    @property
    def files(self) -> Coding:
        """How pictures are kept."""
        return Coding.choose(self.coding, self.resolution, self.quality)


class Scene(NamedTuple):
    """One picture to be. `look` is the parametric head's; a figure from a file has a `path` instead."""

    index: int
    figure: Source
    look: Look | None
    path: str
    camera: Camera
    prompt: Prompt
    kind: str
    style: str
    attributes: dict[str, str]
    model: StyleModel | None = None
    """The network made for the style, where one is wanted."""


def draw_scene(
    seed: int, index: int, data: DataConfig, prompts: PromptsConfig | None = None, negatives: bool = True
) -> Scene:
    """The scene of picture `index`: views of one figure follow each other; in the miniature they share a style, and
    styles take turns."""
    kind, place, height = uniform(seed, "camera", index, 3).tolist()
    widest = data.front_yaw if kind < data.front_share else 180.0
    yaw, pitch = (2 * place - 1) * widest, data.pitch[0] + height * (data.pitch[1] - data.pitch[0])
    number = index // data.views_per_figure
    look = None if data.figures else draw_look(seed, number)
    path = data.figures[number % len(data.figures)] if data.figures else ""
    source = Source(id=f"{seed}/{number}", source=HEADS, licence=HEADS_LICENCE) if look else figure_source(path)
    camera = Camera.orbit(yaw, pitch)
    if prompts is not None:
        drawn = draw_prompt(seed, index, yaw, pitch, prompts, settled_by(look, prompts) if look else None)
        prompt = Prompt(drawn.text, drawn.negative if negatives else "")
        return Scene(index, source, look, path, camera, prompt, drawn.kind, drawn.style, drawn.attributes, drawn.model)
    if look is None:
        raise ConfigError(
            "the miniature world has no words for figures from files",
            got=f"data.figures {path}, no section prompts",
            remedy="add a section prompts (it may be empty: `prompts: {}`) and a full-size model",
        )
    style = data.styles[number % len(data.styles)]
    prompt = compose(look, style, yaw, pitch)
    prompt = prompt if negatives else prompt._replace(negative="")
    return Scene(index, source, look, "", camera, prompt, look.kind, style, visible_attributes(look, style, yaw))


def figure_of(scene: Scene) -> Any:
    """The figure to pose."""
    return _head(scene.look) if scene.look else _loaded(scene.path)


@cache
def figure_source(path: str) -> Source:
    """What the record says of a figure from a file. Raises StyleAvatarError for files that hold none."""
    figure = _loaded(path)
    return Source(id=figure.sha256, source=figure.source, licence=figure.licence)


def digest(path: str) -> str:
    """sha256 of a figure's file and of the landmarks beside it."""
    found = hashlib.sha256(Path(path).read_bytes())
    if (marks := landmarks_of(path)) is not None:
        found.update(marks.read_bytes())
    return found.hexdigest()


def landmarks_of(path: str) -> Path | None:
    """`NAME.landmarks.json` beside `NAME.glb`, if it is there."""
    beside = Path(path).with_suffix(".landmarks.json")
    return beside if beside.is_file() else None


@lru_cache(maxsize=2)
def _head(look: Look) -> Any:
    return build_figure(look)


@lru_cache(maxsize=8)
def _loaded(path: str) -> Any:
    from styleavatar3d.figures.files import load_figure

    return load_figure(path, landmarks_of(path))
