"""What the guides say is there: files, headings, verbs, options, config keys, and Python that does what it claims."""

import importlib
import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from styleavatar3d.cli import STAGES, split_verb
from styleavatar3d.config import load_config
from styleavatar3d.verbs import VERBS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
SHELL = {"mkdir", "cp", "source", "export", "cd", "git", "sudo", "pip", "ray", "df", "rm"}
COMMON = {"--json", "--help", "-h", "--version"}


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """(line number, text) of each fenced block of a language. Fences of `bash` and `python` can be run as they are."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start()].count("\n") + 2, match[1]


def commands() -> list:
    found = []
    for page in PAGES:
        for line, block in blocks(page, "bash"):
            for text in block.replace("\\\n", " ").splitlines():
                for part in text.split(" && "):
                    if words := shlex.split(part, comments=True):
                        found.append(pytest.param(words, id=f"{page.name}:{line} {' '.join(words)}"[:90]))
    return found


def check_stage(verb: str, words: list[str]) -> None:
    """The config exists and has every key that is overridden."""
    module, _, config_class, name = STAGES[verb]
    words = [word for word in words if word not in COMMON]
    if "--config" in words:
        at = words.index("--config")
        name = words[at + 1]
        del words[at : at + 2]
    load_config(getattr(importlib.import_module(module), config_class), name, words)


def check_verb(verb: str, words: list[str]) -> None:
    """The options exist, and what has no default is given."""
    parameters = inspect.signature(VERBS[verb]).parameters.values()
    options = {"--" + parameter.name.replace("_", "-") for parameter in parameters} | COMMON
    flags = {"--" + p.name.replace("_", "-") for p in parameters if isinstance(p.default, bool)} | COMMON
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    positional, expects_value = 0, False
    for word in words:
        if word.startswith("-"):
            assert word.partition("=")[0] in options, f"{verb} has no {word}"
            expects_value = word not in flags and "=" not in word
        else:
            positional, expects_value = positional + (not expects_value), False
    assert positional == len(required), f"{verb} needs {[parameter.name for parameter in required]}"


def check(words: list[str]) -> None:
    while "=" in words[0]:  # VARIABLE=value command
        words = words[1:]
    if words[0] == "styleavatar3d":
        if words[1] in COMMON:
            return
        verb, rest = split_verb(words[1:])
        (check_stage if verb in STAGES else check_verb)(verb, list(rest))
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words
    elif words[0] in ("bash", "python"):
        assert (ROOT / words[1]).is_file(), words
        if words[1] == "launch/train.sh":
            assert (ROOT / f"cluster/accelerate/{words[2]}.yaml").is_file()
            check_stage(f"train {words[3]}", words[4:])
        elif "--" in words:
            check(["styleavatar3d", *words[words.index("--") + 1 :]])
    else:
        assert words[0] in SHELL, f"nobody knows whether this runs: {words}"
        for word in words:
            assert not word.startswith(("data/", "configs/")) or (ROOT / word).exists(), word


@pytest.mark.parametrize("words", commands())
def test_commands_name_verbs_options_and_keys_that_exist(words: list[str]):
    check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}"
        assert file.resolve().is_relative_to(ROOT)
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """The names that a web page of this file gives its headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_messages_in_troubleshooting_are_those_that_the_code_prints():
    """What stands in bold code, unless it is said to be from elsewhere; ... stands for what varies."""
    folders = [ROOT / "styleavatar3d", ROOT / "launch"]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".sh")]
    source = "\n".join(file.read_text(encoding="utf-8") for file in files)
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"\*\*`([^`]+)`\*\*(?! \(from)", text)
    assert len(messages) > 60
    for message in messages:
        for part in message.split("..."):
            assert len(part) < 4 or part.strip(" :;") in source, message


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT], ids=lambda page: page.name)
def test_python_in_the_guides_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for line, block in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + block, str(page), "exec"), {})


def test_the_index_names_every_guide():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_pictures_of_the_guides_are_small():
    for picture in (ROOT / "docs" / "pictures").glob("cameras-*.png"):
        assert picture.stat().st_size <= 150_000, picture.name
