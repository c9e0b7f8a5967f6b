"""`styleavatar3d VERB ...`: parse, call the library, print what it returns.

Every verb returns a dictionary; `--json` prints it as one object, last on stdout. Exit codes: 0 done, 2 bad input,
3 stopped and resumable, 1 our fault. Nothing heavy is imported before a verb runs, so help is immediate.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from styleavatar3d import __version__
from styleavatar3d.errors import ConfigError, StyleAvatarError, disk_trouble

Result = dict[str, Any]


# --- verbs that run a stage described by a config ------------------------------------------------------------------

STAGES = {
    "synthesize": ("styleavatar3d.synthesis.synthesize", "run", "SynthesisConfig", "synthesis/miniature"),
    "train miniature": ("styleavatar3d.miniature.train", "train", "MiniatureConfig", "miniature/miniature"),
    "train gan": ("styleavatar3d.gan.train", "train", "GanConfig", "gan/miniature"),
    "train codes": ("styleavatar3d.stylespace.codes", "make", "StyleSpaceConfig", "stylespace/miniature"),
    "train stylespace": ("styleavatar3d.stylespace.train", "train", "StyleSpaceConfig", "stylespace/miniature"),
}
ABOUT = {
    "synthesize": "diffusion images of many figures, styles and views, into shards",
    "train miniature": "the little world's own diffusion model, encoder, estimators and judge",
    "train gan": "the 3D generator, on shards",
    "train codes": "pairs (style code, picture embedding) drawn from a generator",
    "train stylespace": "the diffusion model over style codes",
}


def run_stage(verb: str, words: Sequence[str]) -> Result:
    """Load the stage's config, apply `--section.key value` overrides, run it. The same command resumes it."""
    from styleavatar3d.config import load_config

    module, function, config_class, name = STAGES[verb]
    words = list(words)
    if "--config" in words:
        at = words.index("--config")
        if at + 1 == len(words):
            raise ConfigError("--config has no value", expected="a path, or a name under configs/")
        name = words[at + 1]
        del words[at : at + 2]
    stage = importlib.import_module(module)
    return getattr(stage, function)(load_config(getattr(stage, config_class), name, words))


def stage_help(verb: str) -> str:
    """What a stage does and every key of its default config."""
    from styleavatar3d.config import find_config

    name = STAGES[verb][3]
    return (
        f"usage: styleavatar3d {verb} [--config NAME_OR_PATH] [--section.key VALUE ...] [--json]\n\n{ABOUT[verb]}\n"
        "The same command resumes a stopped run.\n\n"
        f"# configs/{name}.yaml, the default\n{find_config(name).read_text()}"
    )


# --- verbs with arguments of their own -----------------------------------------------------------------------------


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
    truncation: float = 0.7,
    guidance: float = 2.0,
    candidates: int = 8,
    seed: int = 0,
    size: int = 128,
    mesh: int = 128,
) -> Result:
    """Avatars from prompts, pictures or seeds: PNG views, a turntable film, a GLB and the avatar file.

    Args:
        prompt: one or more descriptions, e.g. "a blue alien with round glasses, clay style"
        image: one or more picture files
        seeds: plain draws from the generator, e.g. 0-31 or 3,5,8
        out: folder for the results
        model: pipeline folder (default: the shipped weights)
        truncation: pull codes towards the mean: 1 varied, 0 the mean avatar
        guidance: classifier-free guidance of the style prior
        candidates: codes drawn per prompt or picture; the one nearest to it is kept
        seed: seed of the draws
        size: side of the pictures in pixels
        mesh: voxels along a side of the mesh grid; 0 for no GLB
    """
    from styleavatar3d.avatar.generate import generate

    return generate(
        prompts=list(prompt), images=list(image), seeds=parse_seeds(seeds), out=out, model=model or None,
        truncation=truncation, guidance=guidance, candidates=candidates, seed=seed, size=size, mesh=mesh,
    )  # fmt: skip


