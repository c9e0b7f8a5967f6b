"""What `bench` measured, as sections of the results page: one for each file `tables/NAME.json` that was kept."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from styleavatar3d.errors import StyleAvatarError


class Section(NamedTuple):
    """How a table of `bench` is shown: its title, how it came about, which of its parts are tables of their own, and
    what its picture shows, NAME.png beside the table, if there is one."""

    title: str
    how: str
    parts: tuple[str, ...] = ("rows",)
    picture: str = ""


SECTIONS = {
    "ablation": Section(
        "What view words and guidance are worth",
        "`bench ablation`: {count} pictures a row of the same held-out figures, {behind} of them from behind,\n"
        "seed {seed}. A claim holds where rows differ by two standard errors.",
        ("rows", "claims"),
    ),
    "gan-ablation": Section(
        "What the discriminator's label and the volume are worth",
        "`bench gan-ablation`: {kimg} thousand images of {size} px a training, adversarial from the first, on\n"
        "renders with exact cameras; for the label's rows every fifth camera is wrong. Means over {seeds} seeds, and\n"
        "the spread (standard deviation).",
        ("summary",),
        "two samples of each training of the first seed, row by row in the order of the table, from eight sides",
    ),
    "stylespace": Section(
        "What the style prior is worth",
        "`bench stylespace --count {count} --seed {seed}`, by the judge. First: share of avatars that are nearest to\n"
        "their own picture among all {count}. W error: from the code behind the picture, root mean square in standard\n"
        "units; beside it the nearest of {others} codes. A change keeps the identity where the avatar is nearest to\n"
        "its own start. Diversity: mean 1 - cosine in the tiny CLIP between seeds, and between random avatars; of one\n"
        "word, between those that show it.",
        ("pictures", "prompts", "edits", "diversity", "latency"),
    ),
    "generators": Section(
        "The generators that shipped",
        "`evaluate --seed {seed}` of each: {samples} samples, tiny-CLIP features; {avatars} avatars from eight sides.",
    ),
    "gates": Section(
        "What the gates let pass",
        "`bench gates`: shares of {count} pictures of each sort that pass; and what was synthesised, by the judge.",
        ("rows", "judge"),
    ),
    "lora": Section("A style from ten pictures", "`bench lora`: on figures that it was not trained on, by the judge."),
    "synthesis": Section(
        "What our denoising loop costs",
        "`bench synthesis`: {layout}, {steps} steps, median of {repeats} turns. Shares of the time outside the\n"
        "modules; ours and diffusers' own pipeline over the bare modules. A batch of 8 makes {batch_8_over_1} times\n"
        "the pictures a second of a batch of 1.",
    ),
    "loader": Section(
        "How fast shards are read",
        "`bench loader`: {size} px, `torch.utils.data` over an EG3D zip beside it, median of {repeats} turns. Shards\n"
        "over zip: {png_ratio} as PNG, {jpeg_ratio} as JPEG; our JPEG over their PNG {jpeg_against_png_ratio}, at\n"
        "{jpeg_against_png_bytes} of the bytes. First batch at sample 1,000,000: {resume_s[1,000,000][wall]} s.",
    ),
    "ops": Section(
        "The renderer's kernel",
        "`bench ops`: the fused kernel and its plain PyTorch twin, {threads} threads, median of {repeats} turns.",
        ("rows", "networks"),
    ),
}


def sections(folder: Path) -> list[str]:
    """Markdown of every table kept in `folder`. Raises StyleAvatarError for one that is damaged."""
    return [_section(name, path) for name in SECTIONS if (path := folder / f"{name}.json").is_file()]


def _section(name: str, path: Path) -> str:
    section = SECTIONS[name]
    try:
        told = json.loads(path.read_text())
        tables = [_table(told[part]) for part in section.parts]
        if section.picture and path.with_suffix(".png").is_file():
            tables.append(f"![{section.picture}](pictures/{name}.png)\n")
        return "\n".join([f"## {section.title}", "", section.how.format(**told), "", "\n".join(tables)])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise StyleAvatarError(
            f"{path} is no table of bench: {error!r}", remedy="delete it, or make it again"
        ) from None


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    rows = [_with_spread(row) for row in rows]
    columns = {name: cell for row in rows for name, cell in row.items()}
    names = [name for name, cell in columns.items() if not isinstance(cell, dict)]
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|---" * len(names) + "|"]
    return (
        "\n".join([*lines, *("| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows)]) + "\n"
    )


def _with_spread(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose columns "NAME, spread" stand behind the numbers that they are the spread of."""
    spreads = {name: row[f"{name}, spread"] for name in row if row.get(f"{name}, spread") is not None}
    told = {name: cell for name, cell in row.items() if not name.endswith(", spread")}
    return told | {name: f"{told[name]} ± {spread}" for name, spread in spreads.items()}


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
