"""The training stages at a tiny size: they learn, they resume after a kill, they say what is missing."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from styleavatar3d.config import load_config
from styleavatar3d.errors import ConfigError, StyleAvatarError
from styleavatar3d.figures.looks import STYLES, draw_look, visible_attributes
from styleavatar3d.miniature.captions import caption
from styleavatar3d.miniature.config import MiniatureConfig
from styleavatar3d.miniature.models import MiniatureModels
from styleavatar3d.miniature.session import Session, learning_rate_factor
from styleavatar3d.miniature.train import train
from styleavatar3d.runtime.distributed import World

STAGE = {"images": 16, "batch": 4, "learning_rate": 1e-3, "warmup": 4, "average": 8}
TINY = {
    "data": {"renders": 24, "judge_renders": 12, "estimator_renders": 15, "views": 3, "held_out": 6, "workers": 1},
    "model": {
        "text_width": 16, "text_layers": 1, "image_width": 16, "image_layers": 1, "embedding": 16,
        "codec_width": 8, "codec_blocks": [1, 1, 1], "latent_channels": 4, "unet_channels": [16, 16, 16], "heads": 2,
    },
    "train": {
        "precision": "fp32", "clip": STAGE, "codec": STAGE, "judge": STAGE, "estimators": STAGE, "coarse": STAGE,
        "diffusion": STAGE,
    },
}  # fmt: skip


def config_in(folder: Path, *overrides: str) -> MiniatureConfig:
    path = folder / "tiny.yaml"
    path.write_text(json.dumps(TINY | {"run": {"out": str(folder / "run")}}))  # JSON is YAML
    return load_config(MiniatureConfig, str(path), overrides)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    train(config_in(folder))
    return folder


@pytest.fixture
def folder(trained_run: Path, tmp_path: Path) -> Path:
    """A folder for a new run, with the renders of the other: rendering is not what is tested here."""
    shutil.copytree(trained_run / "run" / "renders", tmp_path / "run" / "renders")
    return tmp_path


def test_all_stages_end_in_folders_that_load(trained_run: Path) -> None:
    from styleavatar3d.encoders.clip import ClipEncoder
    from styleavatar3d.metrics.judge import Judge
    from styleavatar3d.synthesis.pipeline import Synthesizer

    weights = trained_run / "run" / "weights"
    clip = ClipEncoder.from_pretrained(weights / "clip")
    tower = Synthesizer.from_pretrained(weights / "diffusion", "cpu", "float32").pipeline.text_encoder
    for name, tensor in tower.state_dict().items():  # it began as that of CLIP
        assert torch.allclose(tensor, clip.model.text_model.state_dict()[name], atol=0.1), name
    Judge.from_pretrained(weights / "judge")
    about = json.loads((weights / "training.json").read_text())
    assert {stage: about[stage]["images"] for stage in ("clip", "codec", "judge", "diffusion")} == dict.fromkeys(
        ("clip", "codec", "judge", "diffusion"), 16
    )


def test_one_model_alone_is_exported_too(folder: Path) -> None:
    from styleavatar3d.metrics.judge import Judge

    train(config_in(folder, "--train.stages", "judge"))
    weights = folder / "run" / "weights"
    Judge.from_pretrained(weights / "judge")
    assert {path.name for path in weights.iterdir()} == {"judge", "training.json"}


def test_what_is_done_is_not_done_again(trained_run: Path) -> None:
    records = {path: path.read_text() for path in (trained_run / "run").glob("*/latest.json")}
    started = time.process_time()
    summary = train(config_in(trained_run, "--train.stages", "codec,judge"))
    assert summary["codec"]["images"] == 16 and time.process_time() - started < 20
    assert {path: path.read_text() for path in records} == records


def test_the_codec_is_the_principal_components_of_patches_at_the_spread_of_noise(trained_run: Path) -> None:
    from styleavatar3d.miniature.models import LATENT_SCALE, build_codec
    from styleavatar3d.miniature.pictures import render
    from styleavatar3d.miniature.train_codec import encode_all, set_transform

    pictures, _ = render(config_in(trained_run))
    whole = build_codec(MiniatureModels(latent_channels=48, codec_width=8, codec_blocks=(1, 1, 1)))
    images = pictures.batch(torch.arange(len(pictures)))
    set_transform(whole, images)
    latents = encode_all(whole, pictures)
    assert latents.std().item() == pytest.approx(1, abs=0.02) and latents.mean().abs() < 0.02
    spread = latents.std((0, 2, 3))
    assert (spread.diff() <= 1e-4).all() and spread[0] > 5 * spread[-1]
    numbers = latents.movedim(1, -1).reshape(-1, 48) / LATENT_SCALE
    covariance = numbers.T @ numbers / len(numbers)
    assert torch.allclose(covariance, covariance.diagonal().diag(), atol=1e-3), "components are not independent"
    assert torch.linalg.matrix_rank(covariance) > 40, "a transform to 48 numbers loses nothing of 48"


def test_coarse_pictures_are_half_as_large_and_mean_the_same(trained_run: Path) -> None:
    from styleavatar3d.miniature.pictures import render

    pictures, _ = render(config_in(trained_run))
    half = pictures.halved()
    assert half.image.shape[-1] * 2 == pictures.image.shape[-1] and half.looks == pictures.looks
    assert (half.image.float().mean() - pictures.image.float().mean()).abs() < 0.5
    assert half.guides(torch.tensor([0]))["depth"].shape == (1, 3, 32, 32)


def test_times_are_dense_where_noise_outweighs_signal() -> None:
    from styleavatar3d.miniature.train_diffusion import draw_times

    times = draw_times(20_000, 1000, torch.Generator().manual_seed(0))
    assert times.min() >= 0 and times.max() <= 999
    assert 0.6 < (times > 500).float().mean() < 0.75 and 0.04 < (times > 950).float().mean() < 0.08


def test_a_controlnet_that_is_not_used_is_as_if_it_were_not_there(trained_run: Path) -> None:
    from styleavatar3d.miniature.models import GUIDES
    from styleavatar3d.miniature.train_diffusion import build_denoiser

    denoiser = build_denoiser(config_in(trained_run)).eval()
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    noisy, time, tokens = torch.randn(2, 4, 16, 16), torch.tensor([5, 900]), torch.randint(100, (2, 8))
    guides = {kind: torch.rand(2, 3, 64, 64) for kind in GUIDES}
    used = {"depth": torch.tensor([True, True]), "keypoints": torch.tensor([True, False])}
    before = denoiser(noisy, time, tokens, guides, used)
    after = denoiser(noisy, time, tokens, guides | {"keypoints": torch.rand(2, 3, 64, 64)}, used)
    assert not torch.allclose(before[0], after[0]) and torch.allclose(before[1], after[1])


def test_the_text_tower_of_the_diffusion_starts_as_that_of_clip_and_learns_on(trained_run: Path) -> None:
    from styleavatar3d.miniature.models import text_tower
    from styleavatar3d.miniature.session import trained
    from styleavatar3d.miniature.train_clip import trained_clip
    from styleavatar3d.miniature.train_diffusion import build_denoiser

    config = config_in(trained_run)
    first = text_tower(trained_clip(config)).state_dict()
    done = [trained(stage, build_denoiser(config), config) for stage in ("coarse", "diffusion")]
    coarse, last = (denoiser.tower.state_dict() for denoiser in done)
    away = {name: (last[name] - first[name]).abs().max() for name in first}
    assert 0 < max(away.values()) < 0.1
    assert any(not torch.equal(coarse[name], last[name]) for name in first)


def test_another_recipe_does_not_resume(trained_run: Path) -> None:
    with pytest.raises(ConfigError, match="another config"):
        train(config_in(trained_run, "--train.stages", "codec", "--train.codec.learning_rate", "0.01"))


def test_diffusion_needs_what_comes_before_it(folder: Path) -> None:
    with pytest.raises(StyleAvatarError, match="'coarse' has to be done first"):
        train(config_in(folder, "--train.stages", "diffusion"))


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stages"):
        config_in(tmp_path, "--train.stages", "clip,vae")


def test_a_session_learns_a_fixed_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = config_in(tmp_path, "--train.judge.images", "400", "--train.judge.learning_rate", "0.02")
    network, x, y = torch.nn.Linear(4, 1), torch.randn(16, 4), torch.randn(16, 1)
    losses = []
    session = Session("judge", network, config.train.judge, config, World())
    for _ in session.steps():
        losses.append((network(x) - y).pow(2).mean())
        session.learn(losses[-1])
    assert len(losses) == 100 and losses[-1] < 0.8 * losses[0]
    averaged = (session.average(x) - y).pow(2).mean()
    assert averaged < 0.9 * losses[0]


def test_a_loss_that_is_no_number_stops_with_advice(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    network = torch.nn.Linear(1, 1)
    session = Session("judge", network, config.train.judge, config, World())
    with pytest.raises(StyleAvatarError, match="learning_rate"):
        for _ in session.steps():
            session.learn(network(torch.tensor([float("inf")])).sum())


def test_learning_rate_rises_then_falls() -> None:
    from styleavatar3d.miniature.config import StageConfig

    recipe = StageConfig(images=1000, batch=10, learning_rate=1.0, warmup=100)
    factors = [learning_rate_factor(images, recipe) for images in range(0, 1000, 10)]
    assert factors[0] == pytest.approx(0.1, rel=0.01) and max(factors) == factors[9]
    assert factors[-1] == pytest.approx(0.02, abs=0.001)


@pytest.mark.slow
def test_a_killed_stage_ends_where_an_undisturbed_one_does(folder: Path) -> None:
    overrides = ("--train.stages", "codec", "--train.codec.images", "240", "--train.checkpoint_seconds", "0.2")
    undisturbed = folder / "undisturbed"
    shutil.copytree(folder / "run" / "renders", undisturbed / "run" / "renders")
    train(config_in(undisturbed, *overrides))
    config = config_in(folder, *overrides)
    command = [sys.executable, "-m", "styleavatar3d", "train", "miniature", "--config", str(folder / "tiny.yaml")]
    process = subprocess.Popen([*command, *overrides], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    latest = folder / "run" / "codec" / "latest.json"
    deadline = time.monotonic() + 120
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert latest.exists()
    train(config)
    expected, found = averaged_codec(undisturbed), averaged_codec(folder)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def averaged_codec(folder: Path) -> dict[str, torch.Tensor]:
    from styleavatar3d.runtime.checkpoint import Checkpoints
    from styleavatar3d.runtime.storage import Storage

    checkpoint = Checkpoints(Storage.open(folder / "run" / "codec")).latest()
    assert checkpoint is not None and checkpoint.position == 240
    return {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith("average.")}


def test_captions_say_only_what_can_be_seen_in_known_words() -> None:
    from styleavatar3d.encoders.prompts import unknown_words
    from styleavatar3d.encoders.tokenizer import build_tokenizer
    from styleavatar3d.synthesis.prompts import vocabulary

    tokenizer = build_tokenizer(vocabulary(), 48)
    for index in range(100):
        look, style, yaw = draw_look(0, index), STYLES[index % 10], 23.0 * index % 360 - 180
        text = caption(look, style, yaw, 5.0, random.Random(index))
        assert set(unknown_words(tokenizer, text)) <= {"zzz"}
        seen = visible_attributes(look, style, yaw)
        for name, word in (("glasses", "sunglasses"), ("beard", "moustache")):
            assert name in seen or word not in text


def test_a_mirrored_caption_names_the_other_side() -> None:
    look = draw_look(0, 0)
    texts = [caption(look, "clay", yaw, 0.0, random.Random(3)) for yaw in (90.0, -90.0)]
    assert "left" in texts[0] and texts[0].replace("left", "right") == texts[1]
