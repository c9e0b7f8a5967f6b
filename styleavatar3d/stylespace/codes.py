"""Pairs of style codes and embeddings: free training data, made by a fleet, chunk by chunk.

A chunk is a unit of work: a pure function of (config, number) that ends in one conditional create. The driver lists
what is missing and gives it out; killed like any worker, it costs the chunks in hand. Two drivers are waste, not harm.
"""

import hashlib
import json
import random
import sys
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.config import Strict
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.runtime.checkpoint import StopSignal
from styleavatar3d.runtime.fleet import Fleet, Work
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import weights_sha256
from styleavatar3d.runtime.worker import one_thread
from styleavatar3d.shards.schema import Model
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.pairs import DROPPED, REASONS, Makers, describe_encoders, load_makers, make_pairs
from styleavatar3d.stylespace.statistics import Statistics, caption_likeness

MANIFEST = "codes.json"
LATER = ("text_encoder", "truncation", "mixing", "filter")
"""settings that pairs of today may be without: `recipe_of`"""


class Plan(Strict):
    """What is made, and by whom: of one recipe all chunks are the work of the same networks."""

    recipe: str
    count: int
    chunk: int
    generator_sha256: str
    slots: int
    estimator_sha256: str | None
    encoders: dict[str, Model]

    def chunks(self) -> list[str]:
        """Names of the chunks, by number."""
        return [f"{self.recipe}/{first:08d}.safetensors" for first in range(0, self.count, self.chunk)]

    def indices(self, number: int) -> range:
        """The codes of a chunk."""
        return range(number * self.chunk, min((number + 1) * self.chunk, self.count))

    def makers(self) -> dict[str, str | None]:
        """The sha256 of everyone but the generator, which is in the name of the recipe."""
        return {role: model.sha256 for role, model in self.encoders.items()} | {"estimator": self.estimator_sha256}


def make(config: StyleSpaceConfig) -> dict[str, Any]:
    """Render `data.count` codes from near the front, embed, read and caption them, with `fleet`; then publish
    statistics and manifest.

    Returns the manifest, how many pairs were made now, and the seconds. Does nothing when the manifest of the same
    recipe is there. Raises Stopped when told to stop, or if chunks fail again and again: what is committed is kept.
    """
    storage, start = Storage.open(config.data.codes), time.monotonic()
    plan = begin(config, storage)
    if (manifest := read_manifest(storage)) and manifest["recipe"] == plan.recipe:
        return {**manifest, "made": 0, "seconds": 0.0}
    made, todo = 0, missing(storage, plan)
    with Fleet.open(config.fleet, partial(prepare, config, plan, storage)) as fleet, StopSignal() as stop:
        for number, count in fleet.run(todo, lambda: stop.requested):
            made += count
            _report(made, sum(len(plan.indices(number)) for number in todo), start)
    if left := missing(storage, plan):
        aside = "".join(
            f"\n  chunk {number}: {error.strip().splitlines()[-1]}" for number, error in fleet.quarantined.items()
        )
        raise Stopped(f"stopped with {len(left)} chunks of codes to make{aside}", remedy="the same command goes on")
    manifest = finish(config, plan, storage)
    return {**manifest, "made": made, "seconds": round(time.monotonic() - start, 1)}


def begin(config: StyleSpaceConfig, storage: Storage) -> Plan:
    """The plan of `config`, kept beside its chunks. Raises StyleAvatarError if they were begun by other networks."""
    plan = _plan(config, load_makers(config.data))
    name = f"{plan.recipe}/plan.json"
    storage.create(name, plan.model_dump_json(indent=2).encode())
    theirs, ours = Plan.model_validate_json(storage.read(name)).makers(), plan.makers()
    if changed := [role for role in ours if ours[role] != theirs[role]]:
        raise StyleAvatarError(
            "these pairs were begun with other networks: " + ", ".join(changed),
            got=", ".join(f"{role} {ours[role]}" for role in changed),
            expected=", ".join(f"{role} {theirs[role]}" for role in changed),
            remedy="give data.codes another folder",
        )
    return plan


def missing(storage: Storage, plan: Plan) -> list[int]:
    """Numbers of the chunks that are not there."""
    there = set(storage.list(plan.recipe))
    return [number for number, name in enumerate(plan.chunks()) if name not in there]


def prepare(config: StyleSpaceConfig, plan: Plan, storage: Storage) -> Work:
    """Set up a worker."""
    return partial(make_chunk, config, plan, storage, load_makers(config.data))


def make_chunk(config: StyleSpaceConfig, plan: Plan, storage: Storage, makers: Makers, number: int) -> int:
    """The unit of work. Returns how many codes it is about."""
    with one_thread():
        pairs = make_pairs(makers, config.data, config.run.seed, plan.indices(number))
    storage.create(plan.chunks()[number], _to_bytes(pairs))
    return len(plan.indices(number))


