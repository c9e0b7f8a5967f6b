"""Is the generator near the renders, does it obey the camera, and is each avatar one solid figure from all sides?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from styleavatar3d.bench.fitting import fit_head
from styleavatar3d.bench.held_out import HELD_OUT, World, show, signed, tell
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.camera.rays import box_intersection, rays
from styleavatar3d.encoders.clip import ClipEncoder
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import WORDS, Look, draw_look, visible_attributes
from styleavatar3d.gan.generator import Generator
from styleavatar3d.metrics.alignment import agreement, majority, yaw_errors
from styleavatar3d.metrics.distribution import frechet_distance, kernel_distance
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.miniature.renders import draw_style, render_views
from styleavatar3d.runtime.random import normal

RINGS = (torch.linspace(-60, 60, 8), torch.linspace(-105, 105, 8), torch.arange(-180.0, 180.0, 45.0))
"""Yaws of eight views: those that show eyes and mouth, those that show glasses and beards, and all around."""
PITCH = 5.0
DEPTH_YAWS = (-90.0, -45.0, 0.0, 45.0, 90.0, 180.0)
BUILDS, FACES = (0.15, 0.5, 0.85), 4
"""The heads tried on an avatar: its judged words, in every build, with this many faces."""
SOLID = 0.95
_BATCH, _UNTRAINED = 25, 500


def distances(folder: Path, judge: Judge, samples: int, seed: int, data: str | None) -> dict[str, Any]:
    """How far held-out renders are from the generator's pictures, from those it learned from (`data`) and from the
    pictures of an untrained one, in tiny-CLIP features; and how far its views are turned from their cameras."""
    clip, world = ClipEncoder.from_pretrained(folder / "clip"), World.render(samples, seed)
    generator = Generator.from_pretrained(str(folder / "generator"))
    torch.manual_seed(seed)
    untrained = Generator(generator.config).eval().requires_grad_(False)
    few = world.labels[:_UNTRAINED]
    pictures = {"generator": draw(generator, world.labels, seed), "untrained": draw(untrained, few, seed)}
    if data is not None:
        pictures["synthesised"] = signed(shard_pictures(data, samples))
    real = features(clip, signed(world.images))
    rows = []
    for of, images in pictures.items():
        fake = features(clip, images)
        distance = {"FID": round(frechet_distance(real, fake), 4), "KID": round(kernel_distance(real, fake), 5)}
        rows.append({"pictures of": of, "count": len(images), **distance})
    show("distance from held-out renders, tiny-CLIP features", rows)
    turned = yaw_errors(judge.judge(pictures["generator"]), world.yaw)
    show("yaw of the generator's views, degrees from the camera's", [turned])
    table: dict[str, Any] = {row["pictures of"]: row for row in rows} | {"yaw": turned}
    if data is not None:
        table["ratio"] = round(table["generator"]["FID"] / table["synthesised"]["FID"], 3)
        print(f"  FID of the generator is {table['ratio']} x that of what it learned from")
    return table


@torch.inference_mode()
def draw(generator: Generator, labels: Float[Tensor, "count 25"], seed: int) -> Float[Tensor, "count 3 size size"]:
    """One sample a camera, at truncation 1."""
    made = []
    for first in range(0, len(labels), _BATCH):
        some = labels[first : first + _BATCH]
        z = normal(seed, "evaluate generator", first, (len(some), generator.config.z_dim))
        made.append(generator(z, some).image)
        tell("generator samples", first + len(some), len(labels))
    return torch.cat(made)


def features(clip: ClipEncoder, images: Float[Tensor, "count 3 size size"]) -> Float[Tensor, "count width"]:
    return torch.cat([clip.images(some) for some in images.split(_BATCH)])


def shard_pictures(data: str, count: int) -> UInt8[Tensor, "count 3 size size"]:
    """The first pictures of these shards. Raises StyleAvatarError if they are too few."""
    from styleavatar3d.shards.loader import ShardDataset

    shards = ShardDataset(data)
    if len(shards) < count:
        raise StyleAvatarError("too few pictures to compare with", got=len(shards), expected=f"{count} in {data}")
    return shards.load(range(count))["image"]


def solidity(folder: Path, judge: Judge, avatars: int, seed: int) -> dict[str, Any]:
    """For avatars drawn at truncation 1: do eight views of one get the same verdicts, and is its depth a head's?

    Verdicts: for each attribute, the share of eight views (of those that can show it) that agree with the majority.
    Depth: correlation with the best of twelve figures that have the avatar's judged words, and with a plain head.
    """
    generator = Generator.from_pretrained(str(folder / "generator"))
    found: dict[str, list[float]] = {}
    possible: dict[str, list[float]] = {}
    depth: dict[str, list[float]] = {"fitted head": [], "plain head": []}
    for index in range(avatars):
        z = normal(seed, "evaluate avatar", index, (1, generator.config.z_dim))
        with torch.inference_mode():
            planes = generator.planes(generator.mapping(z))
        look, style, shares = verdicts(judge, views(generator, planes, ring_labels()))
        _, _, in_renders = verdicts(judge, views_of_figure(index, seed))
        for total, more in ((found, shares), (possible, in_renders)):
            for name, value in more.items():
                total.setdefault(name, []).append(value)
        for name, value in depth_fit(generator, planes, look).items():
            depth[name].append(value)
        tell("avatars", index + 1, avatars)
    rows = [
        {"attribute": name, "avatars": len(values), "same verdict": mean(values),
         "in renders": mean(possible.get(name, []))}
        for name, values in {"all": sum(found.values(), []), **found}.items()
    ]  # fmt: skip
    rows[0]["in renders"] = mean(sum(possible.values(), []))
    show(f"{avatars} avatars: agreement of the judge's verdicts on eight visible views", rows)
    fits = {name: mean(values) for name, values in depth.items()}
    show("correlation of their depth with that of a parametric head", [fits])
    return {"verdicts": {row["attribute"]: row for row in rows}, "depth": fits}


def verdicts(judge: Judge, images: Float[Tensor, "views 3 size size"]) -> tuple[Look, str, dict[str, float]]:
    """Who an avatar is by the majority of its front views, and for each attribute that such a figure shows how many of
    the eight views agree; `images` are those of `RINGS`, one after the other."""
    words = judge.judge(images).words
    rings = [words[8 * number : 8 * number + 8] for number in range(len(RINGS))]
    who: dict[str, Any] = {name: majority([said[name] for said in rings[0]]) for name in WORDS}
    style = who.pop("style")
    look = Look(**who | {"smile": who["smile"] == "yes"})
    shares = {"style": agreement([said["style"] for said in rings[-1]])}
    for said, yaws in zip(rings, RINGS, strict=True):  # the widest ring that shows an attribute comes last, and stays
        shown = [visible_attributes(look, style, yaw) for yaw in yaws.tolist()]
        for name in set.intersection(*(set(each) for each in shown)):
            shares[name] = agreement([one[name] for one in said])
    return look, style, {name: shares[name] for name in WORDS if name in shares}


def ring_labels() -> Float[Tensor, "views 25"]:
    yaws = torch.cat(RINGS)
    return orbit_labels(yaws, torch.full_like(yaws, PITCH))


@torch.inference_mode()
def views(generator: Generator, planes: Tensor, labels: Tensor) -> Float[Tensor, "views 3 size size"]:
    """Pictures of one avatar."""
    return generator.render(planes.expand(len(labels), *planes.shape[1:]).contiguous(), labels).image


def views_of_figure(index: int, seed: int) -> Float[Tensor, "views 3 size size"]:
    """The same views of a held-out figure: what the judge makes of perfect agreement."""
    figure = build_figure(draw_look(seed + HELD_OUT, index))
    pictures = render_views(figure, draw_style(seed + HELD_OUT, index), ring_labels())
    return signed(torch.stack([picture.image.movedim(-1, 0) for picture in pictures]))


@torch.inference_mode()
def depth_fit(generator: Generator, planes: Tensor, look: Look) -> dict[str, float]:
    """Correlations of an avatar's depth with the best of the heads that look as it does, and with a plain one."""
    yaws = torch.tensor(DEPTH_YAWS)
    labels = orbit_labels(yaws, torch.full_like(yaws, PITCH))
    rendering = generator.render(planes.expand(len(labels), *planes.shape[1:]).contiguous(), labels)
    mask, size = rendering.mask[:, 0], rendering.mask.shape[-1]
    far = box_intersection(*rays(labels, size), generator.config.box)[1].view_as(mask)
    depth = (rendering.depth[:, 0] - (1 - mask) * far) / mask.clamp(min=1e-3)  # what is seen through counts as `far`
    tried = [replace(look, build=build, seed=face) for build in BUILDS for face in range(FACES)]
    return {
        "fitted head": fit_head(tried, depth, mask > SOLID, labels)[1],
        "plain head": fit_head([Look(hair="bald")], depth, mask > SOLID, labels)[1],
    }


def mean(values: list[float]) -> float | None:
    """None of nothing."""
    return round(sum(values) / len(values), 3) if values else None
