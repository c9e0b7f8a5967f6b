"""What the data engine's two ideas are worth in the miniature: view words in the prompt, and which guidance poses it.

Every row draws the same figures, styles, cameras and seeds, so that rows differ by what they are named for alone. The
claims are those of StyleAvatar3D (arXiv 2305.19012): view prompts keep faces off the backs of heads, hybrid guidance
is the steadiest, attributes in the prompt make for variety.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.bench.held_out import HELD_OUT, show, signed
from styleavatar3d.bench.workers import fill
from styleavatar3d.camera.cameras import Camera
from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import ATTRIBUTES, Look, draw_look, visible_attributes
from styleavatar3d.metrics.alignment import BACK, Request, stated
from styleavatar3d.metrics.features import digest
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.metrics.store import FeatureStore
from styleavatar3d.metrics.store import Measured as Part
from styleavatar3d.miniature.renders import draw_style, render_view
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.random import key, uniform
from styleavatar3d.shards.schema import Guidance
from styleavatar3d.synthesis.prompts import Prompt, compose

SIZE, STEPS, SCALE, BATCH = 64, 10, 2.0, 25
KINDS = {"depth": ("depth",), "keypoints": ("keypoints",), "hybrid": ("depth", "keypoints")}
PITCH = (-15.0, 25.0)
_CAP = 90.0
"""Degrees beyond which a picture counts as facing elsewhere, however far: else a few mirrored ones rule a mean."""
_SURE = 2.0
"""Standard errors by which rows must differ for a claim to be held or refuted."""


@dataclass(frozen=True)
class Row:
    """What one row leaves in the prompt and how it is posed."""

    guidance: str
    views: bool
    attributes: bool = True

    @property
    def name(self) -> str:
        words = "view words" if self.views else "no view words"
        return f"{self.guidance}, {words}" + ("" if self.attributes else ", no attributes")


RENDERS = "renders"
ROWS = (*(Row(kind, views) for views in (True, False) for kind in KINDS), Row("hybrid", True, attributes=False))


@dataclass(frozen=True)
class Scenes:
    """Figures of a held-out population, all around which cameras are spread evenly."""

    looks: list[Look]
    styles: list[str]
    cameras: list[Camera]
    seeds: list[int]
    """of the noise"""

    @classmethod
    def draw(cls, which: range, seed: int) -> "Scenes":
        population = seed + HELD_OUT
        places = [uniform(population, "ablation", index, 2).tolist() for index in which]
        cameras = [Camera.orbit(360 * a - 180, PITCH[0] + b * (PITCH[1] - PITCH[0])) for a, b in places]
        looks = [draw_look(population, index) for index in which]
        styles = [draw_style(population, index) for index in which]
        return cls(looks, styles, cameras, [key(seed, "ablation", index) for index in which])

    @property
    def yaw(self) -> Float[Tensor, "count"]:
        return torch.tensor([camera.yaw for camera in self.cameras])

    def prompts(self, row: Row) -> list[Prompt]:
        """Full prompts, or without what `row` leaves out; without view words nothing is known to be hidden either."""
        drop = {*(() if row.views else ("view",)), *(() if row.attributes else ATTRIBUTES)}
        everything = zip(self.looks, self.styles, self.cameras, strict=True)
        return [compose(look, style, camera.yaw, camera.pitch, drop=drop) for look, style, camera in everything]

    def requests(self) -> list[Request]:
        """What full prompts state."""
        asked = []
        for look, style, camera in zip(self.looks, self.styles, self.cameras, strict=True):
            seen = visible_attributes(look, style, camera.yaw) | {"style": style}
            asked.append(Request(camera.yaw, stated(seen)))
        return asked


@dataclass(frozen=True)
class Measured:
    """One number a picture; NaN where it is not asked."""

    face: Float[Tensor, "count"]
    """1 if a face shows where none should (|yaw| >= 135), else 0."""
    turned: Float[Tensor, "count"]
    """Degrees between the view judged and the one asked for."""
    attributes: Float[Tensor, "count"]
    """Share of the stated attributes that the judge finds."""
    distance: Float[Tensor, "count"]
    """Mean of 1 - cosine in the tiny CLIP to all other pictures of the row."""


@dataclass(frozen=True)
class Job:
    """What is to be measured; plain values, so that it can be sent to other processes."""

    out: str
    """folder or s3:// prefix of what was measured; the same job goes on there"""
    count: int
    seed: int
    model: str
    """folder with diffusion/, judge/ and clip/"""
    device: str


