"""Pictures of the miniature world, with everything that is true about them: camera, depth, normals, parts, guidance."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.camera.cameras import Camera, orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import GuidedView, check_size, guided_views, to_uint8, unit, where_covered
from styleavatar3d.figures.heads import Bust
from styleavatar3d.figures.keypoints import SURFACE, seen
from styleavatar3d.figures.looks import ATTRIBUTES, BACKGROUNDS, HAIR_UNDER_HATS, SKINS, STYLES, Look, draw_look
from styleavatar3d.figures.rasterize import rasterize
from styleavatar3d.miniature.backgrounds import NAMES, paint
from styleavatar3d.miniature.styles import VIEW_DEPENDENT_STYLES, outline, shade
from styleavatar3d.runtime.random import key, uniform

NO_PART = 255
FRONT_SHARE, FRONT_YAW = 0.35, 50.0
"""More than a third of the views look at the face: there is more to learn there."""
PITCH = (-15.0, 25.0)
_CHUNK = 64
"""Figures a file: small enough to lose nothing much when stopped."""


@dataclass(frozen=True)
class RenderedView:
    """One picture and its truth."""

    image: UInt8[Tensor, "size size 3"]
    mask: UInt8[Tensor, "size size"]
    depth: Float[Tensor, "size size"]
    """Distance along the unit ray, world units; inf outside."""
    normals: Float[Tensor, "size size 3"]
    """World axes; 0 outside."""
    parts: UInt8[Tensor, "size size"]
    """Ids of `figures.heads`; NO_PART outside."""
    guidance: GuidedView
    view_dependent: bool
    """Whether the style draws what belongs to the picture and not to the figure: an outline."""


def render_view(
    figure: Bust, style: str, camera: Camera, size: int = 64, supersample: int = 2, background: str = NAMES[0]
) -> RenderedView:
    """One view of a figure in one of `looks.STYLES`, before one of `backgrounds.NAMES`."""
    return render_views(figure, style, camera.label()[None], size, supersample, [background])[0]


def render_views(
    figure: Bust,
    style: str,
    labels: Float[Tensor, "views 25"],
    size: int = 64,
    supersample: int = 2,
    backgrounds: Sequence[str] | None = None,
) -> list[RenderedView]:
    """Several views of one figure at once, which is faster than one at a time; `backgrounds` names one for each."""
    check_size(size, supersample)
    labels = labels.to(figure.vertices)
    buffer = rasterize(figure.vertices, figure.faces, labels, size * supersample, figure.closed)
    canonical, normals = buffer.interpolate(torch.cat([figure.canonical, figure.normals], 1)).split(3, 1)
    normals = unit(normals) * (1 - 2 * buffer.behind.to(normals))[:, None]
    colors, parts = shade(figure, style, canonical, normals, figure.parts[buffer.face])
    if style in VIEW_DEPENDENT_STYLES:
        colors = colors * (1 - 0.92 * outline(buffer, normals, parts))[:, None]
    samples = torch.cat([colors, normals, buffer.distance[:, None], torch.ones_like(colors[:, :1])], 1)
    color, normal, rest = buffer.blocks(samples, supersample, 0.0).mean(0).split((3, 3, 2), -1)
    distance, share = rest.unbind(-1)
    names = backgrounds or [NAMES[0]] * len(labels)
    behind = torch.stack([paint(name, size) for name in names]).to(color)
    image = to_uint8(255 * (color + (1 - share)[..., None] * behind))
    part = buffer.blocks(parts.to(torch.uint8), supersample, NO_PART).amin(0)
    guides = guided_views(figure, labels, share, where_covered(distance, share))
    drifts = style in VIEW_DEPENDENT_STYLES
    return [
        RenderedView(picture, guide.mask, guide.depth, outward, ids, guide, drifts)
        for picture, guide, outward, ids in zip(image, guides, unit(normal), part, strict=True)
    ]


def draw_cameras(seed: int, first: int, count: int) -> Float[Tensor, "count 25"]:
    """Labels of views `first` .. `first + count - 1`: all around, with the face drawn more often."""
    draws = torch.stack([uniform(seed, "camera", first + i, 3) for i in range(count)])
    front = draws[:, 0] < FRONT_SHARE
    yaw = torch.where(front, FRONT_YAW * (2 * draws[:, 1] - 1), 360 * draws[:, 1] - 180)
    return orbit_labels(yaw, PITCH[0] + (PITCH[1] - PITCH[0]) * draws[:, 2])


def draw_background(seed: int, index: int, share: float) -> str:
    """What view number `index` is drawn on: with a probability of `share` a background that prompts can name."""
    coin, which = uniform(seed, "background", index, 2).tolist()
    plain, *others = BACKGROUNDS
    return others[int(which * len(others))] if coin < share else plain


def draw_style(seed: int, index: int) -> str:
    """The style in which figure number `index` is drawn."""
    return STYLES[key(seed, "style", index) % len(STYLES)]


@cache
def fingerprint() -> str:
    """A digest of what this code draws: small pictures that hold every word of a look and every style, and some draws.

    A cache that is named by it outlives changes of the code that change no picture.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    draws = [(draw_look(0, i), draw_style(0, i), draw_background(0, i, 0.5)) for i in range(64)]
    whole = hashlib.sha256(repr(draws).encode())
    whole.update(draw_cameras(0, 0, 16).numpy().tobytes())
    labels = orbit_labels(torch.tensor([10.0, 130.0]), torch.tensor([5.0, -5.0]))
    for i, look in enumerate(_every_word()):
        names = [NAMES[i % len(NAMES)]] * 2
        for view in render_views(build_figure(look), STYLES[i % len(STYLES)], labels, 32, 1, names):
            for picture in (view.image, *view.guidance.pictures.values()):
                whole.update(picture.numpy().tobytes())
    torch.set_num_threads(threads)
    return whole.hexdigest()


