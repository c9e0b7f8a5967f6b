"""Pairs of a style code and what its front render shows, in embeddings, words and captions: free training data.

Nobody has captioned a generator's avatars, so the product's own estimator reads each render, and captions are composed
of what it saw. Without an estimator a code gets the captions of other figures that CLIP finds nearest to its render.

Everything is keyed by the index of a code, and chunks are published one by one, so that a stopped run goes on
where it was and any order of work gives the same pairs.
"""

import hashlib
import json
import random
import sys
import time
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.assets import shipped
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.distributed import default_device
from styleavatar3d.runtime.random import normal, uniform
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import weights_sha256
from styleavatar3d.shards.schema import Model
from styleavatar3d.stylespace import attributes
from styleavatar3d.stylespace.config import CodesConfig, StyleSpaceConfig
from styleavatar3d.stylespace.statistics import Statistics, caption_likeness
from styleavatar3d.synthesis.sources import Source, describe_weights

_AUGMENT_NUMBERS = 9
MANIFEST = "codes.json"


class Makers(NamedTuple):
    """The networks that make a pair."""

    generator: Any
    clip: Any
    estimator: Any
    """None: captions are then chosen by likeness."""


def make(config: StyleSpaceConfig) -> dict:
    """Render `data.count` codes from near the front, embed, read and caption them; publish chunks, then statistics and
    manifest.

    Returns a summary. Does nothing when the manifest of the same recipe is there.
    """
    data, storage, start = config.data, Storage.open(config.data.codes), time.monotonic()
    makers = load_makers(data)
    recipe = recipe_of(config, weights_sha256(makers.generator))
    if (manifest := read_manifest(storage)) and manifest["recipe"] == recipe:
        return {**manifest, "made": 0, "seconds": 0.0}
    names, made = [], 0
    for first in range(0, data.count, data.chunk):
        indices = range(first, min(first + data.chunk, data.count))
        names.append(f"{recipe}/{first:08d}.safetensors")
        if not storage.exists(names[-1]):
            storage.publish(names[-1], _to_bytes(_chunk(makers, data, config.run.seed, indices)))
            made += len(indices)
            _report(indices.stop, data.count, made, start)
    statistics = _finish(storage, recipe, names, makers, config)
    manifest = {
        "recipe": recipe,
        "count": data.count,
        "chunks": names,
        "generator_sha256": weights_sha256(makers.generator),
        "slots": makers.generator.config.slots,
        "attributes": makers.estimator is not None,
        "encoders": {role: model.model_dump() for role, model in describe_encoders(data, makers.clip).items()},
        "modality_gap": None if data.text_encoder else float((statistics.image_mean - statistics.text_mean).norm()),
    }
    storage.publish(MANIFEST, json.dumps(manifest, indent=2).encode())
    return {**manifest, "made": made, "seconds": round(time.monotonic() - start, 1)}


def load(codes: str) -> tuple[dict, dict[str, Tensor], Statistics]:
    """The manifest, the pairs and their statistics.

    Of each code: "codes" [N, tokens, w], "embeddings" [N, crops, clip] of its render, "texts" [N, some, text] of its
    captions; and if an estimator has read it, what can be said of it, "seen" [N, words].
    """
    storage = Storage.open(codes)
    manifest = read_manifest(storage)
    if manifest is None:
        raise StyleAvatarError(
            "there are no pairs of codes and embeddings",
            got=codes,
            expected=f"a folder with {MANIFEST}",
            remedy="styleavatar3d train codes",
        )
    pairs = _read_chunks(storage, manifest["chunks"])
    if "texts" not in pairs:
        captions = _from_bytes(storage.read(f"{manifest['recipe']}/captions.safetensors"))
        pairs["texts"] = captions["embeddings"][captions["nearest"].long()]
    tensors = _from_bytes(storage.read(f"{manifest['recipe']}/statistics.safetensors"))
    statistics = Statistics(*(len(tensors[name]) for name in ("w_mean", "image_mean", "text_mean")))
    statistics.load_state_dict(tensors)
    return manifest, pairs, statistics


