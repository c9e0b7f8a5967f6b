"""A whole avatar pipeline at the smallest sizes: the real classes with random weights."""

from pathlib import Path

import torch

from styleavatar3d.encoders.estimators import Estimator
from styleavatar3d.gan.generator import Generator, GeneratorConfig
from styleavatar3d.miniature.models import MiniatureModels, build_clip, build_tokenizer
from styleavatar3d.runtime.weights import weights_sha256
from styleavatar3d.stylespace.config import DenoiserConfig
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.statistics import Statistics
from styleavatar3d.synthesis.prompts import vocabulary

CLIP = MiniatureModels(text_width=32, text_layers=1, image_width=32, image_layers=1, embedding=16, heads=2, tokens=56)


def write_generator(folder: Path, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    config = GeneratorConfig(z_dim=16, w_dim=16, widths=(16, 16, 16), plane_channels=4, decoder_width=8, samples=(6, 6))
    generator = Generator(config).eval().requires_grad_(False)
    generator.renderer.decoder.output_bias[0] = 1.0  # dense enough for a surface
    generator.measure_mean_code(64)
    generator.save_pretrained(str(folder))
    return Generator.from_pretrained(str(folder))


def write_clip(folder: Path) -> None:
    torch.manual_seed(1)
    tokenizer = build_tokenizer(vocabulary(), CLIP.tokens)
    build_clip(CLIP, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_prior(folder: Path, generator: Generator) -> None:
    torch.manual_seed(2)
    statistics = Statistics(generator.config.w_dim, CLIP.embedding)
    statistics.w_mean, statistics.w_std = generator.w_mean.clone(), torch.full_like(generator.w_mean, 0.5)
    config = DenoiserConfig(layers=1, width=16)
    sha256, strangers = weights_sha256(generator), 2.0  # everything is far from the training world
    prior = StylePrior(config, statistics, generator.config.slots, sha256, strangers=strangers)
    for parameter in prior.denoiser.parameters():  # a new network answers zero to everything
        parameter.data += 0.1 * torch.randn_like(parameter)
    prior.save_pretrained(folder)


def write_estimator(folder: Path) -> None:
    torch.manual_seed(3)
    Estimator(["chin"], (4, 4, 4, 8)).save_pretrained(folder)


def write_pipeline(folder: Path, estimator: bool = False) -> Path:
    """`generator/`, `clip/`, `stylespace/`, perhaps `estimators/`, as `AvatarPipeline.from_pretrained` reads them."""
    generator = write_generator(folder / "generator")
    write_clip(folder / "clip")
    write_prior(folder / "stylespace", generator)
    if estimator:
        write_estimator(folder / "estimators")
    return folder
