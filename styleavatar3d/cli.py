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
from collections.abc import Sequence

from styleavatar3d import __version__
from styleavatar3d.errors import ConfigError, StyleAvatarError, disk_trouble
from styleavatar3d.verbs import VERBS, Result

# --- verbs that run a stage described by a config ------------------------------------------------------------------

STAGES = {
    "synthesize": ("styleavatar3d.synthesis.synthesize", "run", "SynthesisConfig", "synthesis/miniature"),
    "plan": ("styleavatar3d.synthesis.plan", "plan", "PlanConfig", "synthesis/miniature"),
    "plan gan": ("styleavatar3d.gan.plan", "plan", "GanConfig", "gan/miniature"),
    "plan stylespace": ("styleavatar3d.stylespace.plan", "plan", "PlanConfig", "stylespace/full"),
    "train lora": ("styleavatar3d.synthesis.lora", "train", "LoraConfig", "lora/miniature"),
    "train miniature": ("styleavatar3d.miniature.train", "train", "MiniatureConfig", "miniature/miniature"),
    "train gan": ("styleavatar3d.gan.train", "train", "GanConfig", "gan/miniature"),
    "train codes": ("styleavatar3d.stylespace.codes", "make", "StyleSpaceConfig", "stylespace/miniature"),
    "train stylespace": ("styleavatar3d.stylespace.train", "train", "StyleSpaceConfig", "stylespace/miniature"),
}
ABOUT = {
    "synthesize": "diffusion images of many figures, styles and views, into shards",
    "plan": "what a synthesis will take: bytes, hours, dollars, requests, licences; nothing is made",
    "plan gan": "what a training of the generator needs: parameters, memory, seconds; nothing is trained",
    "plan stylespace": "what a training of the style prior needs: parameters, memory, seconds; nothing is trained",
    "train lora": "a character or a style from about ten pictures, as a LoRA for synthesis",
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
            if result.get("exit_code"):
                sys.exit(result["exit_code"])


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
