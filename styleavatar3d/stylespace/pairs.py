"""One pair: a style code and what its front render shows, in embeddings, words and captions; and chunks of them.

Nobody has captioned a generator's avatars, so the product's own estimator reads each render, and captions are composed
of what it saw. Without an estimator a code gets the captions of other figures that CLIP finds nearest to its render.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.assets import shipped
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.generator import Generator, mix_styles
from styleavatar3d.runtime.distributed import default_device
from styleavatar3d.runtime.random import normal, uniform
from styleavatar3d.shards.schema import Model
from styleavatar3d.stylespace import attributes
from styleavatar3d.stylespace.config import CodesConfig, FilterConfig
from styleavatar3d.synthesis.sources import Source, describe_weights

_AUGMENT_NUMBERS = 9
DROPPED = "dropped"
REASONS = ("turned", "small", "duplicate", "left out")
"""of a chunk's tensor DROPPED: draws that the filter dropped for each reason, and codes of which no draw was kept"""


class Makers(NamedTuple):
    """The networks that make a pair."""

    generator: Any
    clip: Any
    estimator: Any
    """None: captions are then chosen by likeness."""


def load_makers(data: CodesConfig) -> Makers:
    """Load them. Raises StyleAvatarError where they cannot be had, or nobody among them reads texts."""
    if data.text_encoder and not data.estimators:
        raise StyleAvatarError(
            "captions cannot be chosen by likeness to pictures that another encoder reads",
            got="data.text_encoder without data.estimators", expected="one encoder for both, or data.estimators",
        )  # fmt: skip
    if data.filter and data.filter.turn < 180 and not data.estimators:
        raise StyleAvatarError(
            "nobody reads from where a render is seen",
            got="data.filter.turn without data.estimators", expected="data.estimators, or data.filter.turn 180",
        )  # fmt: skip
    from styleavatar3d.encoders.estimators import Estimator
    from styleavatar3d.encoders.families import open_bridge

    device, (pictures, words) = default_device(), _readers(data)
    clip = open_bridge(pictures.locate(data.offline), words.locate(data.offline) if data.text_encoder else "", device)
    if not clip.has_texts:
        clip.check("")
    return Makers(
        Generator.from_pretrained(shipped(data.generator), device),
        clip,
        Estimator.from_pretrained(shipped(data.estimators), device) if data.estimators else None,
    )


def describe_encoders(data: CodesConfig, clip: Any) -> dict[str, Model]:
    """Who reads pictures ("image") and texts ("text"): id, revision, licence, and a sha256 of what was loaded."""
    described = (describe_weights(source, source.locate(data.offline)) for source in _readers(data))
    return {
        role: model.model_copy(update={"sha256": clip.identity[role]})
        for role, model in zip(("image", "text"), described, strict=True)
    }


def _readers(data: CodesConfig) -> tuple[Source, Source]:
    return Source(data.clip), Source(data.text_encoder or data.clip)


@torch.no_grad()
def make_pairs(makers: Makers, data: CodesConfig, seed: int, indices: range) -> dict[str, Tensor]:
    """The pairs of `indices`, on the CPU; what each holds is said at `codes.load`. With a filter also DROPPED."""
    if data.filter:
        return _make_good_pairs(makers, data, data.filter, seed, indices)
    parts = [_draw(makers, data, seed, batch)[0] for batch in _batches(indices, data.batch)]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def _make_good_pairs(
    makers: Makers, data: CodesConfig, rule: FilterConfig, seed: int, indices: range
) -> dict[str, Tensor]:
    """The first draw of each index in which nothing is wrong, in the order of the indices."""
    waiting, kept, counts = list(indices), dict[int, dict[str, Tensor]](), torch.zeros(len(REASONS))
    for attempt in range(rule.attempts):
        for batch in _batches(waiting, data.batch):
            pairs, renders = _draw(makers, data, seed, batch, attempt)
            wrong = _wrong(makers, rule, renders)
            for row, index in enumerate(batch):
                pair = {name: value[row].cpu() for name, value in pairs.items()}
                faults = [*wrong[row].tolist(), _seen_before(pair, kept.values(), rule.likeness)]
                if any(faults):
                    counts[faults.index(True)] += 1
                else:
                    kept[index] = pair
        waiting = [index for index in waiting if index not in kept]
    counts[-1] = len(waiting)
    names = pairs.keys()
    rows = {name: [kept[index][name] for index in sorted(kept)] for name in names}
    empty = {name: value[:0].cpu() for name, value in pairs.items()}
    return {name: torch.stack(rows[name]) if kept else empty[name] for name in names} | {DROPPED: counts[None]}


def _batches(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[first : first + size] for first in range(0, len(indices), size)]


class Renders(NamedTuple):
    """Renders of a batch, and the views that were asked for."""

    images: Float[Tensor, "batch 3 height width"]
    mask: Float[Tensor, "batch 1 rows columns"]
    yaw: Float[Tensor, "batch"]
    pitch: Float[Tensor, "batch"]


def _draw(
    makers: Makers, data: CodesConfig, seed: int, indices: Sequence[int], attempt: int = 0
) -> tuple[dict[str, Tensor], Renders]:
    """A draw of each index: its pair, and its render."""
    generator, codes = makers.generator, _codes(makers.generator, data, seed, indices, attempt)
    angles = _uniform_rows(seed, "front", indices, 2) * 2 - 1
    yaw, pitch = angles[:, 0] * data.yaw, angles[:, 1] * data.pitch
    rendering = generator.render(generator.planes(codes), orbit_labels(yaw, pitch), codes=codes)
    embeddings = _embed(makers.clip, rendering.image, data.crops, seed, indices)
    pairs = {"codes": (codes if data.mixing else codes[:, :1]).float(), "embeddings": embeddings.half()}
    if makers.estimator is not None:
        pairs |= _tell(makers, rendering.image, data.texts, seed, indices)
    return pairs, Renders(rendering.image, rendering.mask, yaw, pitch)


