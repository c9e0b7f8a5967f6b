"""Is the style prior worth it? Its avatars beside those of ranked random codes and of a fit, for pictures and prompts;
edits, diversity and latency. Who looks is the judge, which nothing in the product may ask."""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.bench.evaluate_prior import asked, numbers
from styleavatar3d.bench.held_out import show
from styleavatar3d.bench.stylespace_measures import (
    EDITS,
    OWN,
    PICTURES,
    PROMPTS,
    RUNS,
    SEEDS,
    SIZE,
    VIEWS,
    WORD,
    Edit,
    Job,
    StyleSpace,
    distance,
)  # fmt: skip
from styleavatar3d.bench.stylespace_methods import OF_PICTURES, OF_PROMPTS
from styleavatar3d.bench.workers import fill
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.metrics.distribution import top1_retrieval
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.random import normal
from styleavatar3d.stylespace.codes import load

CORE = ("hair_color", "style", "skin", "glasses", "beard", "kind")
_OTHERS = 1000


def run(
    out: str = "runs/bench/stylespace",
    count: int = 100,
    seed: int = 1,
    model: str = "",
    codes: str = "",
    inversions: int = 20,
    workers: int = 1,
) -> dict[str, Any]:
    """Print the tables, return them, and write them to `out`/stylespace.json.

    Args:
        out: folder of what was measured; the same call goes on there
        count: pictures, prompts and avatars of each table
        seed: of figures and codes
        model: folder of a pipeline with judge/; the shipped one by default
        codes: folder of `train codes`: how often does the prior repeat what it was trained on?
        inversions: pictures to which a code is fitted too; 0 leaves the row out
        workers: processes that measure; the latency is measured by one, at last
    """
    if count < 2 or inversions < 0 or workers < 1:
        got = f"count {count}, inversions {inversions}, workers {workers}"
        raise StyleAvatarError(
            "this measures nothing", got=got, expected="count of at least 2, inversions 0, workers 1"
        )
    job = Job(f"{out}/measured", count, seed, model or str(assets() / "data" / "miniature"), inversions)
    space = StyleSpace(job)
    others, name = other_codes(space, codes)
    fill(space, World(), workers)
    tables = {
        "pictures": pictures(space, others, trained=bool(codes)),
        "prompts": prompts(space),
        "edits": [edit_row(space, edit) for edit in EDITS],
        "diversity": diversity(space),
        "latency": latency(space),
    }
    for table, rows in tables.items():
        show(f"stylespace: {table}", rows)
    told = {"table": "stylespace", "model": model or "shipped", "count": count, "seed": seed, "others": name, **tables}
    Path(out, "stylespace.json").write_text(json.dumps(told, indent=1) + "\n")
    return told


def other_codes(space: StyleSpace, codes: str) -> tuple[Float[Tensor, "others tokens w"], str]:
    """Codes that nobody asked for, and what they are: those that the prior was trained on, or random ones."""
    generator = space.pipeline.generator
    if not codes:
        z = normal(space.job.seed, "other codes", 0, (_OTHERS, generator.config.z_dim)).to(generator.w_mean)
        return generator.mapping(z)[:, : space.pipeline.prior.tokens], f"{_OTHERS} random"
    manifest, pairs, _ = load(codes)
    if manifest["generator_sha256"] != space.pipeline.sha256:
        raise StyleAvatarError(
            "these codes are those of another generator", got=f"{codes} ({manifest['generator_sha256'][:12]})",
            expected=f"codes of {space.pipeline.sha256[:12]}", remedy="styleavatar3d train codes",
        )  # fmt: skip
    return pairs["codes"], f"{len(pairs['codes'])} training"


def pictures(space: StyleSpace, others: Float[Tensor, "others tokens w"], trained: bool) -> list[dict[str, Any]]:
    """Whether an avatar is known among all by its picture, and how near its code is to the one behind the picture."""
    targets = {kind: space.read(kind) for kind in PICTURES}
    rows = []
    for method in OF_PICTURES:
        if not (number := space.job.number(method)):
            continue
        made = {kind: space.read(f"{kind}, {method}") for kind in PICTURES}
        found = {f"first, {kind}": _first(made[kind]("features"), targets[kind]("features")) for kind in PICTURES}
        own = _apart(space, made[OWN]("codes"), targets[OWN]("codes")[:number])
        nearest = _nearest(space, made[OWN]("codes"), others)
        seconds = torch.cat([made[kind]("seconds") for kind in PICTURES])
        rows.append({
            "method": method, "avatars": number, **found,
            "W error": _number(own.median()), "nearest other code": _number(nearest.median()),
            "nearer to a training code": _number((nearest < own).float().mean()) if trained else None,
            "CPU seconds": _number(seconds.median(), 2),
        })  # fmt: skip
    return rows


