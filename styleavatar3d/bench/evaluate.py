"""What the miniature world has learned, in three tables, each beside what chance or no training would give.

Everything is measured on figures that no stage has trained on; views and attributes are read by the judge, which has
seen renders only and shares neither data nor architecture with the product.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.camera.cameras import Camera, orbit_labels
from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.guidance import hybrid
from styleavatar3d.figures.looks import draw_look, visible_attributes
from styleavatar3d.metrics.alignment import Request, Score, alignment, stated
from styleavatar3d.metrics.distribution import frechet_distance, kernel_distance, top1_retrieval
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.runtime.random import key, normal

HELD_OUT = 104_729
"""added to the seed: a population that neither training nor synthesis draws from"""
STEPS, SCALE = 10, 2.0
_BATCH = 25


def run(
    model: str | None = None, pairs: int = 200, samples: int = 1000, retrieval: int = 100, seed: int = 0,
    data: str | None = None,
) -> dict[str, Any]:
    """Print the tables and return their numbers; an amount of 0 leaves its table out.

    Args:
        model: folder with diffusion/, judge/, clip/, generator/ and stylespace/; the shipped one by default
        pairs: held-out (caption, camera) pairs that the diffusion model has to follow
        samples: generator samples compared with as many pictures
        retrieval: held-out pictures among whose avatars each must find its own
        data: shards to compare the generator with; held-out renders by default
    """
    folder = Path(model) if model else assets() / "data" / "miniature"
    tables: dict[str, Any] = {}
    if pairs:
        tables["diffusion"] = diffusion_table(folder, pairs, seed)
    if samples:
        tables["generator"] = generator_table(folder, samples, seed, data)
    if retrieval:
        tables["retrieval"] = retrieval_table(folder, retrieval, seed)
    return {"table": "evaluate", "model": str(folder), "seed": seed, **tables}


def diffusion_table(folder: Path, pairs: int, seed: int) -> dict[str, Any]:
    """How often the judge finds the asked view and the stated attributes, in synthesised pictures and in renders."""
    judge = Judge.from_pretrained(folder / "judge")
    renders, requests, images = synthesize_held_out(folder, pairs, seed)
    made, true = alignment(judge, images, requests), alignment(judge, renders, requests)
    rows = [
        {"asked": name, "count": score.count, "right": round(score.share, 3), "chance": round(score.chance, 3),
         "in renders": round(true[name].share, 3)}
        for name, score in sorted(made.items(), key=_view_and_all_first)
    ]
    _print(f"diffusion: {pairs} held-out captions and cameras, by the judge", rows)
    return {row["asked"]: row for row in rows}


def synthesize_held_out(
    folder: Path, count: int, seed: int
) -> tuple[Float[Tensor, "count 3 64 64"], list[Request], Float[Tensor, "count 3 64 64"]]:
    """Renders of held-out figures, what their captions ask for, and the diffusion model's pictures of the same."""
    from styleavatar3d.camera.cameras import yaw_pitch
    from styleavatar3d.miniature.renders import render_dataset
    from styleavatar3d.synthesis.pipeline import Synthesizer
    from styleavatar3d.synthesis.prompts import compose

    world = render_dataset(count, seed + HELD_OUT, views_per_figure=1)
    depth, keypoints = (world[name].movedim(1, -1) for name in ("depth_rgb", "keypoints_rgb"))
    guidance = hybrid(depth.expand(-1, -1, -1, 3), keypoints)
    yaws, pitches = (angles.tolist() for angles in yaw_pitch(world["labels"]))
    shown = list(zip(world["looks"], world["styles"], yaws, pitches, strict=True))
    prompts = [compose(look, style, yaw, pitch) for look, style, yaw, pitch in shown]
    requests = [Request(yaw, stated(visible_attributes(look, style, yaw), style)) for look, style, yaw, _ in shown]
    synthesizer = Synthesizer.from_pretrained(folder / "diffusion", device="cpu", dtype="bfloat16")
    made = []
    for first in range(0, count, _BATCH):
        which = range(first, min(first + _BATCH, count))
        made.append(synthesizer.generate(
            [prompts[i].text for i in which], [prompts[i].negative for i in which], guidance[which.start : which.stop],
            [key(seed, "evaluate", i) for i in which], STEPS, SCALE,
        ))
        _progress("synthesised", which.stop, count)
    return _signed(world["image"]), requests, _signed(torch.cat(made).movedim(-1, 1))