def finish(config: StyleSpaceConfig, plan: Plan, storage: Storage) -> dict[str, Any]:
    """Publish the statistics of all pairs, without an estimator also which captions fit each picture best, and the
    manifest, which is returned."""
    pairs = _read_chunks(storage, plan.chunks())
    dropped = pairs.pop(DROPPED, torch.zeros(1, len(REASONS))).sum(0).int().tolist()
    if config.data.filter and len(pairs["codes"]) <= config.data.held_out:
        raise StyleAvatarError(
            "too few codes pass the filter", got=f"{len(pairs['codes'])} of {plan.count}",
            expected=f"more than data.held_out, {config.data.held_out}", remedy="ask for less in data.filter",
        )  # fmt: skip
    if "texts" in pairs:
        statistics = Statistics.of(pairs["codes"], pairs["embeddings"][:, 0], pairs["texts"][:, 0], paired=True)
    else:
        statistics = _choose_captions(config, plan, storage, pairs)
    storage.publish(f"{plan.recipe}/statistics.safetensors", _to_bytes(statistics.state_dict()))
    one_space = plan.encoders["image"].sha256 == plan.encoders["text"].sha256
    manifest = {
        "recipe": plan.recipe,
        "hash": _hash(pairs),
        "count": len(pairs["codes"]),
        "dropped": dict(zip(REASONS, dropped, strict=True)),
        "chunks": plan.chunks(),
        "generator_sha256": plan.generator_sha256,
        "slots": plan.slots,
        "attributes": plan.estimator_sha256 is not None,
        "encoders": {role: model.model_dump() for role, model in plan.encoders.items()},
        "modality_gap": float((statistics.image_mean - statistics.text_mean).norm()) if one_space else None,
    }
    storage.publish(MANIFEST, json.dumps(manifest, indent=2).encode())
    return manifest


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
    pairs.pop(DROPPED, None)
    if "texts" not in pairs:
        captions = _from_bytes(storage.read(f"{manifest['recipe']}/captions.safetensors"))
        pairs["texts"] = captions["embeddings"][captions["nearest"].long()]
    tensors = _from_bytes(storage.read(f"{manifest['recipe']}/statistics.safetensors"))
    statistics = Statistics(*(len(tensors[name]) for name in ("w_mean", "image_mean", "text_mean")))
    statistics.load_state_dict(tensors)
    return manifest, pairs, statistics


def read_manifest(storage: Storage) -> dict | None:
    return json.loads(storage.read(MANIFEST)) if storage.exists(MANIFEST) else None


def encoders_of(manifest: dict[str, Any]) -> dict[str, Model]:
    """The encoders that read the pairs of a manifest; none in those from before that was recorded."""
    return {role: Model(**model) for role, model in manifest.get("encoders", {}).items()}


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
    tree = {**config.data.model_dump(mode="json", exclude={"offline"}), "codes": "", "held_out": 1}
    tree["generator"] = generator_sha256
    for name in LATER:
        if tree[name] == type(config.data).model_fields[name].default:
            del tree[name]
    named = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
    return hashlib.sha256(f"{config.run.seed} {named}".encode()).hexdigest()[:12]


def _plan(config: StyleSpaceConfig, makers: Makers) -> Plan:
    sha256 = weights_sha256(makers.generator)
    return Plan(
        recipe=recipe_of(config, sha256),
        count=config.data.count,
        chunk=config.data.chunk,
        generator_sha256=sha256,
        slots=makers.generator.config.slots,
        estimator_sha256=weights_sha256(makers.estimator) if makers.estimator else None,
        encoders=describe_encoders(config.data, makers.clip),
    )


def _choose_captions(config: StyleSpaceConfig, plan: Plan, storage: Storage, pairs: dict[str, Tensor]) -> Statistics:
    """Publish captions of other figures, and which of them each picture is most like."""
    images = pairs["embeddings"][:, 0]
    clip = load_makers(config.data).clip
    texts = clip.texts(front_captions(config.data.captions, config.run.seed)).cpu()
    statistics = Statistics.of(pairs["codes"], images, texts, paired=False)
    conditions, centred = statistics.image(images), texts - statistics.text_mean
    count = min(config.data.texts, len(texts))
    nearest = [caption_likeness(centred, some).topk(count, dim=0).indices.T for some in conditions.split(1024)]
    captions = {"embeddings": texts, "nearest": torch.cat(nearest).int()}
    storage.publish(f"{plan.recipe}/captions.safetensors", _to_bytes(captions))
    return statistics


def _read_chunks(storage: Storage, names: list[str]) -> dict[str, Tensor]:
    chunks = [_from_bytes(storage.read(name)) for name in names]
    return {key: torch.cat([chunk[key] for chunk in chunks]).float() for key in chunks[0]}


def _hash(pairs: dict[str, Tensor]) -> str:
    """12 hex digits that name pairs, whoever made them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(pairs.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _report(made: int, count: int, start: float) -> None:
    rate = made / (time.monotonic() - start)
    left = (count - made) / rate
    print(f"codes  {made}/{count}  {rate:.1f} a second  {left:.0f} s left", file=sys.stderr, flush=True)


def _to_bytes(tensors: dict[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def _from_bytes(data: bytes) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(data)
