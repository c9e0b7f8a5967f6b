"""The page at the end of the quickstart: everything that was made, in one HTML file that needs nothing else."""

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from styleavatar3d.avatar.files import write_whole
from styleavatar3d.avatar.viewer import data_uri, read_glb, viewer_element, viewer_script
from styleavatar3d.errors import StyleAvatarError

Media = str | Path | Image.Image | np.ndarray | UInt8[Tensor, "3 height width"]
"""a .png, .jpg or .mp4 file, or a picture: PIL, uint8 array [height, width, 3] or tensor [3, height, width]"""

TITLE = "StyleAvatar3D"
LEAD = (
    "A sentence or a picture becomes a 3D head that you can turn, film, export and sell. The avatars on this page were "
    "made on this machine a moment ago, without a GPU or a download; below them is the whole road that led there."
)
_GUIDANCE = (
    "Parametric heads in ten art styles. Their depth and key points, from cameras known exactly, will guide "
    "the diffusion model."
)
_VIEWS = (
    "A diffusion model with a ControlNet paints each guidance picture after a prompt. The camera of every painted "
    "picture is known, so that no pose has to be estimated."
)
_SAMPLES = (
    "A generative network learned from such pictures what heads look like from all around. Each of these is a random "
    "draw: a volume, not a picture."
)
_AVATARS = (
    "Ask in words, or show a picture of a head. A diffusion model over the generator's style codes answers in one "
    "pass, without any optimisation."
)
_MESH = "{}, with colours and in metres, y up: drag to turn it, it opens in Blender, Unity, Unreal and on web pages."
_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".mp4": "video/mp4"}
_STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Card:
    """Pictures and films side by side, over a title and a line of text."""

    media: Sequence[Media]
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Timing:
    """One stage of the road. `origin` says where its result comes from: "ran here, 96 views", or "shipped"."""

    stage: str
    seconds: float
    origin: str


@dataclass(frozen=True)
class Command:
    """What to do next, and the line to type for it."""

    purpose: str
    line: str


@dataclass(frozen=True)
class QuickstartPage:
    """What the page shows: first what a visitor came for, then the road there."""

    guidance: Sequence[Card]
    """each a figure, its depth and its key points"""
    views: Sequence[Card]
    """each guidance and the picture synthesised from it; the text is its prompt"""
    samples: Sequence[Card]
    """pictures or turntables of plain draws from the generator"""
    avatars: Sequence[Card]
    """each a turntable (after the picture it was made for, if any); the title is the prompt"""
    glb: Path
    timings: Sequence[Timing]
    commands: Sequence[Command]
    summary: str
    """a sentence on what ran here and what was shipped"""
    footer: str = "Made by a machine. Code, weights and everything on this page: Apache-2.0."


def write_page(out_html: str | Path, page: QuickstartPage) -> Path:
    """Write the page as one self-contained file and return its path. Raises if a picture, film or GLB is missing."""
    sections = [
        _section("Avatars on request", _AVATARS, _cards(page.avatars, 230)),
        _section(
            "A mesh to take away",
            _MESH.format(page.glb.name),
            viewer_element(read_glb(page.glb), "the first avatar as a mesh"),
        ),
        _section("How it works: posed figures", _GUIDANCE, _cards(page.guidance, 300)),
        _section("... painted by a diffusion model", _VIEWS, _cards(page.views, 210)),
        _section("... teach a generator of 3D heads", _SAMPLES, _cards(page.samples, 230)),
        _section("What ran, and how long", page.summary, _timings(page.timings)),
        _section("Next", "", _commands(page.commands)),
    ]
    return write_whole(out_html, _document(sections, page.footer).encode())


def _document(sections: Sequence[str], footer: str) -> str:
    style = (_STATIC / "page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{TITLE}</title>\n<style>\n{style}</style></head>\n"
        f'<body><main>\n<header><h1>{TITLE}</h1><p class="lead">{LEAD}</p></header>\n'
        + "\n".join(sections)
        + f"\n<footer>{html.escape(footer)}</footer>\n</main>\n"
        f'<script type="module">{viewer_script()}</script></body></html>\n'
    )


def _section(title: str, text: str, body: str) -> str:
    said = f"<p>{html.escape(text)}</p>" if text else ""
    return f"<section><h2>{html.escape(title)}</h2>{said}\n{body}</section>"


def _cards(cards: Sequence[Card], least_width: int) -> str:
    return f'<div class="cards" style="--least: {least_width}px">' + "".join(map(_card, cards)) + "</div>"


def _card(card: Card) -> str:
    title = f"<b>{html.escape(card.title)}</b>" if card.title else ""
    caption = f"<figcaption>{title}{html.escape(card.text)}</figcaption>" if title or card.text else ""
    alt = html.escape(card.title or card.text)
    return f'<figure><div class="media">{"".join(_medium(one, alt) for one in card.media)}</div>{caption}</figure>'


def _medium(medium: Media, alt: str) -> str:
    if not isinstance(medium, (str, Path)):
        return f'<img src="{data_uri(_png(medium), "image/png")}" alt="{alt}">'
    path = Path(medium)
    if path.suffix.lower() not in _KINDS or not path.is_file():
        raise StyleAvatarError("the page cannot show this", got=str(path), expected=f"a file of {', '.join(_KINDS)}")
    source = data_uri(path.read_bytes(), _KINDS[path.suffix.lower()])
    if path.suffix.lower() == ".mp4":
        return f'<video src="{source}" aria-label="{alt}" autoplay loop muted playsinline></video>'
    return f'<img src="{source}" alt="{alt}">'


def _png(picture: Image.Image | np.ndarray | Tensor) -> bytes:
    if isinstance(picture, Tensor):
        picture = picture.permute(1, 2, 0).contiguous().cpu().numpy()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _timings(timings: Sequence[Timing]) -> str:
    longest = max((timing.seconds for timing in timings), default=1.0) or 1.0
    rows = "".join(
        f"<tr><td>{html.escape(timing.stage)}</td><td>{html.escape(timing.origin)}</td>"
        f'<td class="seconds">{_duration(timing.seconds)}</td>'
        f'<td class="bar"><i style="width: {100 * timing.seconds / longest:.1f}%"></i></td></tr>'
        for timing in timings
    )
    total = _duration(sum(timing.seconds for timing in timings))
    head = '<tr><th>Stage</th><th>Where its result comes from</th><th style="text-align: right">Time</th><th></th></tr>'
    foot = f'<tr><td><b>Together</b></td><td></td><td class="seconds"><b>{total}</b></td><td></td></tr>'
    return f'<div class="scroll"><table>{head}{rows}{foot}</table></div>'


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"


def _commands(commands: Sequence[Command]) -> str:
    entries = (f"<dt>{html.escape(one.purpose)}</dt><dd><pre>{html.escape(one.line)}</pre></dd>" for one in commands)
    return f"<dl>{''.join(entries)}</dl>"
