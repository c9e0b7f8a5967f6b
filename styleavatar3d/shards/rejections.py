"""Why pictures were rejected or drawn again: by gate, by yaw band and by style."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

BANDS = (22.5, 67.5, 112.5, 157.5, 180.0)
"""Degrees of |yaw| at which a band ends: front, three quarters, side, three quarters from behind, back."""


def count_rejections(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the records of a finished or growing data set say of the gates.

    Returns:
        pictures, rejected (no attempt passed), drawn_again (passed, but not at once), draws, and rows:
        by_gate: draws that each gate refused, and rejected pictures among whose failed gates it is
        by_yaw, by_style: pictures, rejected, drawn_again, and the draws that each gate refused
    """
    refused, final, whole = Counter(), Counter(), Counter()
    groups: dict[str, dict[str, Counter[str]]] = {"by_yaw": {}, "by_style": {}}
    for record in records:
        failed = [list(gates) for gates in record.get("refusals", [])]
        rejected = record["verdict"] == "rejected"
        row = Counter(pictures=1, rejected=int(rejected), drawn_again=int(bool(failed) and not rejected))
        whole += row + Counter(draws=max(len(failed), 1) if rejected else len(failed) + 1)
        gates = Counter(name for names in failed for name in names)
        refused += gates
        final += Counter({name: 1 for name in gates}) if rejected else Counter()
        for table, name in (("by_yaw", yaw_band(record["yaw"])), ("by_style", record["style"])):
            groups[table].setdefault(name, Counter()).update(row + gates)
    return {
        **{name: whole[name] for name in ("pictures", "rejected", "drawn_again", "draws")},
        "by_gate": {name: {"draws": count, "rejected": final[name]} for name, count in refused.most_common()},
        **{table: {name: _row(rows[name], refused) for name in sorted(rows)} for table, rows in groups.items()},
    }


def yaw_band(yaw: float) -> str:
    """The name of the band of |yaw| that holds `yaw` (degrees)."""
    end = next((at for at in BANDS if abs(yaw) < at), BANDS[-1])
    start = max((at for at in (0.0, *BANDS) if at < end), default=0.0)
    return f"{start:05.1f}-{end:05.1f}"


def _row(counts: Counter[str], gates: Iterable[str]) -> dict[str, int]:
    return {name: counts[name] for name in ("pictures", "rejected", "drawn_again", *sorted(gates))}
