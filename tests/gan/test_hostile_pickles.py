"""No pickle runs anything: 200 hostile ones, each refused by an error that says why, in less than a second."""

import gc
import os
import pickle
import re
import time
from pathlib import Path

import pytest
from gan.hostile_pickles import KINDS, MARKER, alone, calls, healthy, hostile, inside, new_global, old_global, values

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.training_pickle import read_training_pickle

COUNT = 200


def test_the_canary_sings(tmp_path: Path):
    """The poison is real: Python's own reader runs it."""
    canary = tmp_path / "canary"
    pickle.loads(alone(new_global("os", "system") + values((f"touch {canary}",)) + b"R"))
    assert canary.exists()


def test_a_healthy_pickle_is_read():
    assert MARKER.encode() in healthy()
    assert read_training_pickle(healthy()).weights.keys() == {"backbone.b4.const", "decoder.net.0.weight"}


@pytest.mark.parametrize(("module", "name", "_arguments"), calls("canary"), ids=lambda part: str(part)[:40])
def test_a_global_is_refused_by_its_name(module: str, name: str, _arguments: tuple):
    for poison in (old_global(module, name), new_global(module, name)):
        with pytest.raises(
            StyleAvatarError, match=f"global that is not allowed\n  got:      {re.escape(f'{module}.{name}')}"
        ):
            read_training_pickle(inside(poison))


def test_a_stand_in_is_admitted_and_stays_inert(tmp_path: Path):
    canary = tmp_path / "canary"
    poison = new_global("os", "system") + values((f"touch {canary}",)) + b"R"
    assert read_training_pickle(inside(poison), stand_ins=["os.system"]).weights
    assert not canary.exists()


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_waits_and_is_left_as_it_was(enabled: bool):
    walks = []

    def note(phase: str, _: dict) -> None:
        walks.append(phase)

    (gc.enable if enabled else gc.disable)()
    gc.callbacks.append(note)
    try:
        with pytest.raises(StyleAvatarError, match="refused"):
            read_training_pickle(alone(b"]" + b"]a" * 50_000))
        walked, after = len(walks), gc.isenabled()
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert after == enabled
    assert walked <= 2  # what begins and ends before and after the reading


@pytest.mark.parametrize("index", range(COUNT), ids=lambda index: f"{index}-{KINDS[index % len(KINDS)].__name__}")
def test_a_hostile_pickle_is_refused(index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    canary = tmp_path / "canary"
    for name in ("system", "mkdir"):
        monkeypatch.setattr(os, name, lambda *_: canary.touch())
    data = hostile(5, index, str(canary))
    before = time.thread_time()  # of this thread alone: the machine may be busy
    with pytest.raises(StyleAvatarError, match="this pickle is refused: .{5}") as refusal:
        read_training_pickle(data)
    seconds = time.thread_time() - before
    assert not canary.exists()
    assert seconds < 1
    assert len(str(refusal.value)) < 1000 and str(refusal.value).isascii()
