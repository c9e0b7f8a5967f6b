"""What the discriminator's label and the kind of volume are worth: trainings that differ by one thing alone.

Every run learns from the same renders of the little world, whose cameras are exact but for the share of views that are
given another's; it is measured against held-out renders with the right cameras. Runs are kept in a folder each, so the
same call goes on where it stopped, between two runs or within one.
"""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.bench import evaluate_generator
from styleavatar3d.bench.held_out import show, tell
from styleavatar3d.bench.population import Job, Population
from styleavatar3d.bench.workers import fill
from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.config import config_hash, load_config
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.generator import Generator
from styleavatar3d.gan.train import train
from styleavatar3d.gan.views import Views, load_views
from styleavatar3d.gan.wrong_views import wrong_labels
from styleavatar3d.miniature.renders import render_dataset
from styleavatar3d.runtime.distributed import World
from styleavatar3d.runtime.media import grid, png, to_uint8
from styleavatar3d.runtime.random import normal
from styleavatar3d.runtime.storage import Storage


@dataclass(frozen=True)
class Variant:
    """One row of the table: what it changes in `configs/gan/miniature.yaml`, and the share of views that lie to it."""

    name: str
    group: str
    wrong_views: float
    overrides: tuple[str, ...]


def _label(kind: str, size: int) -> tuple[str, ...]:
    return ("--model.label.kind", kind, "--model.discriminator.label_size", str(size))


def _volume(depths: str, levels: str) -> tuple[str, ...]:
    return ("--model.generator.depths", depths, "--model.generator.levels", levels)


VARIANTS = (
    Variant("coarse-to-fine", "label", 0.2, _label("coarse-to-fine", 46)),
    Variant("no label", "label", 0.2, _label("none", 0)),
    Variant("25 numbers", "label", 0.2, _label("camera", 25)),
    Variant("25 numbers with noise", "label", 0.2, _label("noisy camera", 25)),
    Variant("tri-plane", "volume", 0.0, _volume("[1, 1, 1]", "single")),
    Variant("tri-grid", "volume", 0.0, _volume("[3, 1, 1]", "single")),
    Variant("pyramid", "volume", 0.0, (*_volume("[3, 1, 1]", "pyramid"), "--model.generator.coarsest", "8")),
)
COMMON = (
    "--model.encoder", "null", "--model.perception", "null", "--train.schedule.warm_kimg", "0",
    "--train.schedule.hold_kimg", "0",
    "--train.anchor_interval", "0", "--train.generator_rate", "0.0025", "--model.generator.levels", "single",
    "--model.discriminator.depth", "false", "--train.schedule.grow_kimg", "0", "--train.snapshot_kimg", "10",
)  # fmt: skip
"""Adversarial from the first image: what reconstructs is told the camera, and a frozen estimator or depth maps would
say what the label leaves open."""
SIZES = {
    32: (
        "--model.generator.resolution", "32", "--model.generator.widths", "[128, 128, 128, 96]",
        "--model.discriminator.resolution", "32", "--model.discriminator.widths", "[64, 112, 128, 128]",
        "--train.schedule.start_resolution", "32",
    ),
    64: ("--train.schedule.start_resolution", "64"),
}  # fmt: skip
COLUMNS = (
    "FID", "FID front", "FID side", "FID back", "yaw error", "pose error", "depth error", "cross-view depth",
    "mirroring", "face at the back", "told apart",
)  # fmt: skip
ROWS, SHEET_YAWS = "rows.jsonl", tuple(range(-180, 180, 45))


@dataclass(frozen=True)
class Measure:
    """How much each run is measured by."""

    samples: int = 2000
    avatars: int = 50
    seed: int = 0


