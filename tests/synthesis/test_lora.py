"""Training a LoRA: what it writes, that every pipeline loads all of it, and that a stopped run loses nothing."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from synthesis.stock import make_folder

from styleavatar3d.config import load_config, validate
from styleavatar3d.errors import ConfigError, Stopped, StyleAvatarError
from styleavatar3d.runtime.random import generator
from styleavatar3d.synthesis import lora
from styleavatar3d.synthesis.adapters import LoraConfig as LoadConfig
from styleavatar3d.synthesis.lora import LoraConfig, train
from styleavatar3d.synthesis.lora_lessons import Lessons
from styleavatar3d.synthesis.lora_model import add_noise, predict, read_prompts
from styleavatar3d.synthesis.sources import Source, describe_weights
from styleavatar3d.synthesis.texts import TextEncoder

pytest.importorskip("peft")
FAMILIES = ("sd15", "sd21", "sdxl")
TARGETS = ["attention", "feed_forward", "convolution", "text"]
PROMPTS = ["a man with red hair, front view", "clay"]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("pictures"), numpy.random.default_rng(0)
    for index in range(5):
        Image.fromarray(draw.integers(0, 256, (64, 80, 3), dtype=numpy.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, diffusion: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: make_folder(name, folder / name) for name in FAMILIES} | {"miniature": diffusion}


def config(out: Path, pictures: Path, base: Path, **more: Any) -> LoraConfig:
    recipe = {"images": 8, "batch": 2, "learning_rate": 1e-2, "text_learning_rate": 1e-2, "precision": "fp32"}
    tree = {
        "run": {"out": str(out)},
        "data": {"pictures": str(pictures), "trigger": "clay", "resolution": 64, "licence": "CC-BY-4.0"},
        "model": {"folder": str(base), "rank": 2, "targets": TARGETS, "device": "cpu"},
        "train": recipe | {"samples": 0},
        "track": {"seconds": 1000},
    }
    return validate(LoraConfig, {name: part | more.get(name, {}) for name, part in tree.items()})


def guess(pipeline: Any) -> torch.Tensor:
    """What the UNet and the towers together say of the same noise; in double precision, where the addresses of weights
    in memory, by which matrix products choose their order of sums, change nothing that one could see."""
    pipeline.to(torch.float64)
    channels = pipeline.unet.config.in_channels
    noisy = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    sizes = torch.tensor([[64.0, 80, 0, 8, 64, 64]]).repeat(2, 1)
    with torch.no_grad():
        return predict(pipeline, noisy, torch.tensor([10, 900]), PROMPTS, sizes)


@pytest.mark.parametrize("family", [*FAMILIES, "miniature"])
def test_a_stock_pipeline_loads_all_that_was_learned(tmp_path, pictures, bases, monkeypatch, family):
    """The trained pipeline and diffusers' own with the file give the same, to the last adapter."""
    from diffusers import DiffusionPipeline

    trained = {}
    save = lora.save_lora
    monkeypatch.setattr(lora, "save_lora", lambda pipeline, *rest: trained.update(p=pipeline) or save(pipeline, *rest))
    made = train(config(tmp_path / "run", pictures, bases[family]))
    stock = DiffusionPipeline.from_pretrained(bases[family])
    before = guess(stock)
    stock.load_lora_weights(made["out"], adapter_name="c")
    torch.testing.assert_close(guess(stock), guess(trained["p"]), rtol=1e-6, atol=1e-6)
    assert (guess(stock) - before).abs().mean() > 1e-3
    learned = lora.adapter_weights(trained["p"])
    parts = {"unet", "text_encoder"} | ({"text_encoder_2"} if family == "sdxl" else set())
    assert {name.partition(".")[0] for name in learned} == parts
    kinds = {name.split(".lora_B")[0].rpartition(".")[2] for name, weight in learned.items() if weight.abs().max() > 0}
    assert {"to_q", "to_k", "to_v", "conv1", "conv2", "proj", "q_proj", "k_proj", "v_proj", "out_proj"} <= kinds
    stock.disable_lora()
    torch.testing.assert_close(guess(stock), before, rtol=1e-6, atol=1e-6)


