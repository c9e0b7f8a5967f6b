"""What the miniature world has learned, in tables, each beside what chance, renders or no training would give.

Everything is measured on figures that no stage has trained on; views and attributes are read by the judge, which has
seen renders only and shares neither data nor architecture with the product.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from styleavatar3d.assets import assets
from styleavatar3d.bench import evaluate_diffusion, evaluate_generator, evaluate_prior
from styleavatar3d.bench.held_out import World, show, signed
from styleavatar3d.bench.population import Job, Population, stored
from styleavatar3d.bench.workers import fill
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.metrics.judge import Judge
from styleavatar3d.miniature.reading import reading_scores
from styleavatar3d.runtime.distributed import connect


@dataclass(frozen=True)
class Sizes:
    """How much each table measures; an amount of 0 leaves its table out."""

    renders: int = 400
    """held-out renders that the judge itself is tried on"""
    pairs: int = 100
    """held-out (caption, camera) pairs that the diffusion model has to follow"""
    samples: int = 500
    """generator samples compared with as many renders, and with as many pictures of `data`"""
    avatars: int = 20
    """avatars whose views are compared with each other and with a head fitted to them"""
    prompts: int = 20
    """held-out prompts, the avatars of which are compared with the best of `codes` random ones"""
    codes: int = 256
    retrieval: int = 100
    """held-out pictures among whose avatars each must find its own"""


FULL = Sizes(2000, 500, 5000, 200, 100, 4096, 100)
"""What the results page quotes."""


def run(
    model: str | None = None,
    full: bool = False,
    seed: int = 0,
    data: str | None = None,
    out: str | None = None,
    features: str = "clip",
    store: str = "",
    workers: int = 1,
    **amounts: int | None,
) -> dict[str, Any] | None:
    """Print the tables and return their numbers; under `accelerate launch` or torchrun all but one process return None.

    Args:
        model: folder with diffusion/, judge/, clip/, generator/ and stylespace/; the shipped one by default
        full: at the sizes of the results page, which take the better part of an hour on one core
        seed: of the held-out world and of everything drawn
        data: shards that the generator was trained on: their own distance from renders stands beside the generator's
        out: JSON file to write
        features: what pictures are compared by: clip, inception, or a file of Inception weights
        store: folder or s3:// prefix that keeps what was measured of generator and renders; a stopped call goes on
        workers: processes that measure them, in each process of a launcher
        amounts: fields of `Sizes` that are to differ; None leaves one as it is
    """
    sizes = replace(FULL if full else Sizes(), **{name: count for name, count in amounts.items() if count is not None})
    check(sizes, workers)
    folder = Path(model) if model else assets() / "data" / "miniature"
    judge, started, world = Judge.from_pretrained(folder / "judge"), time.monotonic(), connect()
    job = Job(f"{folder}/generator", str(folder), store, sizes.samples, sizes.avatars, seed, features, data)
    with stored(job, world) as job:
        population = Population(job)
        fill(population, world, workers)
        if not world.main:
            return None
        tables = measure(folder, judge, sizes, population)
    about = {"table": "evaluate", "model": model or "shipped", "seed": seed, "sizes": asdict(sizes)}
    result = {**about, "seconds": round(time.monotonic() - started), **tables}
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(result, indent=1) + "\n")
    return result


def measure(folder: Path, judge: Judge, sizes: Sizes, population: Population) -> dict[str, Any]:
    """All tables that are asked for."""
    tables: dict[str, Any] = {}
    seed = population.job.seed
    if sizes.renders:
        tables["judge"] = judge_table(judge, sizes.renders, seed)
    if sizes.pairs:
        tables["diffusion"] = evaluate_diffusion.table(folder, judge, sizes.pairs, seed)
    if sizes.samples:
        tables["generator"] = evaluate_generator.distances(population)
    if sizes.avatars:
        tables["avatars"] = evaluate_generator.solidity(population)
    if sizes.prompts:
        tables["prior"] = evaluate_prior.against_the_best(folder, judge, sizes.prompts, sizes.codes, seed)
    if sizes.retrieval:
        tables["retrieval"] = evaluate_prior.retrieval(folder, sizes.retrieval, seed)
    return tables


def check(sizes: Sizes, workers: int = 1) -> None:
    """Raise StyleAvatarError for amounts that mean nothing."""
    if wrong := {name: count for name, count in asdict(sizes).items() if count < 0}:
        raise StyleAvatarError("nothing can be measured on less than nothing", got=wrong, expected="0 or more each")
    if sizes.prompts and not sizes.codes:
        raise StyleAvatarError("there is no best of no codes", got="codes 0", expected="--codes of at least 1")
    if workers < 1:
        raise StyleAvatarError("nobody would measure", got=f"workers {workers}", expected="--workers of at least 1")
    if sizes.samples == 1:
        raise StyleAvatarError("one picture has no distribution", got="samples 1", expected="0, or 2 and more")


def judge_table(judge: Judge, count: int, seed: int) -> dict[str, float]:
    """How well the judge itself reads held-out renders."""
    world = World.render(count, seed)
    scores = reading_scores(*judge.judge(signed(world.images)), world.yaw, world.truths)
    show(f"judge: {count} held-out renders", [{"read": name, "right": value} for name, value in scores.items()])
    return scores
