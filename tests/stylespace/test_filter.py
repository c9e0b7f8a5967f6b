"""Codes whose renders are no good are drawn again: the same ones whoever works, counted, and left out in the end."""

from pathlib import Path

import pytest
import tiny
import torch

from styleavatar3d.camera.cameras import orbit_labels
from styleavatar3d.config import validate
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.random import uniform
from styleavatar3d.stylespace import codes
from styleavatar3d.stylespace.config import StyleSpaceConfig
from styleavatar3d.stylespace.pairs import REASONS, load_makers, turn

COUNT = 8


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thin figures, which cover more or less of the picture."""
    folder = tmp_path_factory.mktemp("models")
    generator = tiny.write_generator(folder / "generator")
    generator.renderer.decoder.output_bias.data[0] = -3.0
    generator.save_pretrained(str(folder / "generator"))
    tiny.write_clip(folder / "clip")
    tiny.write_estimator(folder / "estimators")
    return folder


def config(models: Path, out: Path, rule: dict | None = None, **data) -> StyleSpaceConfig:
    return validate(StyleSpaceConfig, {
        "run": {"out": str(out)},
        "data": {"generator": str(models / "generator"), "clip": str(models / "clip"), "codes": str(out),
                 "estimators": str(models / "estimators"), "count": COUNT, "held_out": 1, "crops": 1, "texts": 1,
                 "chunk": 4, "batch": 2, "filter": rule} | data,
        "train": {"kpairs": 1},
    })  # fmt: skip


@pytest.fixture(scope="module")
def plain(models: Path, tmp_path_factory: pytest.TempPathFactory) -> StyleSpaceConfig:
    """A run that keeps every code."""
    run = config(models, tmp_path_factory.mktemp("plain"))
    codes.make(run)
    return run


def pairs(run: StyleSpaceConfig) -> dict[str, torch.Tensor]:
    return codes.load(run.data.codes)[1]


@torch.no_grad()
def coverage_and_turn(run: StyleSpaceConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every render of a run: the share that the figure covers, and how far from what was asked it is read."""
    generator, _, estimator = load_makers(run.data)
    w = pairs(run)["codes"].expand(-1, generator.config.slots, -1)
    angles = torch.stack([uniform(0, "front", index, 2) for index in range(COUNT)]) * 2 - 1
    yaw, pitch = angles[:, 0] * run.data.yaw, angles[:, 1] * run.data.pitch
    view = generator.render(generator.planes(w), orbit_labels(yaw, pitch), codes=w)
    read = estimator.estimate(view.image)
    return view.mask.mean((1, 2, 3)), turn(yaw, pitch, read.yaw, read.pitch)


def between(values: torch.Tensor) -> float:
    """A bar that half of the values pass, far from all of them."""
    low, high = values.sort().values[COUNT // 2 - 1 : COUNT // 2 + 1].tolist()
    return (low + high) / 2


def test_degrees_between_directions():
    zero, yaw, pitch = torch.zeros(4), torch.tensor([0.0, 30.0, 0.0, 180.0]), torch.tensor([0.0, 0.0, -20.0, 0.0])
    torch.testing.assert_close(turn(zero, zero, yaw, pitch), torch.tensor([0.0, 30.0, 20.0, 180.0]), atol=1e-3, rtol=0)


def test_a_filter_that_asks_for_nothing_drops_nothing(plain, models: Path, tmp_path: Path):
    asked = config(models, tmp_path, {})
    assert codes.make(asked)["dropped"] == codes.make(plain)["dropped"] == dict.fromkeys(REASONS, 0)
    for name, tensor in pairs(plain).items():
        torch.testing.assert_close(pairs(asked)[name], tensor)


def test_a_small_figure_is_drawn_again_and_nothing_else_changes(plain, models: Path, tmp_path: Path):
    covered, _ = coverage_and_turn(plain)
    bar = between(covered)
    strict = config(models, tmp_path, {"coverage": bar, "attempts": 30})
    made = codes.make(strict)
    assert made["count"] == COUNT and sum(made["dropped"].values()) == made["dropped"]["small"] >= COUNT // 2
    kept, before = pairs(strict)["codes"], pairs(plain)["codes"]
    assert [torch.equal(*both) for both in zip(kept, before, strict=True)] == (covered >= bar).tolist()
    assert coverage_and_turn(strict)[0].min() >= bar - 1e-4


def test_a_figure_that_looks_away_is_dropped(plain, models: Path, tmp_path: Path):
    _, turned = coverage_and_turn(plain)
    strict = config(models, tmp_path, {"turn": between(turned), "attempts": 1})
    assert codes.make(strict)["dropped"] == {"turned": 4, "small": 0, "duplicate": 0, "left out": 4}
    assert torch.equal(pairs(strict)["codes"], pairs(plain)["codes"][turned <= between(turned)])


@pytest.mark.slow
def test_workers_drop_what_one_process_drops(plain, models: Path, tmp_path: Path):
    rule = {"turn": between(coverage_and_turn(plain)[1]), "attempts": 3}
    alone = codes.make(config(models, tmp_path / "alone", rule))
    run = config(models, tmp_path / "together", rule)
    together = codes.make(
        run.model_copy(update={"fleet": run.fleet.model_copy(update={"kind": "local", "workers": 2})})
    )
    assert (together["hash"], together["dropped"]) == (alone["hash"], alone["dropped"])


def test_duplicates_are_left_out_once_the_draws_are_used_up(plain, models: Path, tmp_path: Path):
    """All are seen from one place, and drawn so near to the mean code that they are one."""
    run = config(models, tmp_path, {"likeness": 0.999, "attempts": 2}, truncation=1e-4, yaw=0, pitch=0)
    made = codes.make(run)
    assert made["count"] == 2 and made["dropped"]["duplicate"] == 12 and made["dropped"]["left out"] == 6


def test_a_truncation_draws_codes_to_the_mean(plain, models: Path, tmp_path: Path):
    near = config(models, tmp_path, truncation=0.5)
    codes.make(near)
    mean = load_makers(plain.data).generator.w_mean
    torch.testing.assert_close(pairs(near)["codes"] - mean, (pairs(plain)["codes"] - mean) / 2)


def test_filters_that_cannot_work_are_refused(models: Path, tmp_path: Path):
    with pytest.raises(StyleAvatarError, match=r"(?s)nobody reads.*data\.estimators"):
        codes.make(config(models, tmp_path / "blind", {"turn": 30}, estimators=""))
    with pytest.raises(StyleAvatarError, match=r"(?s)too few codes pass the filter.*0 of 8"):
        codes.make(config(models, tmp_path / "strict", {"turn": 1e-3, "attempts": 1}))
