"""Licences as model cards state them, so that what is made with a model can say them too."""

import yaml

from styleavatar3d.runtime.storage import Storage

CARD_FILE = "README.md"
NOT_STATED = "not stated"
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
