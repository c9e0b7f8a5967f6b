"""The style prior against what is known exactly: sixteen pairs, guidance one, the pairs' own statistics."""

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.stylespace.config import DenoiserConfig
from styleavatar3d.stylespace.diffusion import TRAIN_TIMESTEPS, Statistics, StylePrior

W, CLIP, SLOTS = 24, 12, 4


def unit_rows(count: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, CLIP, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def statistics() -> Statistics:
    codes = 3 + 2 * torch.randn(64, W, generator=torch.Generator().manual_seed(0))
    return Statistics.of(codes, unit_rows(64, 1), unit_rows(64, 2))


def build(statistics: Statistics) -> StylePrior:
    torch.manual_seed(0)
    config = DenoiserConfig(layers=2, heads=4, head_width=16)
    return StylePrior.build(config, statistics, SLOTS, "a" * 64)


def test_sixteen_pairs_are_recovered(statistics):
    prior = build(statistics)
    draw = torch.Generator().manual_seed(3)
    standard, embeddings = torch.randn(16, W, generator=draw), unit_rows(16, 4)
    condition = statistics.condition(embeddings)
    optimizer = torch.optim.Adam(prior.denoiser.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=400)
    for _ in range(400):
        rows = torch.arange(32) % 16
        times = torch.randint(TRAIN_TIMESTEPS, (32,), generator=draw)
        noise = torch.randn(32, W, generator=draw)
        optimizer.zero_grad()
        prior.loss(standard[rows], condition[rows], times, noise).backward()
        optimizer.step()
        rate.step()
    codes = prior.eval().sample(embeddings, guidance=1.0)
    error = (statistics.standard_code(codes[:, 0]) - standard).square().mean()
    assert error < 0.05, f"a code differs by {error:.3f} of its variance"
    assert codes.shape == (16, SLOTS, W) and (codes == codes[:, :1]).all()


def test_guidance_one_is_the_conditional_prediction(statistics):
    prior = build(statistics).eval()
    noisy, condition = torch.randn(5, W), torch.randn(5, CLIP)
    time = torch.tensor(500)
    with torch.no_grad():
        conditional = prior.denoiser(noisy, time, condition).predicted_image_embedding
        free = prior.denoiser(noisy, time, torch.zeros_like(condition)).predicted_image_embedding
        assert torch.equal(prior.predict(noisy, time, condition, 1.0), conditional)
        torch.testing.assert_close(prior.predict(noisy, time, condition, 0.0), free)
        torch.testing.assert_close(prior.predict(noisy, time, condition, 3.0), 3 * conditional - 2 * free)
        torch.testing.assert_close(prior.predict(noisy, time, condition, 1.0 + 1e-6), conditional, atol=1e-4, rtol=1e-4)


def test_samples_depend_on_seed_and_row_alone(statistics):
    prior, embeddings = build(statistics).eval(), unit_rows(3, 5)
    together = prior.sample(embeddings, seed=7)
    torch.testing.assert_close(prior.sample(embeddings[:1], seed=7), together[:1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(prior.sample(embeddings, seed=8), together)


def test_conditions_and_codes_are_standard(statistics):
    condition = statistics.condition(unit_rows(64, 1))
    torch.testing.assert_close(condition.mean(0), torch.zeros(CLIP), atol=1e-5, rtol=0)
    torch.testing.assert_close(condition.square().mean(), torch.tensor(1.0))
    codes = torch.randn(4, W)
    torch.testing.assert_close(statistics.code(statistics.standard_code(codes)), codes)


def test_texts_are_mapped_to_the_pictures_they_describe():
    """Captions beside their pictures, half of whose content they leave open: what they do not say becomes the mean."""
    draw = torch.Generator().manual_seed(5)
    said, open_ = torch.randn(2000, 6, generator=draw), torch.randn(2000, 6, generator=draw)
    pictures = torch.nn.functional.normalize(torch.cat([said, open_], 1) * 0.1 + 1, dim=1)
    texts = torch.nn.functional.normalize(torch.cat([said, torch.zeros_like(open_)], 1) * 0.1 - 1, dim=1)
    statistics = Statistics.of(torch.randn(9, W), pictures, texts[:1000])
    truth, guess = statistics.condition(pictures[1000:]), statistics.condition(texts[1000:], "text")
    explained = 1 - (guess - truth).square().sum() / truth.square().sum()
    assert explained > 0.45, f"captions that say half explain {explained:.2f}"
    assert guess[:, 6:].square().mean() < 0.3 * guess[:, :6].square().mean()


def test_a_saved_prior_gives_the_same_codes_and_knows_its_generator(statistics, tmp_path):
    prior = build(statistics).eval()
    prior.save_pretrained(tmp_path)
    again = StylePrior.from_pretrained(tmp_path, "a" * 64)
    embeddings = unit_rows(2, 6)
    torch.testing.assert_close(again.sample(embeddings), prior.sample(embeddings), atol=2e-2, rtol=1e-2)
    with pytest.raises(StyleAvatarError, match="belongs to another generator"):
        StylePrior.from_pretrained(tmp_path, "b" * 64)


def test_stock_diffusers_loads_the_denoiser(statistics, tmp_path):
    from diffusers import DDIMScheduler, PriorTransformer

    build(statistics).save_pretrained(tmp_path)
    assert PriorTransformer.from_pretrained(tmp_path / "denoiser").config.embedding_dim == W
    assert DDIMScheduler.from_pretrained(tmp_path / "scheduler").config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("embeddings", "settings"),
    [((2, CLIP + 1), {}), ((2, CLIP), {"guidance": -1.0}), ((2, CLIP), {"steps": 0})],
)
def test_what_does_not_fit_is_refused(statistics, embeddings, settings):
    with pytest.raises(StyleAvatarError):
        build(statistics).sample(torch.zeros(embeddings), **settings)


def test_a_folder_without_a_prior_is_named(tmp_path):
    with pytest.raises(StyleAvatarError, match="holds no style prior"):
        StylePrior.from_pretrained(tmp_path)


def test_the_miniature_size_fits_its_share_of_the_repository():
    config = DenoiserConfig()
    prior = StylePrior.build(config, Statistics(128, 128), 10, "")
    assert sum(p.numel() for p in prior.parameters()) <= 1.75e6
