"""The generator's ablation: variants differ by what they are named for, runs resume one by one, rows add up."""

import json
from pathlib import Path

import pytest
import tiny
import torch

from styleavatar3d.bench import ablation_gan, avatars
from styleavatar3d.bench.ablation_gan import VARIANTS, Measure, choose, plan, run, shrunk, summarise
from styleavatar3d.config import ConfigError
from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.views import Views
from styleavatar3d.metrics.judge import Judge

TINY = (
    "--model.generator.widths", "[16, 16, 16, 16]", "--model.generator.z_dim", "16", "--model.generator.w_dim", "16",
    "--model.generator.samples", "[4, 4]", "--model.generator.density_gain", "100",
    "--model.discriminator.widths", "[8, 8, 16, 16]", "--model.discriminator.label_width", "16",
    "--train.batch", "4", "--train.threads", "1", "--train.schedule.samples", "[4, 4]",
    "--train.schedule.start_samples", "[4, 4]", "--train.checkpoint_kimg", "0.032",
)  # fmt: skip
SMALL = Measure(samples=4, avatars=2)


def test_every_variant_is_a_config_that_differs_by_its_name_alone() -> None:
    plans = {one.name: plan(one, 0, "runs/x", 32, 30) for one in VARIANTS}
    labels = {name: config.model.label.kind for name, config in plans.items() if name in VARIANT_NAMES["label"]}
    assert list(labels.values()) == ["coarse-to-fine", "none", "camera", "noisy camera"]
    volumes = [plans[name].model.generator.volume for name in VARIANT_NAMES["volume"]]
    assert volumes == ["triplane", "trigrid", "pyramid"]
    pyramid = plans["pyramid"].model.generator
    assert pyramid.plane_resolution > pyramid.coarsest, "a pyramid has levels"
    assert len({config.run.out for config in plans.values()}) == len(VARIANTS)
    for name in VARIANT_NAMES["label"]:
        assert plans[name].train == plans["tri-grid"].train
        assert plans[name].model.generator == plans["tri-grid"].model.generator
    assert plan(VARIANTS[0], 1, "runs/x", 64, 30).model.generator.image_resolution == 64


VARIANT_NAMES = {group: [one.name for one in VARIANTS if one.group == group] for group in ("label", "volume")}


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(StyleAvatarError, match="no such variant"):
        choose(["quad-plane"])
    with pytest.raises(StyleAvatarError, match="no such size"):
        run(size=48)
    with pytest.raises(StyleAvatarError, match="nothing would be trained"):
        run(seeds=0)
    with pytest.raises(ConfigError, match=r"model\.label\.kin"):
        plan(VARIANTS[0], 0, "runs/x", 32, 30, ["--model.label.kin", "none"])
    assert [one.name for one in choose(["volume"])] == VARIANT_NAMES["volume"]


def test_larger_pictures_are_made_smaller() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    views = shrunk(Views(images, images[:, :1], torch.zeros(2, 25)), 4)
    assert views.images[0, 0, 0, 0] == images[0, 0, :2, :2].float().mean().round()
    with pytest.raises(StyleAvatarError, match="cannot be made this small"):
        shrunk(Views(images, images[:, :1], torch.zeros(2, 25)), 3)


def test_mean_and_spread_over_the_seeds() -> None:
    numbers = dict.fromkeys(ablation_gan.COLUMNS, 1.0)
    rows = [{"group": "label", "variant": "a", **numbers, "FID": fid, "FID back": None} for fid in (1.0, 3.0)]
    (line,) = summarise(rows)
    assert (line["FID"], line["FID, spread"], line["seeds"]) == (2.0, 1.4142, 2)
    assert line["FID back"] is None and line["yaw error, spread"] == 0
    assert summarise(rows[:1])[0]["FID, spread"] is None


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    folder = tmp_path / "readers"
    tiny.write_clip(folder / "clip")
    torch.manual_seed(0)
    Judge((8, 8, 8, 8)).save_pretrained(folder / "judge")
    Estimator(("nose",), (8, 8, 8, 8)).save_pretrained(folder / "estimators")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_are_trained_measured_and_resumed(
    readers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(avatars, "BUILDS", (0.5,))
    monkeypatch.setattr(avatars, "FACES", 1)
    monkeypatch.setattr("styleavatar3d.miniature.renders._CHUNK", 3)
    monkeypatch.setattr("styleavatar3d.miniature.renders.fingerprint", str)
    out = tmp_path / "out"
    words = {"only": ("coarse-to-fine", "pyramid"), "kimg": 0.064, "views": 9, "readers": str(readers)}
    words |= {"measure": SMALL, "overrides": TINY, "out": str(out)}
    first = run(seeds=1, **words)
    trained = []
    train = ablation_gan.train
    monkeypatch.setattr(
        ablation_gan, "train", lambda config, views: trained.append(config.run.out) or train(config, views)
    )
    told = run(seeds=2, **words)
    assert trained == [f"{out}/coarse-to-fine-1", f"{out}/pyramid-1"]  # seed 0 is kept
    assert told["rows"][:2] == first["rows"]
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert lines == told["rows"] and [line["images"] for line in lines] == [64] * 4
    assert [line["variant"] for line in told["summary"]] == ["coarse-to-fine", "pyramid"]
    assert all(line["FID"] > 0 and line["FID, spread"] >= 0 and line["yaw error"] >= 0 for line in told["summary"])
    assert (out / "sheet.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "ablation of the label" in printed and "ablation of the volume" in printed and "±" in printed
    with pytest.raises(StyleAvatarError, match="holds another run"):
        run(seeds=1, **words | {"measure": Measure(samples=5, avatars=2)})
