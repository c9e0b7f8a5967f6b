"""Single figures seen from all sides: avatars of a generator, and held-out renders, which no generator can beat."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from styleavatar3d.bench.fitting import figure_depth, fit_head
from styleavatar3d.bench.held_out import HELD_OUT, signed
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.camera.rays import box_intersection, rays
from styleavatar3d.figures.dress import build_figure
from styleavatar3d.figures.looks import WORDS, Look, draw_look, visible_attributes
from styleavatar3d.gan.generator import Generator, Rendering
from styleavatar3d.metrics.alignment import BACK, agreement, majority
from styleavatar3d.metrics.consistency import DepthView, cross_view_depth_error, depth_error, mirroring, overlap
from styleavatar3d.metrics.features import Features
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.metrics.store import Measured
from styleavatar3d.miniature.renders import draw_style, render_views
from styleavatar3d.runtime.random import normal

RINGS = (torch.linspace(-60, 60, 8), torch.linspace(-105, 105, 8), torch.arange(-180.0, 180.0, 45.0))
"""Yaws of eight views: those that show eyes and mouth, those that show glasses and beards, and all around."""
PITCH = 5.0
AROUND = torch.arange(-180.0, 180.0, 30.0)
"""Yaws of views at pitch 0, each near enough to the next to see the same surface."""
MIRRORED = (-30.0, 0.0, 30.0)
"""Yaws that are compared with their mirror images behind, 180 - yaw."""
DEPTH_YAWS = (-90.0, -45.0, 0.0, 45.0, 90.0, 180.0)
BUILDS, FACES = (0.15, 0.5, 0.85), 4
"""The heads tried on an avatar: its judged words, in every build, with this many faces."""
SOLID = 0.95


@torch.inference_mode()
def measure_avatar(generator: Generator, judge: Judge, features: Features, index: int, seed: int) -> Measured:
    """Everything about the avatar number `index`, drawn at truncation 1."""
    z = normal(seed, "evaluate avatar", index, (1, generator.config.z_dim)).to(generator.w_mean)
    codes = generator.mapping(z)
    planes = generator.planes(codes)

    def seen(labels: Tensor) -> Rendering:
        view = generator.render(planes, labels.to(codes), codes=codes.expand(len(labels), -1, -1))
        return Rendering(*(maps.float().cpu() for maps in view))

    look, style, shares = verdicts(judge, seen(ring_labels()).image)
    around, depth = seen(around_labels()), seen(depth_labels())
    views = surface(around, around_labels(), generator.config)
    return {
        "shares": _row(shares),
        **_depth_fit(surface(depth, depth_labels(), generator.config), look),
        **_from_around(judge, features, around.image, views),
    }


def measure_figure(judge: Judge, features: Features, index: int, seed: int, size: int) -> Measured:
    """The same of the held-out figure number `index`, but for its fit with itself."""
    figure, style = build_figure(draw_look(seed + HELD_OUT, index)), draw_style(seed + HELD_OUT, index)
    ring = render_views(figure, style, ring_labels(), size)
    _, _, shares = verdicts(judge, signed(torch.stack([view.image.movedim(-1, 0) for view in ring])))
    around = render_views(figure, style, around_labels(), size)
    images = signed(torch.stack([view.image.movedim(-1, 0) for view in around]))
    depth = torch.stack([view.depth for view in around])
    views = DepthView(depth, depth.isfinite(), around_labels())
    return {"shares": _row(shares), **_from_around(judge, features, images, views)}


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


def around_labels() -> Float[Tensor, "views 25"]:
    return orbit_labels(AROUND, torch.zeros_like(AROUND))


def depth_labels() -> Float[Tensor, "views 25"]:
    yaws = torch.tensor(DEPTH_YAWS)
    return orbit_labels(yaws, torch.full_like(yaws, PITCH))


def surface(rendering: Rendering, labels: Float[Tensor, "views 25"], config: Any) -> DepthView:
    """The surface in a rendering, whose depth is a mean in which what is seen through counts as `far`."""
    mask, size = rendering.mask[:, 0], rendering.mask.shape[-1]
    far = box_intersection(*rays(labels, size), config.box)[1].view_as(mask)
    if config.near_far is not None:
        far = torch.full_like(mask, config.near_far[1])
    depth = (rendering.depth[:, 0] - (1 - mask) * far) / mask.clamp(min=1e-3)
    return DepthView(depth, mask > SOLID, labels)


def _from_around(
    judge: Judge, features: Features, images: Float[Tensor, "views 3 size size"], views: DepthView
) -> Measured:
    """What neighbouring views, opposite views and all views say of each other."""
    following = DepthView(*(part.roll(-1, 0) for part in views))
    behind = [_at(180 - yaw) for yaw in MIRRORED]
    front = [_at(yaw) for yaw in MIRRORED]
    mask = _at_size(views.mask, images.shape[-1])
    return {
        "cross-view depth": cross_view_depth_error(views, following),
        "mirroring": mirroring(images[front], images[behind], mask[front], mask[behind]),
        "face behind": judge.judge(images[AROUND.abs() >= BACK]).face,
        "features": features(images),
    }


def _at(yaw: float) -> int:
    """Which view of `AROUND` is seen from `yaw`."""
    return int(((AROUND - yaw) % 360).argmin())


def _at_size(mask: Bool[Tensor, "views rows columns"], size: int) -> Bool[Tensor, "views size size"]:
    """Super-resolution doubles pictures and not masks."""
    return mask.repeat_interleave(size // mask.shape[-1], 1).repeat_interleave(size // mask.shape[-1], 2)


def _depth_fit(views: DepthView, look: Look) -> Measured:
    """How near an avatar's depth is to the best of the heads that look as it does, and to a plain one."""
    tried = [replace(look, build=build, seed=face) for build in BUILDS for face in range(FACES)]
    best, correlation = fit_head(tried, views.depth, views.mask, views.labels)
    _, plain = fit_head([Look(hair="bald")], views.depth, views.mask, views.labels)
    truth = figure_depth(build_figure(best), views.labels, views.depth.shape[-1])
    return {
        "correlation": torch.tensor([correlation, plain]),
        "depth error": depth_error(views.depth, truth, views.mask, truth.isfinite()),
        "overlap": overlap(views.mask, truth.isfinite()),
    }


def _row(shares: dict[str, float]) -> Float[Tensor, "words"]:
    """Shares of all `WORDS`; NaN of what does not show."""
    return torch.tensor([shares.get(name, torch.nan) for name in WORDS])
