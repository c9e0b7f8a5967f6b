"""Checkpoints: exact, atomic, and never trusting."""

import json
from pathlib import Path

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.checkpoint import Checkpoints, StopSignal, load_optimizer, optimizer_tensors
from styleavatar3d.runtime.storage import Storage


def checkpoints(url: Path | str, keep: int = 2) -> Checkpoints:
    return Checkpoints(Storage.open(str(url)), keep)


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), value), "half": torch.tensor([value], dtype=torch.bfloat16)}


def test_a_fresh_run_has_none(tmp_path):
    assert checkpoints(tmp_path).latest() is None


def test_the_latest_comes_back_exactly(tmp_path):
    for position in (1, 2, 30):
        checkpoints(tmp_path).save(position, weights(position / 3), {"seed": position})
    found = checkpoints(tmp_path).latest()
    assert found.position == 30 and found.scalars == {"seed": 30}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in weights(10).items())
    assert found.tensors["half"].dtype == torch.bfloat16


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_stay(tmp_path, keep):
    for position in range(1, 6):
        checkpoints(tmp_path, keep).save(position, weights(0), {})
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == list(range(6 - keep, 6))


def test_what_was_written_before_the_record_is_invisible(tmp_path):
    checkpoints(tmp_path).save(1, weights(1), {})
    torn = tmp_path / "checkpoints/000000000002"
    torn.mkdir()
    (torn / "state.safetensors").write_bytes(b"half a file")
    assert checkpoints(tmp_path).latest().position == 1
    checkpoints(tmp_path, keep=1).save(3, weights(3), {})
    assert not torn.exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog):
    for position in (1, 2):
        checkpoints(tmp_path).save(position, weights(position), {})
    file = tmp_path / "checkpoints/000000000002/state.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert checkpoints(tmp_path).latest().position == 1 and "cannot be used" in caplog.text
    (tmp_path / "checkpoints/000000000001/state.json").unlink()
    with pytest.raises(StyleAvatarError, match="no checkpoint .* is intact"):
        checkpoints(tmp_path).latest()


def test_a_damaged_record_is_named(tmp_path):
    checkpoints(tmp_path).save(1, weights(1), {})
    (tmp_path / "latest.json").write_text("{")
    with pytest.raises(StyleAvatarError, match="latest.json"):
        checkpoints(tmp_path).latest()


def test_checkpoints_live_on_s3(s3_server):
    for position in (1, 2, 3):
        checkpoints(f"{s3_server}/run").save(position, weights(position), {"seed": 0})
    found = checkpoints(f"{s3_server}/run").latest()
    assert found.position == 3 and torch.equal(found.tensors["w"], weights(3)["w"])
    assert len([n for n in Storage.open(f"{s3_server}/run").list("checkpoints") if n.endswith("json")]) == 2


def test_an_optimizer_goes_on_where_it_was():
    def steps(layer, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    copy = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, betas=(0.0, 0.99))
    steps(layer, optimizer, 3)
    copy.load_state_dict(layer.state_dict())
    resumed = torch.optim.Adam(copy.parameters(), 0.1, betas=(0.0, 0.99))
    load_optimizer(resumed, {"other.0.step": torch.zeros(())} | optimizer_tensors(optimizer, "adam"), "adam")
    steps(layer, optimizer, 3)
    steps(copy, resumed, 3)
    assert torch.equal(copy.weight, layer.weight) and torch.equal(copy.bias, layer.bias)


def test_signals_are_remembered_and_handlers_put_back():
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_pickle_is_written(tmp_path):
    checkpoints(tmp_path).save(1, weights(1), {"a": [1, 2]})
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".safetensors", ".json"}
    assert json.loads((tmp_path / "checkpoints/000000000001/state.json").read_text())["scalars"] == {"a": [1, 2]}


def test_a_fused_optimizer_goes_on_in_the_layout_of_its_parameters():
    def trained(interrupted: bool) -> torch.Tensor:
        draw = torch.Generator().manual_seed(0)
        start = torch.randn(8, 6, 3, 3, generator=draw)
        weight = torch.nn.Parameter(start.contiguous(memory_format=torch.channels_last))
        optimizer = torch.optim.AdamW([weight], 0.01, fused=True)
        for step in range(6):
            if interrupted and step == 3:
                saved = optimizer_tensors(optimizer, "o")
                optimizer = torch.optim.AdamW([weight], 0.01, fused=True)
                load_optimizer(optimizer, {name: tensor.contiguous() for name, tensor in saved.items()}, "o")
            weight.grad = torch.randn(weight.shape, generator=draw).contiguous(memory_format=torch.channels_last)
            optimizer.step()
        return weight.detach()

    assert torch.equal(trained(False), trained(True))