def generator_table(folder: Path, samples: int, seed: int, data: str | None = None) -> dict[str, float]:
    """Distance between generator samples and pictures seen from the same cameras, now and before any training."""
    from styleavatar3d.gan.generator import Generator

    clip = ClipEncoder.from_pretrained(folder / "clip")
    images, labels = reference_pictures(samples, seed, data)
    real = torch.cat([clip.images(_signed(some)) for some in images.split(_BATCH)])
    trained = Generator.from_pretrained(str(folder / "generator")).eval()
    torch.manual_seed(seed)
    untrained = Generator(trained.config).eval()
    table: dict[str, float] = {}
    for name, generator in (("now", trained), ("at step 0", untrained)):
        fake = sample_features(generator, clip, labels, seed)
        table[f"FID {name}"] = round(frechet_distance(real, fake), 4)
        table[f"KID {name}"] = round(kernel_distance(real, fake), 5)
    _print(f"generator: {len(real)} samples against {data or 'held-out renders'}, tiny-CLIP features", [table])
    return table


def reference_pictures(count: int, seed: int, data: str | None) -> tuple[Tensor, Tensor]:
    """uint8 pictures [N, 3, H, W] and their labels: the first of these shards, or renders of held-out figures."""
    if data is None:
        from styleavatar3d.miniature.renders import render_dataset

        world = render_dataset(count, seed + HELD_OUT, views_per_figure=1, workers=2)
        return world["image"], world["labels"]
    from styleavatar3d.shards.loader import ShardDataset

    shards = ShardDataset(data)
    if len(shards) < count:
        raise StyleAvatarError("too few pictures to compare with", got=len(shards), expected=f"{count} in {data}")
    picked = shards.load(range(count))
    return picked["image"], picked["label"]


@torch.inference_mode()
def sample_features(
    generator: Any, clip: ClipEncoder, labels: Float[Tensor, "count 25"], seed: int
) -> Float[Tensor, "count width"]:
    """CLIP features of one sample a camera."""
    features = []
    for first, some in zip(range(0, len(labels), _BATCH), labels.split(_BATCH), strict=True):
        z = normal(seed, "evaluate generator", first, (len(some), generator.config.z_dim))
        codes = generator.mapping(z)
        features.append(clip.images(generator.render(generator.planes(codes), some, codes=codes).image))
        _progress("generator samples", first + len(some), len(labels))
    return torch.cat(features)


def retrieval_table(folder: Path, count: int, seed: int) -> dict[str, float]:
    """How often a held-out picture is nearer, by CLIP, to its own avatar than to those of the others."""
    from styleavatar3d.avatar.pipelines import AvatarPipeline

    pipeline = AvatarPipeline.from_pretrained(folder)
    clip = ClipEncoder.from_pretrained(folder / "clip")
    pictures, fronts = [], []
    for index in range(count):
        picture = held_out_portrait(index, seed)
        avatar: Any = pipeline(image=picture.movedim(0, -1).numpy(), seed=index)
        fronts.append(avatar.views(orbit_labels(torch.zeros(1), torch.zeros(1)))[0])
        pictures.append(picture)
        _progress("avatars", index + 1, count)
    asked, found = clip.images(_signed(torch.stack(pictures))), clip.images(_signed(torch.stack(fronts)))
    centred = (asked - asked.mean(0), found - found.mean(0))
    table = {"pictures": count, "right": round(top1_retrieval(*centred), 3), "chance": round(1 / count, 3)}
    _print("picture -> avatar: its own among all", [table])
    return table


def held_out_portrait(index: int, seed: int) -> Tensor:
    """A near-front render, uint8 [3, 64, 64], of a figure that nothing has trained on."""
    from styleavatar3d.miniature.renders import draw_style, render_view

    figure = build_figure(draw_look(seed + HELD_OUT, index))
    yaw = torch.empty(1).uniform_(-20, 20, generator=torch.Generator().manual_seed(key(seed, "portrait", index))).item()
    view = render_view(figure, draw_style(seed + HELD_OUT, index), Camera.orbit(yaw, 5.0))
    return view.image.movedim(-1, 0)


def _signed(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _view_and_all_first(item: tuple[str, Score]) -> tuple[int, str]:
    return {"view": 0, "attributes": 1}.get(item[0], 2), item[0]


def _progress(what: str, done: int, count: int) -> None:
    end = "\n" if done == count else ""
    print(f"\r{what} {done}/{count}", end=end, file=sys.stderr, flush=True)


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    widths = [max(len(str(row[name])) for row in [*rows, {name: name}]) for name in names]
    print(title)
    for cells in (names, *([str(row[name]) for name in names] for row in rows)):
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
