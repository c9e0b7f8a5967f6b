"""Our loop makes the pictures of diffusers' own pipelines, of every family and with every scheduler."""

from pathlib import Path

import pytest
import torch
from synthesis.stock import NEGATIVES, PROMPTS, make_folder, pictures, stock_pictures

from styleavatar3d.shards.schema import Guidance
from styleavatar3d.synthesis.pipeline import SecondPass, Synthesizer
from styleavatar3d.synthesis.samplers import SCHEDULERS, Schedule, find_scheduler

HYBRID = [Guidance(kind="depth", scale=0.8, end=0.6), Guidance(kind="keypoints", scale=1.2, start=0.3)]
SEEDS = [3, 4]
STOCHASTIC = {"ddpm", "euler_ancestral", "dpm2_ancestral", "dpm++_2m_sde", "lcm"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: make_folder(name, root / name) for name in ("sd15", "sd21", "sdxl")}


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, Synthesizer]:
    return {name: Synthesizer.from_pretrained(folder, "cpu", "float32") for name, folder in folders.items()}


def with_scheduler(synthesizer: Synthesizer, name: str) -> Synthesizer:
    pipeline = synthesizer.pipeline
    parts = {**pipeline.components, "scheduler": find_scheduler(name, pipeline.scheduler.config)}
    return Synthesizer(type(pipeline)(**parts, **_options(pipeline)), synthesizer.controlnets)


def _options(pipeline) -> dict[str, bool]:
    return {"add_watermarker": False} if hasattr(pipeline, "text_encoder_2") else {"requires_safety_checker": False}


def assert_same(made: torch.Tensor, stock: torch.Tensor):
    assert made.shape == stock.shape
    difference = (made.int() - stock.int()).abs()
    assert difference.max().item() <= 4  # roundings, which random networks enlarge
    assert difference.float().mean().item() < 0.1
    assert made.float().std() > 5  # of pictures that show something


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_are_those_of_the_stock_pipeline(loaded: dict[str, Synthesizer], family: str, scale: float):
    made = loaded[family].generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 5, scale, HYBRID)
    assert_same(made, stock_pictures(loaded[family], SEEDS, 5, scale, HYBRID))


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_a_picture_can_be_drawn_over(loaded: dict[str, Synthesizer], family: str):
    start = pictures(seed=9)["depth"]
    made = loaded[family].generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 6, 3.0, HYBRID, start, 0.5)
    assert_same(made, stock_pictures(loaded[family], SEEDS, 6, 3.0, HYBRID, start=start, strength=0.5))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_steps_as_it_does_in_the_stock_pipeline(loaded: dict[str, Synthesizer], name: str):
    synthesizer = with_scheduler(loaded["sd15"], name)
    made = synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0, HYBRID[:1])
    assert_same(made, stock_pictures(synthesizer, SEEDS, 4, 3.0, HYBRID[:1]))
    linear = Schedule(synthesizer.pipeline.scheduler, 4, "cpu").linear
    assert linear == (name not in STOCHASTIC)
    start = pictures(seed=9)["depth"]
    made = synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0, HYBRID[:1], start, 0.75)
    assert_same(made, stock_pictures(synthesizer, SEEDS, 4, 3.0, HYBRID[:1], start=start, strength=0.75))


def test_a_scheduler_that_clips_is_not_taken_for_linear(loaded: dict[str, Synthesizer]):
    from diffusers import DDIMScheduler

    config = loaded["sd15"].pipeline.scheduler.config
    assert not Schedule(DDIMScheduler.from_config(config, clip_sample=True), 4, "cpu").linear
    assert not Schedule(DDIMScheduler.from_config(config, thresholding=True), 4, "cpu").linear


def test_an_empty_negative_of_sdxl_is_none(loaded: dict[str, Synthesizer]):
    made = loaded["sdxl"].generate(PROMPTS, ["", ""], pictures(), SEEDS, 3, 4.0, HYBRID[:1])
    assert_same(made, stock_pictures(loaded["sdxl"], SEEDS, 3, 4.0, HYBRID[:1], negatives=None))


@pytest.mark.parametrize("name", ["ddim", "euler_ancestral"])
def test_a_picture_depends_on_its_own_seed_only(loaded: dict[str, Synthesizer], name: str):
    synthesizer = with_scheduler(loaded["sd15"], name)
    both = synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0)
    alone = {kind: each[1:] for kind, each in pictures().items()}
    one = synthesizer.generate(PROMPTS[1:], NEGATIVES[1:], alone, SEEDS[1:], 4, 3.0)
    assert_same(one, both[1:])
    other = synthesizer.generate(PROMPTS, NEGATIVES, pictures(), [7, SEEDS[1]], 4, 3.0)
    assert_same(other[1:], both[1:])
    assert (other[0].int() - both[0].int()).abs().max() > 8


def test_the_networks_are_left_as_they_were(loaded: dict[str, Synthesizer]):
    synthesizer = loaded["sdxl"]
    before = {name: type(part) for name, part in synthesizer.pipeline.unet.named_modules()}
    names = set(synthesizer.controlnets["depth"].state_dict())
    synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 2, 3.0, [HYBRID[0], HYBRID[0]])
    assert {name: type(part) for name, part in synthesizer.pipeline.unet.named_modules()} == before
    assert set(synthesizer.controlnets["depth"].state_dict()) == names


def test_a_second_pass_draws_at_the_size_of_the_guidance(loaded: dict[str, Synthesizer]):
    arguments = (PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0, HYBRID)
    once = loaded["sd15"].generate(*arguments)
    twice = loaded["sd15"].generate(*arguments, again=SecondPass(strength=0.5, size=32))
    assert twice.shape == once.shape and not torch.equal(once, twice)
    weak, strong = (loaded["sd15"].generate(*arguments, again=SecondPass(strength=s)).int() for s in (0.25, 1.0))
    assert (weak - once.int()).abs().float().mean() < (strong - once.int()).abs().float().mean()