def test_synthesis_uses_it_as_a_style(tmp_path, pictures, bases):
    from styleavatar3d.synthesis.pipeline import Synthesizer

    made = train(config(tmp_path / "run", pictures, bases["sd15"]))
    loras = {"character": LoadConfig(source=made["out"])}
    synthesizer = Synthesizer.from_pretrained(bases["sd15"], "cpu", "float32", loras=loras)
    pose = {"depth": torch.zeros(1, 64, 64, 3, dtype=torch.uint8)}
    drawn = [synthesizer.generate(["clay robot"], [""], pose, [3], 2, 2.0)]
    synthesizer.use_loras({})
    drawn.append(synthesizer.generate(["clay robot"], [""], pose, [3], 2, 2.0))
    assert (drawn[0].float() - drawn[1].float()).abs().mean() > 1


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path, pictures, diffusion, monkeypatch):
    quiet = train(config(tmp_path / "quiet", pictures, diffusion))
    loss = Lessons.loss

    def stop_at_4(self: Lessons, seen: int) -> torch.Tensor:
        if seen == 4:
            signal.raise_signal(signal.SIGTERM)
        return loss(self, seen)

    with monkeypatch.context() as patch, pytest.raises(Stopped, match="after 6 pictures"):
        patch.setattr(Lessons, "loss", stop_at_4)
        train(config(tmp_path / "stopped", pictures, diffusion))
    assert not (tmp_path / "stopped" / "weights").exists()
    again = train(config(tmp_path / "stopped", pictures, diffusion))
    assert again["sha256"] == quiet["sha256"]
    assert train(config(tmp_path / "stopped", pictures, diffusion))["sha256"] == quiet["sha256"]
    with pytest.raises(ConfigError, match="other pictures, another model or another recipe"):
        train(config(tmp_path / "stopped", pictures, diffusion, data={"trigger": "toy"}))


def test_the_card_says_where_it_comes_from_and_records_inherit_the_licences(tmp_path, pictures, bases):
    made = train(config(tmp_path / "run", pictures, bases["sd15"], train={"images": 2}))
    folder = Path(made["out"])
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "pytorch_lora_weights.safetensors"}
    origin = json.loads((folder / "config.json").read_text())
    assert origin["trigger"] == "clay" and origin["steps"] == 1 and len(origin["pictures"]) == 5
    assert origin["base_model"]["licence"] == "cc0-1.0" and origin["licences"] == ["cc0-1.0", "CC-BY-4.0"]
    card = (folder / "README.md").read_text()
    assert "`clay` in its prompts" in card and "CC-BY-4.0" in card and "made by a machine" in card.lower()
    assert describe_weights(Source(str(folder)), folder).licence == "cc0-1.0, CC-BY-4.0"


def test_the_prior_is_drawn_once_and_pulls_on_the_weights(tmp_path, pictures, diffusion):
    prior = {"prior": {"pictures": 3, "prompts": ["a man", "a woman"], "steps": 2}}
    without = train(config(tmp_path / "without", pictures, diffusion))
    made = train(config(tmp_path / "with", pictures, diffusion, train=prior))
    kept = (tmp_path / "with" / "prior.safetensors").stat()
    assert made["sha256"] != without["sha256"]
    assert train(config(tmp_path / "with", pictures, diffusion, train=prior))["sha256"] == made["sha256"]
    assert (tmp_path / "with" / "prior.safetensors").stat() == kept
    with pytest.raises(ConfigError, match="must not say the trigger"):
        config(tmp_path, pictures, diffusion, train={"prior": {"pictures": 1, "prompts": ["a Clay man"]}})


def test_a_sheet_shows_pictures_without_and_with_it(tmp_path, pictures, diffusion):
    train(config(tmp_path / "run", pictures, diffusion, train={"samples": 2, "images": 2}))
    assert Image.open(tmp_path / "run" / "sheet.png").size == (2 * 64 * 4, 3 * 64 * 4)