def run(
    out: str = "runs/gan-ablation",
    seeds: int = 2,
    size: int = 32,
    kimg: float = 30.0,
    only: Sequence[str] = (),
    data: str = "",
    views: int = 6000,
    readers: str = "",
    measure: Measure | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Train and measure each variant with each seed, print mean and spread, and keep a JSON line a run.

    Args:
        out: folder of runs, `rows.jsonl`, `gan-ablation.json` and `sheet.png`; the same call resumes
        seeds: trainings of each variant
        size: pixels: 32 or 64
        kimg: thousands of images of each training
        only: variants or groups; all if none is named
        data: shards to learn from, made smaller where they are larger; renders of the little world by default
        views: how many renders
        readers: folder with judge/, estimators/ and clip/; the shipped ones by default
        measure: how much each run is measured by
        overrides: of every run's config, such as ("--train.batch", "4")
    """
    check(seeds, size)
    chosen, storage, measure = choose(only), Storage.open(out), measure or Measure()
    plans = [(one, plan(one, seed, out, size, kimg, overrides)) for seed in range(seeds) for one in chosen]
    readers, shown = readers or str(assets() / "data" / "miniature"), learned_from(data, size, views, out)
    rows = []
    for one, config in plans:
        rows.append(finished(config, one, measure) or train_one(config, one, shown, readers, out, measure))
        storage.publish(ROWS, "".join(json.dumps(row) + "\n" for row in rows).encode())
        tell("ablation, runs", len(rows), len(plans))
    storage.publish("sheet.png", sheet([config.run.out for _, config in plans[: len(chosen)]]))
    summary = summarise(rows)
    for group in dict.fromkeys(one.group for one in chosen):
        print_group(group, [row for row in summary if row["group"] == group], seeds)
    about = {"table": "gan-ablation", "out": out, "size": size, "kimg": kimg, "seeds": seeds}
    told = about | {"rows": rows, "summary": summary}
    storage.publish("gan-ablation.json", (json.dumps(told, indent=1) + "\n").encode())
    return told


def check(seeds: int, size: int) -> None:
    if seeds < 1:
        raise StyleAvatarError("nothing would be trained", got=f"seeds {seeds}", expected="1 or more, 2 for a spread")
    if size not in SIZES:
        raise StyleAvatarError("the ablation has no such size", got=size, expected=", ".join(map(str, SIZES)))


def choose(only: Sequence[str]) -> list[Variant]:
    """The variants of these names or groups, in the order of the table."""
    known = {word for one in VARIANTS for word in (one.name, one.group)}
    if unknown := set(only) - known:
        raise StyleAvatarError(
            "there is no such variant", got=", ".join(sorted(unknown)), expected=", ".join(sorted(known))
        )
    return [one for one in VARIANTS if not only or {one.name, one.group} & set(only)]


def plan(one: Variant, seed: int, out: str, size: int, kimg: float, overrides: Sequence[str] = ()) -> GanConfig:
    """The config of one run. Raises ConfigError where the variant names settings that do not exist."""
    place = f"{out}/{one.name.replace(' ', '-')}-{seed}"
    words = ["--run.out", place, "--run.seed", str(seed), "--train.schedule.kimg", str(kimg)]
    return load_config(GanConfig, "gan/miniature", [*COMMON, *SIZES[size], *words, *one.overrides, *overrides])


def learned_from(data: str, size: int, count: int, out: str) -> Views:
    """What all runs learn from: shards, or renders with exact cameras, kept under `out` when that is on a disk."""
    if data:
        return shrunk(load_views(data, native_size(data)), size)
    folder = Storage.open(out).local_path()
    made = render_dataset(count, seed=0, size=size, workers=2, cache=folder and folder / "renders", progress=_rendered)
    return Views(made["image"], made["mask"], made["labels"])


def native_size(data: str) -> int:
    from styleavatar3d.shards.loader import ShardDataset

    return ShardDataset(data)[0]["image"].shape[-1]


def shrunk(views: Views, size: int) -> Views:
    """Pictures and masks as means over blocks of pixels."""
    native = views.images.shape[-1]
    if native % size:
        raise StyleAvatarError("the pictures cannot be made this small", got=native, expected=f"a multiple of {size}")

    def pool(maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps.float(), native // size).round().to(torch.uint8)

    return Views(pool(views.images), pool(views.masks), views.labels)


def identity(config: GanConfig, one: Variant, measure: Measure) -> dict[str, Any]:
    """What a finished run must have been, to count."""
    return {"config": config_hash(config), "wrong views": one.wrong_views, **vars(measure)}


def finished(config: GanConfig, one: Variant, measure: Measure) -> dict[str, Any] | None:
    """The row of a run that is done. Raises StyleAvatarError if it was another run."""
    storage = Storage.open(config.run.out)
    if not storage.exists("row.json"):
        return None
    kept = json.loads(storage.read("row.json"))
    if kept["identity"] != identity(config, one, measure):
        raise StyleAvatarError(
            f"{storage.url} holds another run", got=str(kept["identity"]), expected=str(identity(config, one, measure)),
            remedy="choose another --out, or delete that folder",
        )  # fmt: skip
    return kept["row"]


def train_one(
    config: GanConfig, one: Variant, views: Views, readers: str, out: str, measure: Measure
) -> dict[str, Any]:
    """Train (or go on), measure, and keep the row."""
    labels = wrong_labels(views.labels, one.wrong_views, config.run.seed)
    done = train(config, views._replace(labels=labels))
    place = config.run.out
    job = Job(
        f"{place}/weights", readers, f"{place}/measured", measure.samples, measure.avatars, measure.seed,
        untrained=False, renders=f"{out}/measured",
    )  # fmt: skip
    population = Population(job)
    fill(population, World())
    row = {"group": one.group, "variant": one.name, "seed": config.run.seed, "images": done["images"]}
    row |= {"wrong views": one.wrong_views, "seconds": done["seconds"], **measures(population)}
    storage = Storage.open(place)
    storage.publish("row.json", json.dumps({"identity": identity(config, one, measure), "row": row}).encode())
    return row


def measures(population: Population) -> dict[str, Any]:
    """The columns of the table, of one generator."""
    real, fake = population.store("renders"), population.store("generator")
    near, turned = evaluate_generator.compared(real, fake), evaluate_generator.turns(population, "generator")
    by_band = evaluate_generator.bands(population, real, {"generator": fake})
    solid = evaluate_generator.solid_row("avatars", population.store("avatars"))
    row = near | {f"FID {band['band']}": band["FID of generator"] for band in by_band}
    row |= {"yaw error": turned["yaw median"], "yaw error, 90th percentile": turned["yaw 90th percentile"]}
    return row | {"pose error": turned["pose median"], **{name: solid[name] for name in solid if name in COLUMNS}}


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds of each variant; None where a run has no number."""
    table = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        runs = [row for row in rows if row["variant"] == name]
        line: dict[str, Any] = {"group": runs[0]["group"], "variant": name, "seeds": len(runs)}
        for column in COLUMNS:
            numbers = [row[column] for row in runs]
            whole = all(number is not None for number in numbers)
            line[column] = round(statistics.mean(numbers), 4) if whole else None
            line[f"{column}, spread"] = round(statistics.stdev(numbers), 4) if whole and len(runs) > 1 else None
        table.append(line)
    return table


def print_group(group: str, lines: Sequence[dict[str, Any]], seeds: int) -> None:
    rows = [
        {"variant": line["variant"]}
        | {column: _with_spread(line[column], line[f"{column}, spread"]) for column in COLUMNS}
        for line in lines
    ]
    show(f"ablation of the {group}: mean ± standard deviation of {seeds} seeds", rows)


def _with_spread(value: float | None, spread: float | None) -> str | None:
    return str(value) if spread is None or value is None else f"{value} ± {spread}"


@torch.inference_mode()
def sheet(places: Sequence[str]) -> bytes:
    """PNG: two samples of each run, one below the other, from eight sides."""
    labels = orbit_labels(torch.tensor([float(yaw) for yaw in SHEET_YAWS]), torch.full((len(SHEET_YAWS),), 5.0))
    pictures = []
    for place in places:
        generator = Generator.from_pretrained(f"{place}/weights")
        codes = generator.mapping(normal(0, "snapshot", 0, (2, generator.config.z_dim)), 0.7)
        for one in codes.split(1):
            seen = one.expand(len(labels), -1, -1)
            pictures.append(to_uint8(generator.render(generator.planes(one), labels, codes=seen).image))
    return png(grid(torch.cat(pictures), len(SHEET_YAWS), scale=2))


def _rendered(done: int, count: int, _: float) -> None:
    tell("renders to learn from", done, count)