def read_manifest(storage: Storage) -> dict | None:
    return json.loads(storage.read(MANIFEST)) if storage.exists(MANIFEST) else None


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


def describe_encoders(data: CodesConfig, clip: Any) -> dict[str, Model]:
    """Who reads pictures ("image") and texts ("text"): id, revision, licence, and a sha256 of what was loaded."""
    described = (describe_weights(source, source.locate(data.offline)) for source in _readers(data))
    return {
        role: model.model_copy(update={"sha256": clip.identity[role]})
        for role, model in zip(("image", "text"), described, strict=True)
    }


def encoders_of(manifest: dict[str, Any]) -> dict[str, Model]:
    """The encoders that read the pairs of a manifest; none in those from before that was recorded."""
    return {role: Model(**model) for role, model in manifest.get("encoders", {}).items()}


def _readers(data: CodesConfig) -> tuple[Source, Source]:
    return Source(data.clip), Source(data.text_encoder or data.clip)


def load_makers(data: CodesConfig) -> Makers:
    """Load them. Raises StyleAvatarError where they cannot be had, or nobody among them reads texts."""
    if data.text_encoder and not data.estimators:
        raise StyleAvatarError(
            "captions cannot be chosen by likeness to pictures that another encoder reads",
            got="data.text_encoder without data.estimators", expected="one encoder for both, or data.estimators",
        )  # fmt: skip
    from styleavatar3d.encoders.estimators import Estimator
    from styleavatar3d.encoders.families import open_bridge
    from styleavatar3d.gan.generator import Generator

    device, (pictures, words) = default_device(), _readers(data)
    clip = open_bridge(pictures.locate(data.offline), words.locate(data.offline) if data.text_encoder else "", device)
    if not clip.has_texts:
        clip.check("")
    return Makers(
        Generator.from_pretrained(shipped(data.generator), device),
        clip,
        Estimator.from_pretrained(shipped(data.estimators), device) if data.estimators else None,
    )


@torch.no_grad()
def _chunk(makers: Makers, data: CodesConfig, seed: int, indices: range) -> dict[str, Tensor]:
    batches = [range(first, min(first + data.batch, indices.stop)) for first in indices[:: data.batch]]
    parts = [_pairs(makers, data, seed, batch) for batch in batches]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def _pairs(makers: Makers, data: CodesConfig, seed: int, indices: range) -> dict[str, Tensor]:
    generator = makers.generator
    z = normal(seed, "code", indices.start, (len(indices), generator.config.z_dim)).to(generator.w_mean)
    codes = generator.mapping(z)
    angles = _uniform_rows(seed, "front", indices, 2) * 2 - 1
    labels = orbit_labels(angles[:, 0] * data.yaw, angles[:, 1] * data.pitch)
    images = generator.render(generator.planes(codes), labels, codes=codes).image
    embeddings = _embed(makers.clip, images, data.crops, seed, indices.start)
    pairs = {"codes": codes[:, :1].float(), "embeddings": embeddings.half()}
    if makers.estimator is None:
        return pairs
    return pairs | _tell(makers, images, data.texts, seed, indices)


def _tell(makers: Makers, images: Tensor, count: int, seed: int, indices: range) -> dict[str, Tensor]:
    """What the estimator reads in pictures, which of it can be said, and captions that say it."""
    words = attributes.read(makers.estimator, images).cpu()
    seen = [attributes.seen_from_the_front(row) for row in words.split(1)]
    texts = []
    for index, row, some in zip(indices, words.split(1), seen, strict=True):
        texts += attributes.captions(attributes.likeliest(row), some, count, f"{seed}/{index}")
    embedded = makers.clip.texts(texts).unflatten(0, (len(images), count))
    return {"seen": attributes.encode(seen).half(), "texts": embedded.half()}