def test_half_precision_and_checkpointing_learn_in_float32(tmp_path, pictures, bases):
    from safetensors.torch import load_file

    recipe = {"precision": "bf16", "gradient_checkpointing": True, "images": 2, "samples": 1}
    made = train(config(tmp_path / "run", pictures, bases["sdxl"], train=recipe))
    weights = load_file(f"{made['out']}/pytorch_lora_weights.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"data": {"trigger": "sks"}}, "cannot read the trigger.*sks"),
        ({"data": {"template": "{trigger} " + "man " * 60}}, "too long for the model"),
        ({"data": {"resolution": 66}}, "multiple of 4"),
        ({"model": {"folder": "nowhere"}}, "no such weights|no such path"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_written(tmp_path, pictures, diffusion, more, said):
    with pytest.raises(StyleAvatarError, match=f"(?s){said}"):
        train(config(tmp_path / "run", pictures, diffusion, **more))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, pictures, diffusion, monkeypatch):
    monkeypatch.setattr(Lessons, "loss", lambda self, seen: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(StyleAvatarError, match=r"(?s)loss is nan at 0.*learning_rate"):
        train(config(tmp_path / "run", pictures, diffusion))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_and_the_noisy_latents_give_the_picture_back(kind):
    """x = a z + s e; from the velocity a e - s z follow both, z = a x - s v."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type=kind)
    latents = torch.randn(6, 4, 2, 2)
    noisy, target, times = add_noise(scheduler, latents, generator(0, "test"))
    kept = scheduler.alphas_cumprod[times][:, None, None, None]
    signal_, amount = kept.sqrt(), (1 - kept).sqrt()
    found = {
        "epsilon": (noisy - amount * target) / signal_,
        "v_prediction": signal_ * noisy - amount * target,
        "sample": target,
    }
    torch.testing.assert_close(found[kind], latents, atol=2e-3, rtol=1e-3)
    assert len(times.unique()) > 1


def test_another_kind_of_prediction_is_refused():
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler()
    scheduler.register_to_config(prediction_type="flow")
    with pytest.raises(StyleAvatarError, match=r"(?s)flow.*v_prediction"):
        add_noise(scheduler, torch.zeros(1, 4, 2, 2), generator(0, "test"))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_prompts_are_read_as_synthesis_reads_them(bases, family):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(bases[family])
    with torch.no_grad():
        states, pooled = read_prompts(pipeline, PROMPTS)
    known = TextEncoder(pipeline).encode(PROMPTS, None, (64, 64))
    torch.testing.assert_close(states, known.states)
    if family == "sdxl":
        torch.testing.assert_close(pooled, known.added["text_embeds"])


def test_every_picture_comes_once_a_round(tmp_path, pictures, diffusion):
    asked = config(tmp_path, pictures, diffusion, train={"batch": 5})
    lessons = object.__new__(Lessons)
    lessons.config, lessons.seed = asked, 0
    lessons.prompts, lessons.sizes = list("abcde"), torch.zeros(5, 6)
    lessons.mean = lessons.spread = torch.zeros(5, 1, 1, 1)
    rounds = [lessons._batch(first)[1] for first in range(0, 50, 5)]
    assert all(sorted(one) == list("abcde") for one in rounds) and len({tuple(one) for one in rounds}) > 3


@pytest.mark.parametrize("name", ["lora/miniature", "lora/sd15"])
def test_the_shipped_configs_are_valid(name):
    assert load_config(LoraConfig, name).data.trigger


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_pictures_teach_a_style_that_the_model_does_not_know(tmp_path):
    from styleavatar3d.bench.lora import run

    colours, clip, yaw = run(str(tmp_path))["rows"]
    assert colours["ratio"] > 1.6 and clip["ratio"] > 1.8
    assert yaw["with"] < yaw["floor"] + 4, "the judge does not know the style: renders of it are the measure"