class Ablation:
    """A job with its networks, each loaded when it is first needed."""

    def __init__(self, job: Job):
        self.job = job

    @cached_property
    def judge(self) -> Judge:
        return Judge.from_pretrained(Path(self.job.model) / "judge")

    @cached_property
    def clip(self) -> ClipEncoder:
        return ClipEncoder.from_pretrained(Path(self.job.model) / "clip")

    @cached_property
    def synthesizer(self) -> Any:
        from styleavatar3d.synthesis.pipeline import Synthesizer

        return Synthesizer.from_pretrained(Path(self.job.model) / "diffusion", self.job.device)

    @cached_property
    def store(self) -> FeatureStore:
        about = {"ablation": [row.name for row in ROWS], "seed": self.job.seed, "steps": STEPS, "scale": SCALE}
        about["diffusion"] = digest(self.synthesizer.pipeline.unet.state_dict())
        about |= {"judge": digest(self.judge.state_dict()), "clip": digest(self.clip.model.state_dict())}
        return FeatureStore(self.job.out, self.job.count, about, BATCH)

    def stores(self) -> Iterator[tuple[str, FeatureStore, Callable[[range], Part]]]:
        yield "ablation", self.store, self.measure

    @torch.inference_mode()
    def measure(self, which: range) -> Part:
        """Every row's numbers of some scenes, by the row's name and a colon."""
        scenes = Scenes.draw(which, self.job.seed)
        posed = pose(scenes)
        pictures = {RENDERS: posed.renders}
        pictures |= {row.name: draw(self.synthesizer, scenes, row, posed.guidance) for row in ROWS}
        return {
            f"{name}: {what}": numbers
            for name, images in pictures.items()
            for what, numbers in measure(images, scenes, self.judge, self.clip).items()
        }

    def measured(self) -> dict[str, "Measured"]:
        """Of all scenes, once the store is full."""
        names = [RENDERS, *(row.name for row in ROWS)]
        return {name: _whole(lambda what, name=name: self.store.gather(f"{name}: {what}")) for name in names}


def run(
    out: str = "runs/ablation",
    count: int = 1000,
    seed: int = 0,
    model: str = "",
    device: str = "auto",
    workers: int = 1,
) -> dict[str, Any]:
    """Print the table and whether the paper's claims hold in it; return both, and write them to `out`/ablation.json.

    Args:
        out: folder of what was measured; the same call goes on there
        count: pictures a row
        seed: of the figures, cameras and noise
        model: folder with diffusion/, judge/ and clip/; the shipped one by default
        device: where pictures are drawn
        workers: processes that draw
    """
    if count < 2:
        raise StyleAvatarError("one picture has no diversity", got=count, expected="--count of at least 2")
    ablation = Ablation(Job(f"{out}/measured", count, seed, model or str(assets() / "data" / "miniature"), device))
    fill(ablation, World(), workers)
    measured, yaw = ablation.measured(), Scenes.draw(range(count), seed).yaw
    rows, claims = [_summary(name, one) for name, one in measured.items()], check_claims(measured)
    behind = int((yaw.abs() >= BACK).sum())
    show(f"ablation: {count} pictures a row, {behind} of them from behind, by the judge", rows)
    show("the claims of the paper", claims)
    told = {"table": "ablation", "model": model or "shipped", "count": count, "behind": behind, "seed": seed,
            "rows": rows, "claims": claims}  # fmt: skip
    Path(out, "ablation.json").write_text(json.dumps(told, indent=1) + "\n")
    return told


class Posed(NamedTuple):
    """What the figures of the scenes look like, and how they are posed."""

    renders: UInt8[Tensor, "count 3 size size"]
    """Which no model can do better than."""
    masks: UInt8[Tensor, "count 1 size size"]
    guidance: dict[str, UInt8[Tensor, "count size size 3"]]


def pose(scenes: Scenes) -> Posed:
    """Renders, silhouettes and guidance of the scenes."""
    renders, masks, guides = [], [], {kind: [] for kind in KINDS["hybrid"]}
    for look, style, camera in zip(scenes.looks, scenes.styles, scenes.cameras, strict=True):
        view = render_view(build_figure(look), style, camera, SIZE)
        renders.append(view.image.permute(2, 0, 1))
        masks.append(view.mask[None])
        for kind, pictures in guides.items():
            pictures.append(view.guidance.pictures[kind])
    stacked = {kind: torch.stack(pictures) for kind, pictures in guides.items()}
    return Posed(torch.stack(renders), torch.stack(masks), stacked)