def guidance(out: str = "runs/guidance", count: int = 6, seed: int = 0, size: int = 128, sheets: str = "") -> Result:
    """A sheet of figures with the depth and key-point pictures that guide the diffusion model.

    Args:
        out: folder for sheet.png
        count: number of figures
        seed: seed of the figures
        size: side of one picture in pixels
        sheets: write instead, into this folder, contact sheets of every style, kind, cut and expression
    """
    from styleavatar3d.miniature.sheet import write_guidance, write_sheets

    return write_sheets(sheets) if sheets else write_guidance(out, count, seed, size)


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
    """Check every shard against its manifest record and every record against the schema.

    Args:
        url: folder or s3:// prefix
    """
    from styleavatar3d.shards.tools import validate

    return validate(url)


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
) -> Result:
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
    """
    from styleavatar3d.bench.evaluate import run

    return run(
        model=model or None, full=full, seed=seed, data=data or None, out=out or None, renders=renders, pairs=pairs,
        samples=samples, avatars=avatars, prompts=prompts, codes=codes, retrieval=retrieval,
    )  # fmt: skip


def results(data: str = "data/miniature", page: str = "docs/results.md", logs: tuple[str, ...] = ()) -> Result:
    """Write the results page from evaluation.json, training.json and curves.json beside the weights.

    Args:
        data: folder of the weights
        page: page to write
        logs: runs whose logs become curves.json first, as stage=folder; without any, curves.json stays
    """
    from styleavatar3d.bench import curves
    from styleavatar3d.bench.results import write

    if logs:
        curves.collect(curves.parse_runs(logs), f"{data}/curves.json")
    return write(data, page)


def bench(table: str, repeats: int = 5) -> Result:
    """A speed table, as ratios measured in one run.

    Args:
        table: figures, ops
        repeats: interleaved repeats of each measurement
    """
    from styleavatar3d.bench import tables

    return tables.run(table, repeats)


def doctor() -> Result:
    """What this machine has, and what is missing for which stage."""
    from styleavatar3d.runtime.doctor import examine

    return examine()


VERBS: dict[str, Callable[..., Result]] = {
    "quickstart": quickstart,
    "guidance": guidance,
    "dataset import": dataset_import,
    "dataset inspect": dataset_inspect,
    "dataset preview": dataset_preview,
    "dataset validate": dataset_validate,
    "generate": generate,
    "export": export,
    "view": view,
    "evaluate": evaluate,
    "results": results,
    "bench": bench,
    "doctor": doctor,
}


# --- the command ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: never a bare traceback, always one of four exit codes."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    try:
        result = dispatch(words)
    except StyleAvatarError as error:
        _leave(str(error), error.exit_code, as_json)
    except KeyboardInterrupt:
        _leave("stopped; what was committed is kept, and the same command goes on", 3, as_json)
    except OSError as error:
        _leave(*_explain(error), as_json)
    except Exception as error:
        _leave(*_our_fault(error), as_json)
    else:
        if result is not None:
            print(json.dumps(result, default=str) if as_json else _readable(result))


def dispatch(words: Sequence[str]) -> Result | None:
    """Run the verb that `words` begin with; None when help was printed."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return None
    if words[0] == "--version":
        print(__version__)
        return None
    verb, rest = split_verb(words)
    if verb in STAGES:
        if "-h" in rest or "--help" in rest:
            print(stage_help(verb))
            return None
        return run_stage(verb, rest)
    import tyro

    positional = (tyro.conf.PositionalRequiredArgs,)
    return tyro.cli(VERBS[verb], prog=f"styleavatar3d {verb}", args=list(rest), config=positional)


def split_verb(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The verb (one or two words) at the head of `words`, and what follows it."""
    for length in (2, 1):
        verb = " ".join(words[:length])
        if verb in STAGES or verb in VERBS:
            return verb, words[length:]
    import difflib

    known = sorted([*STAGES, *VERBS])
    asked = " ".join(words[:2])
    close = difflib.get_close_matches(asked, known, n=1, cutoff=0.4) or difflib.get_close_matches(words[0], known, n=1)
    raise StyleAvatarError(
        "there is no such verb",
        got=asked,
        expected=", ".join(known),
        remedy=f"did you mean 'styleavatar3d {close[0]}'?" if close else "styleavatar3d --help",
    )


def overview() -> str:
    """The verbs, one line each."""
    lines = [f"{verb:18} {text}" for verb, text in ABOUT.items()]
    lines += [f"{verb:18} {(inspect.getdoc(function) or '').splitlines()[0]}" for verb, function in VERBS.items()]
    return (
        f"styleavatar3d {__version__}: text or a picture to a 3D avatar, and everything that trains it\n\n"
        "usage: styleavatar3d VERB [options] [--json]      styleavatar3d VERB --help\n\n  " + "\n  ".join(lines)
    )


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


def _readable(result: Result) -> str:
    """One line a value, and one for each row of a list. Tables of tables were printed while they were made."""
    lines = []
    for name, value in result.items():
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                lines.append(f"{name:>16}  {row}")
            elif not any(isinstance(cell, dict) for cell in row.values()):
                lines.append(f"{name:>16}  " + "  ".join(f"{key} {cell}" for key, cell in row.items()))
    return "\n".join(lines)


def _explain(error: OSError) -> tuple[str, int]:
    trouble = disk_trouble(error)
    if trouble is None:
        return _our_fault(error)
    what, remedy = trouble
    return str(StyleAvatarError(what, got=error.filename or str(error), remedy=remedy)), StyleAvatarError.exit_code


def _our_fault(error: Exception) -> tuple[str, int]:
    if os.environ.get("STYLEAVATAR3D_DEBUG"):
        raise error
    remedy = "STYLEAVATAR3D_DEBUG=1 shows where; please report it"
    return str(StyleAvatarError(f"this is our fault: {type(error).__name__}: {error}", remedy=remedy)), 1


def _leave(message: str, code: int, as_json: bool) -> None:
    print(message, file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message, "exit_code": code}))
    sys.exit(code)


if __name__ == "__main__":
    main()
