"""The warm start: an encoder looks at one view of a figure, the generator shows another."""

import pytest
import torch
from gan.test_views import random_views
from torch.distributions import Normal, kl_divergence

from styleavatar3d.config import load_config
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.gan.config import GanConfig
from styleavatar3d.gan.reconstruction import Encoder, EncoderConfig, codes_of, divergence
from styleavatar3d.gan.schedule import phase_at
from styleavatar3d.gan.state import TrainState
from styleavatar3d.gan.steps import reconstruction_step
from styleavatar3d.gan.train import anchored
from styleavatar3d.gan.views import DataConfig, Sampler, runs_of
from styleavatar3d.runtime.distributed import World

SIZE = 16


def config(*more: str) -> GanConfig:
    return load_config(GanConfig, "gan/tiny-16", ["--data.shards", "none", *more])


def sampler(figures: list[str] | None = None, **changes: object) -> Sampler:
    views = random_views(12, SIZE)
    if figures:
        views = views._replace(partners=runs_of(figures))
    return Sampler(views, DataConfig(shards="", front_share=0.0, **changes), 3, torch.device("cpu"))  # type: ignore[arg-type]


def test_views_of_a_figure_are_the_run_of_its_name():
    assert runs_of(["a", "a", "b", "c", "c"]).tolist() == [[0, 2], [0, 2], [2, 3], [3, 5], [3, 5]]


def test_a_pair_is_two_views_of_one_figure():
    source = sampler([str(i // 3) for i in range(12)], mirror=False)
    labels, met = source.views.labels, set()
    for first in range(0, 120, 12):
        pairs = source.pairs(first, 12, 5, SIZE, (3, 2))
        shown, wanted = (torch.cdist(reals.labels, labels).argmin(1) for reals in (pairs.shown, pairs.wanted))
        assert torch.equal(shown // 3, wanted // 3) and sorted(wanted.tolist()) == list(range(12))
        met |= set(zip(shown.tolist(), wanted.tolist(), strict=True))
    assert len(met) > 30  # of the 36 pairs there are


def test_pairs_are_mirrored_together():
    source = sampler(["a"] * 12)
    pairs = source.pairs(0, 48, 5, SIZE, (3, 2))
    known = source.views.labels
    flipped = [~(reals.labels[:, None] == known).all(-1).any(-1) for reals in (pairs.shown, pairs.wanted)]
    assert torch.equal(*flipped) and 10 < flipped[0].sum() < 38


def test_a_figure_of_one_view_shows_itself():
    pairs = sampler().pairs(0, 12, 5, SIZE, (3, 2))
    assert torch.equal(pairs.shown.images, pairs.wanted.images)


def test_pairs_are_parts_of_one_stream():
    source = sampler(["a"] * 6 + ["b"] * 6)
    whole, parts = source.pairs(8, 8, 5, SIZE, (3, 2)), [source.pairs(first, 4, 5, SIZE, (3, 2)) for first in (8, 12)]
    assert torch.equal(whole.noise, torch.cat([part.noise for part in parts]))
    assert torch.equal(whole.jitter.fine, torch.cat([part.jitter.fine for part in parts]))
    for side in ("shown", "wanted"):
        assert torch.equal(getattr(whole, side).images, torch.cat([getattr(part, side).images for part in parts]))


def test_divergence_is_that_of_normal_distributions():
    mean, log_variance = torch.randn(6, 9), torch.randn(6, 9)
    one, other = Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros(6, 9), torch.ones(6, 9))
    assert divergence(mean, log_variance).item() == pytest.approx(
        kl_divergence(one, other).sum(1).mean().item(), rel=1e-5
    )


def test_the_encoder_looks_at_its_own_resolution():
    encoder = Encoder(EncoderConfig(resolution=8, widths=(8, 16)), 5, 6)
    image, mask = torch.randn(2, 3, 16, 16), torch.rand(2, 1, 16, 16)
    small = [torch.nn.functional.avg_pool2d(x, 2) for x in (image, mask)]
    mean, log_variance = encoder(image, mask)
    assert mean.shape == log_variance.shape == (2, 5)
    assert torch.allclose(mean, encoder(*small)[0], atol=1e-2)


def test_codes_are_drawn_for_pictures_and_their_mirror_images():
    source, encoder = sampler(), Encoder(EncoderConfig(resolution=8, widths=(8, 16)), 5, 6)
    codes = codes_of(encoder, source.views, seed=0, draws=3)
    assert codes.shape == (3 * 2 * 12, 6) and torch.equal(codes, codes_of(encoder, source.views, seed=0, draws=3))
    assert not torch.allclose(codes[:12], codes[12:24])  # mirrored
    assert not torch.allclose(codes[:12], codes[24:36])  # drawn anew


def test_some_views_are_shown_themselves():
    source = sampler(["a"] * 12, mirror=False, own_share=0.5)
    pairs = source.pairs(0, 600, 5, SIZE, (3, 2))
    same = (pairs.shown.labels == pairs.wanted.labels).all(1).float().mean().item()
    assert abs(same - (0.5 + 0.5 / 12)) < 0.06


def test_reconstruction_learns():
    settings = config("--model.generator.precision", "parameter")
    state, source = TrainState.fresh(settings, torch.device("cpu")), sampler(["a"] * 12, mirror=False)
    disc = (torch.linspace(-1, 1, SIZE).square() + torch.linspace(-1, 1, SIZE).square()[:, None] < 0.6).byte() * 255
    source.views = source.views._replace(images=disc.expand(12, 3, -1, -1), masks=disc.expand(12, 1, -1, -1))
    phase, losses = phase_at(settings.train.schedule, 0, SIZE), []
    for step in range(80):
        pairs = source.pairs(4 * step, 4, 16, phase.resolution, phase.samples)
        values = reconstruction_step(state, pairs, settings, phase, World())
        losses.append(values["reconstruction_image"] + values["reconstruction_mask"])
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_warm_then_held_then_free():
    schedule = config("--train.schedule.warm_kimg", "0.02", "--train.schedule.hold_kimg", "0.02").train.schedule
    phases = [phase_at(schedule, seen, SIZE) for seen in (0, 19, 20, 39, 40)]
    assert [phase.warm for phase in phases] == [True, True, False, False, False]
    assert [phase.held for phase in phases] == [False, False, True, True, False]


def test_an_anchored_step_comes_every_interval():
    settings = config("--train.anchor_interval", "3")
    assert [anchored(seen, settings) for seen in range(0, 24, 4)] == [True, False, False, True, False, False]
    assert not anchored(0, config("--train.anchor_interval", "0"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--train.schedule.warm_kimg", "0", "--train.anchor_interval", "0"], "warm_kimg needs model.encoder"),
        (["--model.encoder.resolution", "32", "--model.encoder.widths", "[8,8,8,8]"], "encoder.resolution"),
        (["--model.encoder.widths", "[8]"], "widths end at 4 px"),
    ],
)
def test_settings_that_do_not_fit_are_refused(words: list[str], complaint: str):
    with pytest.raises(StyleAvatarError, match=complaint):
        config(*words)
