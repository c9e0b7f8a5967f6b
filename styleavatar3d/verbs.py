"""The verbs with arguments of their own. Signature and docstring are the help that `styleavatar3d VERB --help` prints.

Each calls one function of the library, imported when the verb runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from styleavatar3d.errors import StyleAvatarError

Result = dict[str, Any]


def quickstart(out: str = "runs/quickstart", from_scratch: bool = False, configs: str = "miniature") -> Result:
    """The whole road on this machine, ending in one page: figures to diffusion images to generator to avatars.

    Args:
        out: folder of the run; the same command resumes it
        from_scratch: train every model here instead of starting from the shipped weights (hours)
        configs: the recipes of a run from scratch: miniature, or tiny, which takes a minute and learns nothing
    """
    from styleavatar3d.road import quickstart

    return quickstart(out, from_scratch, configs)


def generate(
    prompt: tuple[str, ...] = (),
    image: tuple[str, ...] = (),
    seeds: str = "",
    out: str = "runs/generate",
    model: str = "",
    table: str = "",
    attributes: str = "",
    negative: str = "",
    start: str = "",
    strength: float = 0.6,
    number: int = 1,
    truncation: float | None = None,
    guidance: float | None = None,
    candidates: int = 48,
    steps: int = 8,
    seed: int = 0,
    size: int = 128,
    mesh: int = 128,
) -> Result:
    """Avatars from prompts, pictures, attributes or seeds: PNG views, a turntable film, a GLB and the avatar file.

    Args:
        prompt: one or more descriptions, e.g. "a blue alien with round glasses, clay style"
        image: one or more picture files
        seeds: plain draws from the generator, e.g. 0-31 or 3,5,8
        out: folder for the results
        model: pipeline folder (default: the shipped weights)
        table: CSV of requests, a row each: prompt, image, attributes, negative, seed ...; see docs/avatars.md
        attributes: of every avatar, e.g. "hair=long; glasses=none"; they overrule the prompt
        negative: what it should not look like
        start: avatar file to change, e.g. with --prompt "with a beard"
        strength: with --start: how far from it at most, up to 1
        number: avatars of each request, from the seeds --seed, --seed + 1 ...
        truncation: pull codes towards the mean: 1 varied, 0 the mean avatar (default: 0.9 to 1, of seeds 0.7)
        guidance: classifier-free guidance of the style prior (default: 1.5 for one word to 3 for a picture)
        candidates: codes drawn per avatar; the one nearest to what was asked for is kept
        steps: of the style prior, from noise to a code
        seed: seed of the draws
        size: side of the pictures in pixels
        mesh: voxels along a side of the mesh grid; 0 for no GLB
    """
    from styleavatar3d.avatar.generate import generate
    from styleavatar3d.avatar.requests import parse_attributes

    return generate(
        prompts=list(prompt), images=list(image), seeds=parse_seeds(seeds), out=out, model=model or None, size=size,
        mesh=mesh, table=table, attributes=parse_attributes(attributes), negative=negative, start=start,
        strength=strength, number=number, truncation=truncation, guidance=guidance, candidates=candidates, steps=steps,
        seed=seed,
    )  # fmt: skip


def walk(
    avatar: tuple[str, ...], out: str = "runs/walk.mp4", frames: int = 96, size: int = 128, turns: int = 1,
    model: str = "",
) -> Result:  # fmt: skip
    """A film of the way through several avatars and back, while the camera orbits.

    Args:
        avatar: avatar files written by `generate`, two or more
        out: MP4 to write
        frames: pictures of the film
        size: side of the pictures in pixels
        turns: how often the camera goes around
        model: pipeline folder (default: the shipped weights)
    """
    from styleavatar3d.avatar.generate import walk

    return walk(avatar, out, frames, size, turns, model or None)


def mix(
    coarse: str, fine: str, out: str = "runs/mix", first: int = 4, size: int = 128, mesh: int = 128, model: str = ""
) -> Result:
    """The shapes of one avatar with the colours and details of another.

    Args:
        coarse: avatar file of the shapes
        fine: avatar file of the details
        out: folder for the results
        first: the slot of the code from which on the second has its say
        size: side of the pictures in pixels
        mesh: voxels along a side of the mesh grid; 0 for no GLB
        model: pipeline folder (default: the shipped weights)
    """
    from styleavatar3d.avatar.generate import mix

    return mix(coarse, fine, first, out, size, mesh, model=model or None)


def guidance(
    out: str = "runs/guidance",
    count: int = 6,
    seed: int = 0,
    size: int = 128,
    kinds: tuple[str, ...] = (),
    figure: str = "",
    landmarks: str = "",
    sheets: str = "",
) -> Result:
    """A sheet of figures with every picture that can guide a diffusion model.

    Args:
        out: folder for sheet.png
        count: number of figures
        seed: seed of the figures
        size: side of one picture in pixels
        kinds: which of depth, keypoints, normals, openpose, canny, softedge, parts, seg; all if none is named
        figure: pose this 3D file (GLB, glTF, VRM, OBJ, PLY) instead; see docs/figures.md
        landmarks: JSON with the figure's key points, where they cannot be found
        sheets: write instead, into this folder, contact sheets of every style, kind, cut and expression
    """
    from styleavatar3d.figures.guidance import KINDS
    from styleavatar3d.miniature.sheet import write_guidance, write_sheets

    if figure:
        from styleavatar3d.figures.file_sheet import write_file_guidance

        return write_file_guidance(figure, landmarks, out, size)
    return write_sheets(sheets) if sheets else write_guidance(out, count, seed, size, kinds or KINDS)


def prompts(file: str = "", seed: int = 0, count: int = 100_000, show: int = 0) -> Result:
    """Whether full-size prompts are drawn as their weights say: chi-square over every attribute, value and pair.

    Args:
        file: YAML with the words (default: data/prompts.yaml)
        seed: seed of the draws
        count: number of draws
        show: show this many prompts, seen from all around, instead
    """
    from styleavatar3d.synthesis.coverage import coverage, samples
    from styleavatar3d.synthesis.vocabulary import PromptsConfig

    config = PromptsConfig(file=file)
    return {"prompts": samples(config, seed, show)} if show else coverage(config, seed, count)


def dataset_import(
    folder: str, csv: str, out: str = "runs/mine/shards", size: int = 64, licence: str = "", mask: str = "alpha"
) -> Result:
    """Your own pictures with their cameras, as shards for `train gan`; see docs/your-own-pictures.md.

    Args:
        folder: where the pictures are
        csv: table with the columns file, yaw, pitch (degrees) and, if you like, more
        out: folder or s3:// prefix of the shards; the same command resumes
        size: side of the pictures in pixels, as the generator makes them
        licence: of all pictures whose row states none
        mask: alpha (transparency says where the head is), none, or a folder of masks, white where the head is
    """
    from styleavatar3d.shards.folder import import_folder

    return import_folder(folder, csv, out, size, licence, mask)


def dataset_inspect(url: str) -> Result:
    """Counts, styles, views, verdicts and licences of a shard folder or s3:// prefix.

    Args:
        url: folder or s3:// prefix
    """
    from styleavatar3d.shards.tools import inspect

    return inspect(url)


def dataset_preview(url: str, out: str = "preview.png", count: int = 64) -> Result:
    """A picture grid of the first records.

    Args:
        url: folder or s3:// prefix
        out: picture file to write
        count: number of records shown
    """
    from styleavatar3d.shards.tools import preview

    return preview(url, out, count)


def dataset_validate(url: str) -> Result:
    """Check every byte, record and camera of shards, or the cameras of another layout; exit code 2 if any is wrong.

    Args:
        url: folder or s3:// prefix of shards, an EG3D folder or zip, or a folder with transforms.json
    """
    from styleavatar3d.shards.tools import validate

    found = validate(url)
    return found if found["sound"] else {**found, "exit_code": 2}


def dataset_convert(
    source: str,
    out: str,
    licence: str = "",
    coding: Literal["keep", "auto", "png", "jpeg"] = "keep",
    shard_size: int = 250,
    fit: bool = False,
    unusual: bool = False,
) -> Result:
    """EG3D zips and folders and nerfstudio's transforms.json into shards, shards into EG3D's layout or a table.

    Args:
        source: shards, an EG3D folder or zip, or a folder with transforms.json; see docs/data-formats.md
        out: a name ending in .zip or .parquet, a folder, or an s3:// prefix
        licence: of the pictures, where they do not come from shards
        coding: keep leaves PNG and JPEG as they are; auto, png and jpeg code anew
        shard_size: pictures of a shard
        fit: move and scale cameras so that heads fill the picture as ours do
        unusual: let pass cameras that are merely unlikely
    """
    from styleavatar3d.shards.convert import convert

    return convert(source, out, licence, coding, shard_size, fit, unusual)


def export(avatar: str, out: str, mesh: int = 128, model: str = "") -> Result:
    """The mesh of a saved avatar, as .glb, .obj, .ply or .stl.

    Args:
        avatar: an avatar file written by `generate`
        out: file to write; its ending says the format
        mesh: voxels along a side of the grid
        model: pipeline folder (default: the shipped weights)
    """
    from styleavatar3d.avatar.generate import export

    return export(avatar, out, mesh, model or None)


def import_(
    file: str,
    family: Literal["auto", "eg3d", "panohead", "pyramid"] = "auto",
    out: str = "runs/imported",
    settings: str = "",
    check: str = "",
    licence: str = "",
    stand_in: tuple[str, ...] = (),
) -> Result:
    """A generator of EG3D, PanoHead or Portrait3D's pyramid, from its own weights; see docs/importing.md.

    Args:
        file: a state dict in safetensors with its settings in a JSON beside it, or an original training pickle (.pkl),
            which is read without running anything
        family: whose generator it is; auto tells by the names of its tensors
        out: folder or s3:// prefix for the weights, their config and their model card
        settings: JSON with the settings the original was built with, where it has another name
        check: .safetensors with inputs and results of the original: recomputed, and exit code 2 if any is off
        licence: of these weights, where it is not that of the family's published ones
        stand_in: names of classes that a pickle may hold besides the known ones; they stay names, nothing is imported
    """
    from styleavatar3d.gan.imports import import_generator

    return import_generator(file, out, family, settings=settings, check=check, licence=licence, stand_ins=stand_in)


def view(glb: str, out: str = "") -> Result:
    """One self-contained page that shows a GLB; open it in any browser.

    Args:
        glb: the file to show
        out: page to write (default: beside the GLB)
    """
    from styleavatar3d.avatar.viewer import write_viewer

    return write_viewer(glb, out or None)


def evaluate(
    model: str = "",
    full: bool = False,
    renders: int | None = None,
    pairs: int | None = None,
    samples: int | None = None,
    avatars: int | None = None,
    prompts: int | None = None,
    codes: int | None = None,
    retrieval: int | None = None,
    seed: int = 0,
    data: str = "",
    out: str = "",
    features: str = "clip",
    store: str = "",
    workers: int = 1,
) -> Result | None:
    """What the weights can do, by a judge that nothing else uses: views, attributes, distances, solidity, retrieval.

    Args:
        model: pipeline folder (default: the shipped weights)
        full: at the sizes of the results page, half an hour; the amounts below change single ones, 0 skips a table
        renders: held-out renders on which the judge itself is tried
        pairs: held-out (caption, camera) pairs for the diffusion model
        samples: generator samples for the Frechet distance
        avatars: avatars seen from eight sides, and compared with a fitted head
        prompts: prompts whose avatars are compared with the best of random codes
        codes: how many random codes
        retrieval: pictures among which the right avatar has to be found
        seed: seed of the held-out world
        data: shards that the generator learned from: their own distance stands beside the generator's
        out: JSON file to write
        features: what pictures are compared by: clip, inception (fetched), or a .safetensors file of Inception weights
        store: folder or s3:// prefix that keeps what was measured of samples and avatars; a stopped call goes on there
        workers: processes that measure samples and avatars
    """
    from styleavatar3d.bench.evaluate import run

    return run(
        model=model or None, full=full, seed=seed, data=data or None, out=out or None, renders=renders, pairs=pairs,
        samples=samples, avatars=avatars, prompts=prompts, codes=codes, retrieval=retrieval, features=features,
        store=store, workers=workers,
    )  # fmt: skip


def results(data: str = "data/miniature", page: str = "docs/results.md", logs: tuple[str, ...] = ()) -> Result:
    """Write the results page from evaluation.json, training.json and curves.json beside the weights.

    Args:
        data: folder of the weights
        page: page to write
        logs: runs whose logs go into curves.json first, as stage=folder; other stages there stay
    """
    from styleavatar3d.bench import curves
    from styleavatar3d.bench.results import write

    if logs:
        curves.collect(curves.parse_runs(logs), f"{data}/curves.json")
    return write(data, page)


def bench(table: str, repeats: int = 5, count: int = 0, out: str = "") -> Result:
    """A table of speeds as ratios measured in one run, or of what a choice is worth.

    Args:
        table: figures, gates, loader, lora, models, ops, synthesis
        repeats: interleaved repeats of each measurement of speed
        count: pictures a row of gates; 0 for as many as the documents quote
        out: JSON file to write
    """
    from styleavatar3d.bench import tables

    return tables.run(table, repeats, count, out)


def ablation(out: str = "runs/ablation", count: int = 1000, seed: int = 0, model: str = "", workers: int = 1) -> Result:
    """What view words and each kind of guidance are worth, on held-out figures, and which of the paper's claims hold.

    Args:
        out: folder of what was measured and of ablation.json; the same command resumes
        count: pictures a row
        seed: of the figures, cameras and noise
        model: folder with diffusion/, judge/ and clip/ (default: the shipped weights)
        workers: processes that draw
    """
    from styleavatar3d.bench.ablation import run

    return run(out, count, seed, model, workers=workers)


def style_space(
    out: str = "runs/bench/stylespace",
    count: int = 100,
    seed: int = 1,
    model: str = "",
    codes: str = "",
    inversions: int = 20,
    workers: int = 1,
) -> Result:
    """What the style prior is worth beside ranked random codes and a fit: pictures, prompts, edits, diversity, latency.

    Args:
        out: folder of what was measured and of stylespace.json; the same command resumes
        count: pictures, prompts and avatars of each table
        seed: of figures and codes
        model: pipeline folder with judge/ (default: the shipped weights)
        codes: folder of `train codes`, to tell how often the prior repeats a code that it was trained on
        inversions: pictures to which a code is fitted too, which takes a minute each; 0 for none
        workers: processes that measure
    """
    from styleavatar3d.bench.stylespace import run

    return run(out, count, seed, model, codes, inversions, workers)


def gan_ablation(
    out: str = "runs/gan-ablation",
    seeds: int = 2,
    size: int = 32,
    kimg: float = 30.0,
    only: tuple[str, ...] = (),
    data: str = "",
    samples: int = 2000,
    avatars: int = 50,
) -> Result:
    """What the discriminator's label and the kind of volume are worth: a training each, mean and spread over seeds.

    Args:
        out: folder of the runs, their rows and a sheet of samples; the same command resumes
        seeds: trainings of each variant
        size: side of the pictures in pixels: 32 or 64
        kimg: thousands of images of each training
        only: variants or groups (label, volume); all if none is named
        data: shards to learn from (default: renders of the little world)
        samples: pictures by which each run is measured
        avatars: avatars by which each run is measured
    """
    from styleavatar3d.bench.ablation_gan import Measure, run

    return run(out, seeds, size, kimg, only, data, measure=Measure(samples, avatars))


def doctor() -> Result:
    """What this machine has, and what is missing for which stage."""
    from styleavatar3d.runtime.doctor import examine

    return examine()


def parse_seeds(text: str) -> list[int]:
    """'0-3,8' -> [0, 1, 2, 3, 8]. Raises on anything else, and on more than 4096 seeds."""
    seeds: list[int] = []
    for part in filter(None, text.replace(" ", "").split(",")):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise StyleAvatarError("these are not seeds", got=text, expected="numbers and ranges such as 0-31 or 3,5,8")
        seeds += range(int(first), int(last or first) + 1) if int(last or first) - int(first) < 4096 else [0] * 4097
    if len(seeds) > 4096:
        raise StyleAvatarError("too many seeds", got=text, expected="at most 4096")
    return seeds


VERBS: dict[str, Callable[..., Result | None]] = {
    "quickstart": quickstart,
    "guidance": guidance,
    "dataset import": dataset_import,
    "dataset inspect": dataset_inspect,
    "dataset preview": dataset_preview,
    "dataset validate": dataset_validate,
    "dataset convert": dataset_convert,
    "prompts": prompts,
    "generate": generate,
    "walk": walk,
    "mix": mix,
    "import": import_,
    "export": export,
    "view": view,
    "evaluate": evaluate,
    "results": results,
    "bench": bench,
    "bench ablation": ablation,
    "bench gan-ablation": gan_ablation,
    "bench stylespace": style_space,
    "doctor": doctor,
}