def _codes(
    generator: Generator, data: CodesConfig, seed: int, indices: Sequence[int], attempt: int
) -> Float[Tensor, "batch slots w"]:
    """Codes of the mapping network; some, if so configured, with the fine slots of another."""

    def drawn(purpose: str) -> Tensor:
        purpose = f"{purpose} {attempt}" if attempt else purpose
        z = torch.cat([normal(seed, purpose, index, (1, generator.config.z_dim)) for index in indices])
        return generator.mapping(z.to(generator.w_mean), data.truncation)

    codes = drawn("code")
    if not data.mixing:
        return codes
    chance, place = _uniform_rows(seed, f"mixing {attempt}", indices, 2).unbind(1)
    slots = codes.shape[1]
    first = torch.where(chance < data.mixing, 1 + (place * (slots - 1)).long(), slots)
    return mix_styles(codes, drawn("other code"), first)


def _wrong(makers: Makers, rule: FilterConfig, renders: Renders) -> Bool[Tensor, "batch 2"]:
    """Of each render: whether it is turned away, and whether its figure is too small."""
    turned = torch.zeros(len(renders.images), dtype=torch.bool)
    if rule.turn < 180:
        read = makers.estimator.estimate(renders.images)
        turned = turn(renders.yaw, renders.pitch, read.yaw.cpu(), read.pitch.cpu()) > rule.turn
    return torch.stack([turned, renders.mask.mean((1, 2, 3)).cpu() < rule.coverage], 1)


def _seen_before(pair: dict[str, Tensor], others: Iterable[dict[str, Tensor]], most: float) -> bool:
    """Whether the render is nearer to one before it than is allowed; 1 allows everything."""
    if most == 1:
        return False
    ours, theirs = pair["embeddings"][0].float(), [other["embeddings"][0].float() for other in others]
    return bool(theirs) and float(F.cosine_similarity(ours[None], torch.stack(theirs)).max()) > most


def turn(
    yaw: Float[Tensor, "batch"], pitch: Float[Tensor, "batch"],
    other_yaw: Float[Tensor, "batch"], other_pitch: Float[Tensor, "batch"],
) -> Float[Tensor, "batch"]:  # fmt: skip
    """Degrees between two directions, each given by yaw and pitch in degrees."""
    a, b, c, d = (torch.deg2rad(angle) for angle in (yaw, pitch, other_yaw, other_pitch))
    cosine = b.sin() * d.sin() + b.cos() * d.cos() * (a - c).cos()
    return torch.rad2deg(cosine.clamp(-1, 1).acos())


def _tell(makers: Makers, images: Tensor, count: int, seed: int, indices: Sequence[int]) -> dict[str, Tensor]:
    """What the estimator reads in pictures, which of it can be said, and captions that say it."""
    words = attributes.read(makers.estimator, images).cpu()
    seen = [attributes.seen_from_the_front(row) for row in words.split(1)]
    texts = []
    for index, row, some in zip(indices, words.split(1), seen, strict=True):
        texts += attributes.captions(attributes.likeliest(row), some, count, f"{seed}/{index}")
    embedded = makers.clip.texts(texts).unflatten(0, (len(images), count))
    return {"seen": attributes.encode(seen).half(), "texts": embedded.half()}


def _embed(
    clip: Any, images: Tensor, crops: int, seed: int, indices: Sequence[int]
) -> Float[Tensor, "batch crops clip"]:
    views = [images]
    for crop in range(1, crops):
        numbers = _uniform_rows(seed, f"augment {crop}", indices, _AUGMENT_NUMBERS)
        views.append(augment(images, numbers.to(images.device)))
    return clip.images(torch.cat(views)).unflatten(0, (crops, len(images))).transpose(0, 1)


def _uniform_rows(seed: int, purpose: str, indices: Sequence[int], count: int) -> Tensor:
    return torch.stack([uniform(seed, purpose, index, count) for index in indices])


def augment(
    images: Float[Tensor, "batch channel height width"], numbers: Float[Tensor, "batch 9"]
) -> Float[Tensor, "batch channel height width"]:
    """Other crops and colours of pictures in [-1, 1]: a user's picture is neither framed nor lit like a render.

    Zoom 0.8 to 1.2, shift up to 8 % of the width, contrast 0.8 to 1.2, brightness and tint up to 0.1; softened or
    sharpened by up to half of what a 3 x 3 mean takes away.
    """
    spread = numbers * 2 - 1
    zoom, shift = 1 + 0.2 * spread[:, 0], 0.16 * spread[:, 1:3]
    crop = torch.zeros(len(images), 2, 3, device=images.device)
    crop[:, 0, 0] = crop[:, 1, 1] = zoom
    crop[:, :, 2] = shift
    grid = F.affine_grid(crop, list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(cropped, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    cropped = cropped + 0.5 * spread[:, 8, None, None, None] * (cropped - soft)
    contrast, tint = 1 + 0.2 * spread[:, 3], 0.1 * spread[:, 4:7] + 0.1 * spread[:, 7:8]
    return (cropped * contrast[:, None, None, None] + tint[:, :, None, None]).clamp(-1, 1)