def prompts(space: StyleSpace) -> list[dict[str, Any]]:
    """The share of what prompts state that the judge finds in the front views of their avatars."""
    wanted = numbers([asked(space.job.seed, index)[1] for index in range(space.job.count)])
    core = torch.tensor([name in CORE for name in WORDS])
    rows = []
    for method in OF_PROMPTS:
        made = space.read(f"{PROMPTS}, {method}")
        right, stated = made("words") == wanted, wanted >= 0
        rows.append({
            "method": method, "attributes": _number(right[stated].float().mean()),
            "core attributes": _number((right & core)[stated & core].float().mean()),
            "CPU seconds": _number(made("seconds").median(), 2),
        })  # fmt: skip
    return rows


def edit_row(space: StyleSpace, edit: Edit) -> dict[str, Any]:
    """How often the judge sees the change, and knows the avatar that was changed among all that there were."""
    made, starts = space.read(edit.prompt), space.read("starts")("features")
    applies, place = made("applies"), list(WORDS).index(edit.attribute)
    changed = made("words")[:, place] == WORDS[edit.attribute].index(edit.word)
    unit = torch.nn.functional.normalize
    alike = unit(made("features") - starts.mean(0), dim=1) @ unit(starts - starts.mean(0), dim=1).T
    kept = alike.argmax(1) == torch.arange(len(starts))
    return {
        "edit": edit.prompt, "avatars": int(applies.sum()),
        "changed": _number(changed[applies].float().mean()), "identity kept": _number(kept[applies].float().mean()),
        "both": _number((changed & kept)[applies].float().mean()),
        "CPU seconds": _number(made("seconds")[applies].median(), 2),
    }  # fmt: skip


def diversity(space: StyleSpace) -> list[dict[str, Any]]:
    """How far avatars of one condition are from each other, over how far random ones are: of one word, those of them
    that show it."""
    random = distance(space.read(OWN)("clip"))
    rows = []
    for kind in (*PICTURES, PROMPTS, WORD):
        read = space.read(f"{kind}, seeds")
        own = read("own") if kind == WORD else random[None]
        apart, known = read("distance"), own.isfinite()
        ratio = (apart[known].mean() if kind == WORD else apart.mean()) / own[known].mean()
        rows.append({
            "condition": kind, "conditions": len(apart), "seeds": SEEDS, "distance": _number(apart.mean(), 4),
            "of random avatars": _number(own[known].mean(), 4), "ratio": _number(ratio),
        })  # fmt: skip
    return rows


def latency(space: StyleSpace) -> list[dict[str, Any]]:
    """Measured by this process alone, the pipeline loaded."""
    store = space.store("latency", RUNS, RUNS)
    store.fill(space.latency)
    medians = store.gather("seconds").median(0).values
    what = ("a prompt to its first view", f"a prompt to a turn of {VIEWS} views")
    return [
        {"from": name, "pixels": SIZE, "wall seconds": _number(wall, 2), "CPU seconds": _number(cpu, 2)}
        for name, (wall, cpu) in zip(what, medians, strict=True)
    ]


def _first(found: Float[Tensor, "avatars features"], pictures: Float[Tensor, "count features"]) -> float:
    """Share of avatars that are nearest to their own picture, what sets avatars apart from pictures taken away."""
    return round(top1_retrieval(found - found.mean(0), pictures - pictures[: len(found)].mean(0)), 3)


def _standard(space: StyleSpace, codes: Tensor) -> Float[Tensor, "count numbers"]:
    prior = space.pipeline.prior
    return prior.statistics.standard_code(codes[:, : prior.tokens]).flatten(1)


def _apart(space: StyleSpace, codes: Tensor, targets: Tensor) -> Float[Tensor, "count"]:
    """Root mean square in standard units: two random codes are about 1.4 apart."""
    return (_standard(space, codes) - _standard(space, targets)).square().mean(1).sqrt()


def _nearest(space: StyleSpace, codes: Tensor, others: Tensor) -> Float[Tensor, "count"]:
    """The same to the nearest of `others`."""
    ours, theirs = _standard(space, codes), _standard(space, others)
    return torch.cdist(ours, theirs).amin(1) / ours.shape[1] ** 0.5


def _number(value: Tensor, digits: int = 3) -> float | None:
    return round(value.item(), digits) if value.isfinite() else None
