"""Making pairs and training on them: the same whatever was interrupted, and refused where it makes no sense."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import tiny
import torch

from styleavatar3d.config import load_config, validate
from styleavatar3d.errors import Stopped, StyleAvatarError
from styleavatar3d.runtime.checkpoint import Checkpoints
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.weights import weights_sha256
from styleavatar3d.stylespace import attributes, codes
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.pairs import augment
from styleavatar3d.stylespace.statistics import Statistics
from styleavatar3d.stylespace.train import batch_indices, draw_conditions, schedule, step, train


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.write_generator(folder / "generator")
    tiny.write_clip(folder / "clip")
    tiny.write_estimator(folder / "estimators")
    return folder


def config(models: Path, out: Path, start: str = "", eyes: bool = True, **train) -> StyleSpaceConfig:
    return validate(StyleSpaceConfig, {
        "run": {"out": str(out)},
        "data": {"generator": str(models / "generator"), "clip": str(models / "clip"), "codes": str(out / "codes"),
                 "estimators": str(models / "estimators") if eyes else "",
                 "count": 24, "held_out": 8, "crops": 2, "texts": 3, "captions": 8, "chunk": 8, "batch": 4},
        "model": {"start": start, "layers": 1, "width": 16},
        "train": {"kpairs": 0.064, "batch": 16, "warmup_kpairs": 0, "ema_kpairs": 0.02} | train,
        "track": {"retrieval": 4, "checkpoint_kpairs": 0.016},
    })  # fmt: skip


def pairs(out: Path) -> dict[str, torch.Tensor]:
    return codes.load(str(out / "codes"))[1]


def weights(out: Path) -> bytes:
    return (out / "weights" / "model.safetensors").read_bytes()


def test_the_shipped_configs_are_valid():
    for name in ("stylespace/miniature", "stylespace/tiny"):
        load_config(StyleSpaceConfig, name)


def test_pairs_do_not_depend_on_chunks_or_interruptions(models, tmp_path):
    summary = codes.make(config(models, tmp_path / "one"))
    assert summary["made"] == 24 and codes.make(config(models, tmp_path / "one"))["made"] == 0
    expected = pairs(tmp_path / "one")
    assert {name: tuple(tensor.shape) for name, tensor in expected.items()} == {
        "codes": (24, 1, 16), "embeddings": (24, 2, 16), "texts": (24, 3, 16), "seen": (24, attributes.NUMBERS),
    }  # fmt: skip

    storage = Storage.open(str(tmp_path / "one" / "codes"))
    storage.delete(codes.MANIFEST)
    storage.delete(summary["chunks"][1])
    assert codes.make(config(models, tmp_path / "one"))["made"] == 8
    for name, tensor in pairs(tmp_path / "one").items():
        assert torch.equal(tensor, expected[name]), name

    other = config(models, tmp_path / "two")
    codes.make(other.model_copy(update={"data": other.data.model_copy(update={"chunk": 12, "batch": 3})}))
    for name in ("codes", "embeddings"):
        torch.testing.assert_close(pairs(tmp_path / "two")[name], expected[name], atol=2e-3, rtol=1e-2)


def test_training_writes_a_prior_that_belongs_to_its_generator(models, tmp_path):
    summary = train(config(models, tmp_path))
    assert (
        summary["kpairs"] == 0.064
        and {"explained", "image_retrieval", "text_retrieval", "strangers", "attributes_found"} <= summary.keys()
    )
    sha256 = weights_sha256(tiny.Generator.from_pretrained(str(models / "generator")))
    assert StylePrior.from_pretrained(tmp_path / "weights", sha256).slots == 6
    assert (tmp_path / "log.jsonl").read_text().count("\n") >= 1
    assert sha256[:12] in (tmp_path / "weights" / "README.md").read_text()
    again = train(config(models, tmp_path / "more", start=str(tmp_path / "weights")))
    assert again["kpairs"] == 0.064


def test_an_interrupted_training_resumes_to_the_same_weights(models, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(config(models, whole))

    def step_until_the_third(state, *arguments):
        if state.seen == 32:
            raise KeyboardInterrupt
        return step(state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr("styleavatar3d.stylespace.train.step", step_until_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(config(models, cut))
    assert not (cut / "weights").exists()
    train(config(models, cut))
    assert weights(cut) == weights(whole)


def test_without_an_estimator_captions_are_chosen_by_likeness(models, tmp_path):
    blind = config(models, tmp_path, eyes=False)
    summary = train(blind)
    assert "attributes_found" not in summary and pairs(tmp_path).keys() == {"codes", "embeddings", "texts"}
    assert not StylePrior.from_pretrained(tmp_path / "weights").knows_attributes


def test_a_prior_of_slots_trains_and_gives_every_slot_a_code(models, tmp_path):
    sized = config(models, tmp_path)
    train(sized.model_copy(update={"model": sized.model.model_copy(update={"space": "w+", "heads": 2})}))
    prior = StylePrior.from_pretrained(tmp_path / "weights")
    codes_ = prior.sample(prior.conditions(image=torch.randn(2, 16)))
    assert prior.tokens == 6 and codes_.shape == (2, 6, 16) and not torch.equal(codes_[:, 0], codes_[:, 1])


def test_conditions_are_dropped_each_by_itself(models, tmp_path):
    settings = config(models, tmp_path, drop={"image": 0.5, "text": 0.25, "attributes": 0.25, "all": 0.2}).train
    count = 4000
    fake = {"embeddings": torch.randn(count, 1, 16), "texts": torch.randn(count, 1, 16),
            "seen": torch.ones(count, attributes.NUMBERS)}  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    known = draw_conditions(Statistics(16, 16), fake, torch.arange(count), settings, draw)
    shares = known.present.mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.4, 0.6, 0.6]), atol=0.03, rtol=0)
    both = (known.present[:, 0] * known.present[:, 1]).mean()
    assert abs(both - 0.8 * 0.5 * 0.75) < 0.03
    nothing = (known.present.sum(1) == 0).float().mean()
    assert abs(nothing - (0.2 + 0.8 * 0.5 * 0.25 * 0.25)) < 0.03


def test_a_stop_signal_leaves_a_checkpoint(models, tmp_path, monkeypatch):
    def step_and_ask_to_stop(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr("styleavatar3d.stylespace.train.step", step_and_ask_to_stop)
    with pytest.raises(Stopped):
        train(config(models, tmp_path))
    assert Checkpoints(Storage.open(tmp_path)).latest().position == 16


def test_every_epoch_reads_every_pair_once_from_any_position():
    run = torch.cat([batch_indices(0, position, 6, 10) for position in range(0, 60, 6)])
    for epoch in run.view(6, 10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(run[:10], run[10:20])
    assert torch.equal(batch_indices(0, 12, 25, 10), run[12:37])


def test_the_learning_rate_rises_and_falls(models, tmp_path):
    settings = config(models, tmp_path, kpairs=1.0, warmup_kpairs=0.1).train
    rates = [schedule(seen, settings) for seen in range(0, 1000, 16)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[0] < 0.2 and rates[-1] < 0.01


def test_augmented_pictures_stay_pictures_and_differ():
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    varied = augment(images, torch.rand(4, 9))
    assert varied.shape == images.shape and varied.abs().max() <= 1 and not torch.allclose(varied, images)
    torch.testing.assert_close(augment(images, torch.full((4, 9), 0.5)), images, atol=1e-5, rtol=0)


def test_training_without_pairs_left_is_refused(models, tmp_path):
    broken = config(models, tmp_path)
    broken = broken.model_copy(update={"data": broken.data.model_copy(update={"held_out": 24})})
    with pytest.raises(StyleAvatarError, match="no pairs are left"):
        train(broken)
    shutil.rmtree(tmp_path / "codes")
    with pytest.raises(StyleAvatarError, match="no pairs of codes"):
        codes.load(str(tmp_path / "codes"))