def draw(
    synthesizer: Any, scenes: Scenes, row: Row, poses: dict[str, UInt8[Tensor, "count size size 3"]]
) -> UInt8[Tensor, "count 3 size size"]:
    """The diffusion model's pictures of the scenes."""
    prompts, kinds, made = scenes.prompts(row), KINDS[row.guidance], []
    guidance = [Guidance(kind=kind, scale=1.0) for kind in kinds]
    for start in range(0, len(prompts), BATCH):
        which = slice(start, start + BATCH)
        texts, negatives = zip(*prompts[which], strict=True)
        shown = {kind: poses[kind][which] for kind in kinds}
        made.append(synthesizer.generate(texts, negatives, shown, scenes.seeds[which], STEPS, SCALE, guidance))
    return torch.cat(made).permute(0, 3, 1, 2)


def measure(images: UInt8[Tensor, "count 3 size size"], scenes: Scenes, judge: Judge, clip: ClipEncoder) -> Part:
    """What the judge says of each picture, and its code in the tiny CLIP."""
    seen, yaw = judge.judge(signed(images)), scenes.yaw
    face = torch.where(yaw.abs() >= BACK, (seen.face > 0.5).float(), torch.nan)
    right = [
        sum(words[name] == value for name, value in asked.attributes.items()) / len(asked.attributes)
        for words, asked in zip(seen.words, scenes.requests(), strict=True)
    ]
    turned = ((seen.yaw - yaw + 180) % 360 - 180).abs()
    return {"face": face, "turned": turned, "attributes": torch.tensor(right), "codes": clip.images(signed(images))}


def _whole(gather: Callable[[str], Tensor]) -> Measured:
    """A row's numbers from what was measured of its pictures."""
    codes = gather("codes")
    others = (codes.sum(0) * codes).sum(1) - 1
    return Measured(gather("face"), gather("turned"), gather("attributes"), 1 - others / (len(codes) - 1))


def _summary(name: str, one: Measured) -> dict[str, Any]:
    unasked = name in {row.name for row in ROWS if not row.attributes}
    return {
        "row": name,
        "faces on backs": _number(one.face.nanmean()),
        "yaw error, median": _number(one.turned.median(), 2),
        "attributes": None if unasked else _number(one.attributes.mean()),
        "diversity": _number(one.distance.mean(), 4),
    }


def check_claims(measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """Each claim as a difference between two rows that share their scenes: holds, does not, or cannot be told."""
    claims = []
    for kind in KINDS:
        on, off = measured[Row(kind, True).name], measured[Row(kind, False).name]
        claims.append(_claim(f"view words: fewer faces on backs, {kind}", off.face - on.face))
    best = measured[Row("hybrid", True).name]
    for kind in ("depth", "keypoints"):
        other = measured[Row(kind, True).name]
        better = other.turned.clamp(max=_CAP) - best.turned.clamp(max=_CAP)
        claims.append(_claim(f"hybrid: smaller yaw error (capped at {_CAP:.0f}) than {kind}", better))
        claims.append(_claim(f"hybrid: more attributes right than {kind}", best.attributes - other.attributes))
    plain = measured[Row("hybrid", True, attributes=False).name]
    claims.append(_claim("attributes: more diverse", best.distance - plain.distance, pairs=2.0))
    return claims


def _claim(name: str, gain: Float[Tensor, "count"], pairs: float = 1.0) -> dict[str, Any]:
    """`gain` a picture, positive in favour; `pairs`: 2 where each number is itself a mean over pairs of pictures."""
    gain = gain[gain.isfinite()]
    mean, error = (gain.mean().item(), pairs * gain.std().item() / len(gain) ** 0.5) if len(gain) > 1 else (0.0, 0.0)
    told = "holds" if mean > _SURE * error else "does not hold" if mean < -_SURE * error else "cannot be told"
    return {"claim": name, "gain": round(mean, 4), "standard error": round(error, 4), "verdict": told}


def _number(value: Tensor, digits: int = 3) -> float | None:
    return round(value.item(), digits) if value.isfinite() else None
