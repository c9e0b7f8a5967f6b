"""Our loop makes the pictures of diffusers' own pipelines, of every family and with every scheduler.

In double precision they are equal to a thousandth of a level before they are rounded to levels (afterwards a value
that lies between two may fall to either side). What differs more in single precision is rounding too: the table of a
linear scheduler sums in another order, and embeddings of all steps are made in one product, which the random networks
of these tests enlarge up to a thousandfold a step.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from synthesis.stock import NEGATIVES, PROMPTS, make_folder, pictures, stock_pictures

from styleavatar3d.shards.schema import Guidance
from styleavatar3d.synthesis.pipeline import SecondPass, Synthesizer
from styleavatar3d.synthesis.samplers import SCHEDULERS, Schedule, find_scheduler

HYBRID = [Guidance(kind="depth", scale=0.8, end=0.6), Guidance(kind="keypoints", scale=1.2, start=0.3)]
SEEDS = [3, 4]
slow = pytest.mark.slow
DRAWN_OVER = ("euler", "dpm2_ancestral", "lcm")
"""in the quick tests; the others take the same road"""
STOCHASTIC = {"ddpm", "euler_ancestral", "dpm2_ancestral", "dpm++_2m_sde", "lcm"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: make_folder(name, root / name) for name in ("sd15", "sd21", "sdxl")}


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, Synthesizer]:
    return {name: Synthesizer.from_pretrained(folder, "cpu", "float32") for name, folder in folders.items()}


@pytest.fixture(scope="session")
def doubled(folders: dict[str, Path]) -> dict[str, Synthesizer]:
    """The same in double precision."""
    made = {}
    for name, folder in folders.items():
        one = Synthesizer.from_pretrained(folder, "cpu", "float32")
        networks = {kind: network.double() for kind, network in one.controlnets.items()}
        made[name] = Synthesizer(one.pipeline.to(torch.float64), networks)
    return made


@pytest.fixture
def _noise_of_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock pipeline draws noise in the precision of its networks, which gives another noise."""
    draw = torch.randn

    def draw_single(*given, dtype=None, **options):
        return draw(*given, **options).to(dtype or torch.float32)

    monkeypatch.setattr(torch, "randn", draw_single)


exact = pytest.mark.usefixtures("_noise_of_single_precision")


def with_scheduler(synthesizer: Synthesizer, name: str) -> Synthesizer:
    pipeline = synthesizer.pipeline
    parts = {**pipeline.components, "scheduler": find_scheduler(name, pipeline.scheduler.config)}
    return Synthesizer(type(pipeline)(**parts, **_options(pipeline)), synthesizer.controlnets)


def _options(pipeline) -> dict[str, bool]:
    return {"add_watermarker": False} if hasattr(pipeline, "text_encoder_2") else {"requires_safety_checker": False}


def assert_equal(synthesizer: Synthesizer, ours: Callable[[], torch.Tensor], stock: Callable[[], torch.Tensor]):
    one, other = decoded(synthesizer, ours), decoded(synthesizer, stock)
    assert one.dtype == other.dtype == torch.float64
    assert (one - other).abs().max() * 127.5 < 1e-3
    assert one.std() * 127.5 > 5  # of pictures that show something


def decoded(synthesizer: Synthesizer, draw: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What the codec gives while pictures are drawn, in [-1, 1]."""
    vae, seen = synthesizer.pipeline.vae, []
    original = vae.decode

    def decode(*given, **options):
        seen.append(original(*given, **options)[0])
        return seen[-1:]

    vae.decode = decode
    try:
        draw()
    finally:
        del vae.decode
    return torch.cat(seen)


def assert_rounded(made: torch.Tensor, stock: torch.Tensor):
    """A level apart, where a value lay between two."""
    assert made.shape == stock.shape
    difference = (made.int() - stock.int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 0.01
    assert made.float().std() > 5


@exact
@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_are_those_of_the_stock_pipeline(doubled: dict[str, Synthesizer], family: str, scale: float):
    synthesizer = doubled[family]
    assert_equal(
        synthesizer,
        lambda: synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 3, scale, HYBRID),
        lambda: stock_pictures(synthesizer, SEEDS, 3, scale, HYBRID),
    )


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_in_single_precision_they_differ_by_roundings(loaded: dict[str, Synthesizer], family: str):
    made = loaded[family].generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 3, 4.0, HYBRID)
    assert_rounded(made, stock_pictures(loaded[family], SEEDS, 3, 4.0, HYBRID))


@exact
@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_a_picture_can_be_drawn_over(doubled: dict[str, Synthesizer], family: str):
    synthesizer, start = doubled[family], pictures(seed=9)["depth"]
    assert_equal(
        synthesizer,
        lambda: synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0, HYBRID, start, 0.5),
        lambda: stock_pictures(synthesizer, SEEDS, 4, 3.0, HYBRID, start=start, strength=0.5),
    )


@exact
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_steps_as_it_does_in_the_stock_pipeline(doubled: dict[str, Synthesizer], name: str):
    synthesizer = with_scheduler(doubled["sd15"], name)
    assert_equal(
        synthesizer,
        lambda: synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0, HYBRID[:1]),
        lambda: stock_pictures(synthesizer, SEEDS, 4, 3.0, HYBRID[:1]),
    )
    linear = Schedule(synthesizer.pipeline.scheduler, 4, "cpu").linear
    assert linear == (name not in STOCHASTIC)


@exact
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in DRAWN_OVER else [slow]) for name in SCHEDULERS]
)
def test_every_scheduler_draws_over_a_picture_as_it_does_there(doubled: dict[str, Synthesizer], name: str):
    synthesizer, start = with_scheduler(doubled["sd15"], name), pictures(seed=9)["depth"]
    assert_equal(
        synthesizer,
        lambda: synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0, HYBRID[:1], start, 0.75),
        lambda: stock_pictures(synthesizer, SEEDS, 4, 3.0, HYBRID[:1], start=start, strength=0.75),
    )


def test_a_scheduler_that_clips_is_not_taken_for_linear(loaded: dict[str, Synthesizer]):
    from diffusers import DDIMScheduler

    config = loaded["sd15"].pipeline.scheduler.config
    assert not Schedule(DDIMScheduler.from_config(config, clip_sample=True), 4, "cpu").linear
    assert not Schedule(DDIMScheduler.from_config(config, thresholding=True), 4, "cpu").linear


def test_an_empty_negative_of_sdxl_is_none(loaded: dict[str, Synthesizer]):
    made = loaded["sdxl"].generate(PROMPTS, ["", ""], pictures(), SEEDS, 3, 4.0, HYBRID[:1])
    assert_rounded(made, stock_pictures(loaded["sdxl"], SEEDS, 3, 4.0, HYBRID[:1], negatives=None))


@pytest.mark.parametrize("name", ["ddim", "euler_ancestral"])
def test_a_picture_depends_on_its_own_seed_only(loaded: dict[str, Synthesizer], name: str):
    synthesizer = with_scheduler(loaded["sd15"], name)
    both = synthesizer.generate(PROMPTS, NEGATIVES, pictures(), SEEDS, 4, 3.0)
    alone = {kind: each[1:] for kind, each in pictures().items()}
    one = synthesizer.generate(PROMPTS[1:], NEGATIVES[1:], alone, SEEDS[1:], 4, 3.0)
    assert_rounded(one, both[1:])
    other = synthesizer.generate(PROMPTS, NEGATIVES, pictures(), [7, SEEDS[1]], 4, 3.0)
    assert torch.equal(other[1:], both[1:])
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
