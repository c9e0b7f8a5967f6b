"""Licences as model cards state them, so that what is made with a model can say them too."""

from functools import cache
from typing import Any, NamedTuple

import yaml

from styleavatar3d.assets import assets
from styleavatar3d.runtime.storage import Storage

CARD_FILE = "README.md"
NOT_STATED = "not stated"
CARD, PAGE = "the card beside the weights", "the model's page on the hub"
UNVERIFIED = "unverified: nobody has read the card"
_KEYS = ("licences_of_training_data", "license", "licence")


def stated_licences(storage: Storage) -> list[str]:
    """Licences in the metadata of the model card beside weights: those of its training data, or its own.

    `["not stated"]` where there is no card or it names none.
    """
    if not storage.exists(CARD_FILE):
        return [NOT_STATED]
    parts = storage.read(CARD_FILE).decode(errors="replace").split("---\n", 2)
    try:
        card = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        card = None
    stated = next((card[key] for key in _KEYS if card.get(key)), []) if isinstance(card, dict) else []
    return [str(name) for name in ([stated] if isinstance(stated, str) else stated)] or [NOT_STATED]


class Licence(NamedTuple):
    """What a licence asks for. `derivatives`: models trained on what the weights make must carry its terms on."""

    id: str
    name: str
    derivatives: bool
    commercial: str
    meaning: str


@cache
def _known() -> dict[str, Any]:
    return yaml.safe_load((assets() / "data" / "licences.yaml").read_text(encoding="utf-8"))


class Known(NamedTuple):
    """A licence, and where it is known from: `CARD` (beside the weights), `PAGE` (of the hub) or `UNVERIFIED`."""

    licence: str
    source: str


def known_licence(model: str) -> Known:
    """The licence of a model of the hub by our own table; `NOT_STATED` if it is not there."""
    name, table = model.partition("@")[0], _known()["models"]
    if name in table["read"]:
        return Known(table["read"][name], PAGE)
    return Known(table["remembered"].get(name, NOT_STATED), UNVERIFIED)


def explain(licence: str) -> Licence:
    """What a licence means, by the id that model cards use. One that is not known is taken for a strict one."""
    known = _known()["licences"].get(licence.lower())
    if known is None:
        return Licence(licence, licence, True, "not known", "not known here: find out before you share what it makes")
    return Licence(licence, **known)
