"""Whether the prompts that are drawn cover what they should: chi-square of counts against the exact law of the draw.

One test a variable (style, gender, ..., every attribute with "not drawn" as one of its outcomes), one a value (said or
not said) and one a pair of variables. Of the variables each p must exceed the threshold. Values and pairs are hundreds
of tests, of which some fall below 0.001 by chance alone: they are held to threshold over their number (Bonferroni).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.random import uniform
from styleavatar3d.synthesis.drawing import NOT_DRAWN, Dice, dice_of, draw_prompt
from styleavatar3d.synthesis.vocabulary import SHIPPED, PromptsConfig

THRESHOLD = 0.001
FEWEST = 5.0
"""expected counts below this are pooled: chi-square is an approximation for large ones"""


class ChiSquare(NamedTuple):
    """A chi-square test; `p` is the chance of counts as uneven as these if the draw follows its law."""

    statistic: float
    freedom: int
    p: float


def coverage(config: PromptsConfig = SHIPPED, seed: int = 0, count: int = 100_000) -> dict[str, Any]:
    """Draw the prompts 0 .. count - 1 and compare all counts with the law.

    Returns {"covered": bool, "below": [what failed], "draws", "seed", "threshold", the smallest p of each sort, and
    "attributes": {name: {"p", "drawn", "values": {value: {"count", "expected", "p"}}}}}.
    """
    if count < 1000:
        raise StyleAvatarError("too few draws to judge", got=count, expected="at least 1000")
    dice = dice_of(config)
    law = {"style": dict(zip(dice.styles.values, dice.styles.shares(), strict=True)), **dice.law()}
    outcomes = {name: [value for value, chance in values.items() if chance > 0] for name, values in law.items()}
    codes = _draw_codes(dice, outcomes, seed, count)
    report, below = {}, []
    for column, (name, values) in enumerate(outcomes.items()):
        expected = torch.tensor([law[name][value] for value in values], dtype=torch.double) * count
        found = torch.bincount(codes[:, column], minlength=len(values)).double()
        report[name] = _describe(values, found, expected, count)
        below += [name] * (report[name]["p"] <= THRESHOLD)
    singles = [(f"{name}: {value}", one["p"]) for name, all in report.items() for value, one in all["values"].items()]
    below += [name for name, p in singles if p <= THRESHOLD / len(singles)]
    pairs = _pairs(dice, law, outcomes, codes)
    below += [name for name, p in pairs if p <= THRESHOLD / len(pairs)]
    worst, least = min(pairs, key=lambda pair: pair[1])
    return {
        "covered": not below,
        "draws": count,
        "seed": seed,
        "threshold": THRESHOLD,
        "below": below,
        "smallest p of an attribute": min(one["p"] for one in report.values()),
        "smallest p of a value": {"p": min(p for _, p in singles), "tests": len(singles)},
        "smallest p of a pair": {"p": least, "tests": len(pairs), "pair": worst},
        "attributes": report,
    }


def samples(config: PromptsConfig = SHIPPED, seed: int = 0, count: int = 8) -> list[dict[str, Any]]:
    """The first prompts of a seed, seen from all around, to be read by a person."""
    views = [(index * 360 / count - 180, 15.0 * (index % 3 - 1)) for index in range(count)]
    return [
        {"yaw": yaw, "pitch": pitch, **draw_prompt(seed, index, yaw, pitch, config)._asdict()}
        for index, (yaw, pitch) in enumerate(views)
    ]


def chi_square(found: Float[Tensor, "cells"], expected: Float[Tensor, "cells"]) -> ChiSquare:
    """Pearson's test of counts with the same sum; cells expected fewer than `FEWEST` times are taken together."""
    order = expected.argsort(descending=True)
    found, expected = found[order], expected[order]
    many = int((expected >= FEWEST).sum())
    if expected[many:].sum() < FEWEST:  # too few even together: they join the smallest of the others
        many = max(many - 1, 0)
    if many < len(expected):
        found = torch.cat([found[:many], found[many:].sum()[None]])
        expected = torch.cat([expected[:many], expected[many:].sum()[None]])
    freedom = len(expected) - 1
    if freedom == 0:
        return ChiSquare(0.0, 0, 1.0)
    statistic = ((found - expected) ** 2 / expected).sum()
    p = torch.special.gammaincc(torch.tensor(freedom / 2, dtype=torch.double), statistic / 2)
    return ChiSquare(statistic.item(), freedom, p.item())


def _draw_codes(dice: Dice, outcomes: dict[str, list[str]], seed: int, count: int) -> Int[Tensor, "count variables"]:
    """Which outcome every variable has in every draw. An outcome that the law rules out is an error of the draw."""
    places = {name: {value: code for code, value in enumerate(values)} for name, values in outcomes.items()}
    rows: list[list[int]] = []
    for index in range(count):
        drawn = dice.draw(uniform(seed, "prompt", index, dice.count).tolist(), {})
        try:
            rows.append([codes[drawn.get(name, NOT_DRAWN)] for name, codes in places.items()])
        except KeyError as error:
            raise StyleAvatarError(f"prompt {index} has an outcome that cannot be", got=str(error)) from None
    return torch.tensor(rows, dtype=torch.int32)


def _describe(
    values: Sequence[str], found: Float[Tensor, "cells"], expected: Float[Tensor, "cells"], count: int
) -> dict[str, Any]:
    told = {}
    for value, seen, wanted in zip(values, found, expected, strict=True):
        both = torch.stack([seen, count - seen]), torch.stack([wanted, count - wanted])
        told[value or "(not drawn)"] = {
            "count": int(seen), "expected": round(wanted.item(), 1), "p": chi_square(*both).p,
        }  # fmt: skip
    absent = told.get("(not drawn)", {"count": 0})["count"]
    return {"p": chi_square(found, expected).p, "drawn": count - absent, "values": told}


def _pairs(
    dice: Dice,
    law: dict[str, dict[str, float]],
    outcomes: dict[str, list[str]],
    codes: Int[Tensor, "count variables"],
) -> list[tuple[str, float]]:
    """(names, p) of the joint counts of every two variables."""
    names = list(outcomes)
    joint = {(name, value): dice.law((name, value)) for name in names[1:] for value in outcomes[name]}
    tests = []
    for (a, first), (b, second) in combinations(enumerate(names), 2):
        cells = len(outcomes[first]) * len(outcomes[second])
        found = torch.bincount(codes[:, a] * len(outcomes[second]) + codes[:, b], minlength=cells).double()
        chances = [
            law[first][one] * law[second][other] if first == "style" else joint[first, one][second][other]
            for one in outcomes[first]
            for other in outcomes[second]
        ]
        expected = torch.tensor(chances, dtype=torch.double) * len(codes)
        possible = expected > 1e-9 * len(codes)
        impossible = found[~possible].sum().item()
        p = 0.0 if impossible else chi_square(found[possible], expected[possible]).p
        tests.append((f"{first} x {second}", p))
    return tests