def _embed(clip, images: Tensor, crops: int, seed: int, first: int) -> Float[Tensor, "batch crops clip"]:
    views = [images]
    for crop in range(1, crops):
        numbers = _uniform_rows(seed, f"augment {crop}", range(first, first + len(images)), _AUGMENT_NUMBERS)
        views.append(augment(images, numbers.to(images.device)))
    return clip.images(torch.cat(views)).unflatten(0, (crops, len(images))).transpose(0, 1)


def _uniform_rows(seed: int, purpose: str, indices: range, count: int) -> Tensor:
    return torch.stack([uniform(seed, purpose, index, count) for index in indices])


def _finish(storage: Storage, recipe: str, names: list[str], makers: Makers, config: StyleSpaceConfig) -> Statistics:
    """Publish the statistics of all pairs, and without an estimator which captions fit each picture best."""
    pairs = _read_chunks(storage, names)
    images = pairs["embeddings"][:, 0]
    if "texts" in pairs:
        statistics = Statistics.of(pairs["codes"], images, pairs["texts"][:, 0], paired=True)
    else:
        texts = makers.clip.texts(front_captions(config.data.captions, config.run.seed)).cpu()
        statistics = Statistics.of(pairs["codes"], images, texts, paired=False)
        conditions, centred = statistics.image(images), texts - statistics.text_mean
        count = min(config.data.texts, len(texts))
        nearest = [caption_likeness(centred, some).topk(count, dim=0).indices.T for some in conditions.split(1024)]
        captions = {"embeddings": texts, "nearest": torch.cat(nearest).int()}
        storage.publish(f"{recipe}/captions.safetensors", _to_bytes(captions))
    storage.publish(f"{recipe}/statistics.safetensors", _to_bytes(statistics.state_dict()))
    return statistics


def _read_chunks(storage: Storage, names: list[str]) -> dict[str, Tensor]:
    chunks = [_from_bytes(storage.read(name)) for name in names]
    return {key: torch.cat([chunk[key] for chunk in chunks]).float() for key in chunks[0]}


def front_captions(count: int, seed: int) -> list[str]:
    """Captions of `count` looks of the little world seen from the front; like a user's, most leave something out."""
    from styleavatar3d.figures.looks import ATTRIBUTES, STYLES, draw_look
    from styleavatar3d.miniature.captions import sentence
    from styleavatar3d.synthesis.prompts import compose

    def one(index: int) -> str:
        look, style = draw_look(seed, index), STYLES[index % len(STYLES)]
        draw = random.Random(f"caption/{seed}/{index}")
        left_out = draw.choice((0.0, 0.3, 0.6))
        drop = {name for name in (*ATTRIBUTES, "style", "view") if draw.random() < left_out}
        if draw.random() < 0.5:
            return sentence(look, style, 0.0, 0.0, drop, draw)
        return compose(look, style, 0.0, 0.0, drop=drop).text

    return [one(index) for index in range(count)]


def recipe_of(config: StyleSpaceConfig, generator_sha256: str) -> str:
    """12 hex digits that name what decides the pairs.

    Settings that came later are left out as long as nobody uses them: pairs from before keep their name.
    """
    plain = {**config.data.model_dump(mode="json"), "codes": "", "held_out": 1, "generator": generator_sha256}
    later = {"text_encoder": "", "offline": plain["offline"]}
    tree = {name: value for name, value in plain.items() if name not in later or value != later[name]}
    named = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
    return hashlib.sha256(f"{config.run.seed} {named}".encode()).hexdigest()[:12]


def _report(done: int, count: int, made: int, start: float) -> None:
    rate = made / (time.monotonic() - start)
    left = (count - done) / rate
    print(f"codes  {done}/{count}  {rate:.1f} a second  {left:.0f} s left", file=sys.stderr, flush=True)


def _to_bytes(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _from_bytes(data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(data)