def _every_word() -> list[Look]:
    """Looks in which every word of `ATTRIBUTES` is worn at least once."""
    looks = []
    for i in range(max(len(words) for words in ATTRIBUTES.values()) + len(STYLES)):
        words: dict[str, Any] = {name: words[i % len(words)] for name, words in ATTRIBUTES.items()}
        skins = SKINS[words["kind"]]
        words |= {"skin": skins[i // len(SKINS) % len(skins)], "smile": words["smile"] == "yes"}
        words |= {"hat": words["hat"] if words["hair"] in HAIR_UNDER_HATS else "none"}
        looks.append(Look(**words, build=i % 3 / 2, seed=i))
    return looks


def render_dataset(
    count: int,
    seed: int = 0,
    size: int = 64,
    workers: int = 1,
    views_per_figure: int = 3,
    supersample: int = 2,
    cache: str | Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    backgrounds: float = 0.0,
    landmarks: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """`count` views as stacked tensors: image [N, 3, size, size], mask [N, 1, ...], depth_rgb [N, 1, ...],
    keypoints_rgb [N, 3, ...] (uint8), labels [N, 25]; and lists of `looks`, `styles` and `backgrounds`, one entry a
    view. With `landmarks`, also landmarks [N, L, 2] (pixels) and landmarks_visible [N, L] (bool).

    View i shows figure i // views_per_figure; the share `backgrounds` of the views is drawn on a named background.
    What is rendered (by `device`, each of `workers` processes alone) is kept under `cache`, by a key of everything
    that it depends on (what this code draws too), so that an interrupted call goes on where it was.
    `progress(done, count, seconds left)` is called when a chunk of figures lands.
    """
    if count < 1 or workers < 1 or views_per_figure < 1 or not 0 <= backgrounds <= 1:
        raise StyleAvatarError(
            "nothing to render",
            got=f"count {count}, workers {workers}, views_per_figure {views_per_figure}, backgrounds {backgrounds}",
            expected="numbers of at least 1, and a share of backgrounds in [0, 1]",
        )
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise StyleAvatarError("there is no GPU to render on", got=device, remedy="leave device out")
    check_size(size, supersample)
    job = _Job(count, seed, size, views_per_figure, supersample, _CHUNK, backgrounds, landmarks, device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(cache or scratch) / f"renders-{job.key()}"
        folder.mkdir(parents=True, exist_ok=True)
        _render_all(job, folder, workers, progress)
        return _gather(job, folder)


@dataclass(frozen=True)
class _Job:
    count: int
    seed: int
    size: int
    views_per_figure: int
    supersample: int
    figures_per_chunk: int
    backgrounds: float
    landmarks: bool
    device: str

    @property
    def chunks(self) -> int:
        return -(-self.count // (self.views_per_figure * self.figures_per_chunk))

    def key(self) -> str:
        """Names what the pictures depend on, the code included; `count` only says how many are wanted."""
        same = {"count": 0, "draws": fingerprint(), "device": torch.device(self.device).type}
        return hashlib.sha256(json.dumps(asdict(self) | same, sort_keys=True).encode()).hexdigest()[:16]

    def figure(self, index: int) -> tuple[Look, str]:
        return draw_look(self.seed, index), draw_style(self.seed, index)

    def background(self, view: int) -> str:
        return draw_background(self.seed, view, self.backgrounds)

    def render(self, chunk: int) -> dict[str, Tensor]:
        """The tensors of one chunk, always whole, so that a larger `count` finds it again."""
        records = []
        for index in range(chunk * self.figures_per_chunk, (chunk + 1) * self.figures_per_chunk):
            records += self._records(index)
        return {name: torch.stack([record[name] for record in records]).cpu() for name in records[0]}

    def _records(self, index: int) -> list[dict[str, Tensor]]:
        """The views of one figure."""
        look, style = self.figure(index)
        figure, first = build_figure(look, self.device), index * self.views_per_figure
        labels = draw_cameras(self.seed, first, self.views_per_figure)
        names = [self.background(first + view) for view in range(self.views_per_figure)]
        views = render_views(figure, style, labels, self.size, self.supersample, names)
        records = [_record(view, label) for view, label in zip(views, labels, strict=True)]
        if self.landmarks:
            for record, xy, visible in zip(records, *seen(figure, figure.landmarks, SURFACE, labels), strict=True):
                record |= {"landmarks": xy * self.size, "landmarks_visible": visible}
        return records


def _record(view: RenderedView, label: Tensor) -> dict[str, Tensor]:
    return {
        "image": view.image.permute(2, 0, 1),
        "mask": view.mask[None],
        "depth_rgb": view.guidance.pictures["depth"][None, ..., 0],
        "keypoints_rgb": view.guidance.pictures["keypoints"].permute(2, 0, 1),
        "labels": label,
    }


def _chunk_path(folder: Path, chunk: int) -> Path:
    return folder / f"chunk-{chunk:06d}.safetensors"


def _render_all(job: _Job, folder: Path, workers: int, progress: Callable[[int, int, float], None] | None) -> None:
    """Render what is missing, in this process or in several."""
    missing = [chunk for chunk in range(job.chunks) if not _chunk_path(folder, chunk).exists()]
    started, reported = time.monotonic(), 0

    def report() -> None:
        nonlocal reported
        left = sum(not _chunk_path(folder, chunk).exists() for chunk in missing)
        done = len(missing) - left
        if progress and done > reported:
            reported = done
            seconds_left = (time.monotonic() - started) * left / done
            progress(job.count * (job.chunks - left) // job.chunks, job.count, seconds_left)

    if workers == 1 or len(missing) < 2:
        for chunk in missing:
            _render_chunk(job, folder, chunk)
            report()
        return
    lots = [missing[rank::workers] for rank in range(workers)]
    processes = [_start_worker(job, folder, lot) for lot in lots if lot]
    try:
        while any(process.poll() is None for process in processes):
            time.sleep(0.5)
            report()
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    failed = [process.returncode for process in processes if process.returncode]
    if failed:
        raise RuntimeError(f"a rendering process ended with code {failed[0]}; its message is above")


def _render_chunk(job: _Job, folder: Path, chunk: int) -> None:
    from safetensors.torch import save_file

    path = _chunk_path(folder, chunk)
    temporary = path.with_suffix(f".{os.getpid()}")
    save_file({name: tensor.contiguous() for name, tensor in job.render(chunk).items()}, temporary)
    temporary.replace(path)


def _start_worker(job: _Job, folder: Path, chunks: Sequence[int]) -> subprocess.Popen[bytes]:
    """A process of its own rather than a fork or spawn: it needs neither a clean nor an importable main module."""
    order = json.dumps({"job": asdict(job), "folder": str(folder), "chunks": list(chunks)})
    package_parent = str(Path(__file__).parents[2])
    path = os.pathsep.join([package_parent, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "styleavatar3d.miniature.renders", order], env=environment)


def _gather(job: _Job, folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    parts = [load_file(_chunk_path(folder, chunk)) for chunk in range(job.chunks)]
    stacked: dict[str, Any] = {name: torch.cat([part[name] for part in parts])[: job.count] for name in parts[0]}
    figures = [job.figure(index) for index in range(-(-job.count // job.views_per_figure))]
    shown = [figures[view // job.views_per_figure] for view in range(job.count)]
    return stacked | {
        "looks": [look for look, _ in shown],
        "styles": [style for _, style in shown],
        "backgrounds": [job.background(view) for view in range(job.count)],
    }


def _work(order: str) -> None:
    torch.set_num_threads(1)
    read = json.loads(order)
    for chunk in read["chunks"]:
        _render_chunk(_Job(**read["job"]), Path(read["folder"]), chunk)


if __name__ == "__main__":
    _work(sys.argv[1])
