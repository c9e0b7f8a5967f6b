"""The style prior against what is known exactly: sixteen pairs, guidance one, the pairs' own statistics."""

import json

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.figures.looks import WORDS
from styleavatar3d.stylespace import attributes
from styleavatar3d.stylespace.config import DenoiserConfig
from styleavatar3d.stylespace.denoiser import Conditions
from styleavatar3d.stylespace.diffusion import StylePrior
from styleavatar3d.stylespace.statistics import Statistics

W, CLIP, SLOTS = 24, 12, 4


def unit_rows(count: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, CLIP, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def statistics() -> Statistics:
    codes = 3 + 2 * torch.randn(64, 1, W, generator=torch.Generator().manual_seed(0))
    return Statistics.of(codes, unit_rows(64, 1), unit_rows(64, 2))


def build(statistics: Statistics, **config) -> StylePrior:
    torch.manual_seed(0)
    prior = StylePrior(DenoiserConfig(**({"layers": 2, "width": 64} | config)), statistics, SLOTS, "a" * 64)
    with torch.no_grad():  # a new network answers zero, which would hide mistakes
        for parameter in prior.denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return prior.eval()


def known(prior: StylePrior, count: int = 5) -> Conditions:
    """Everything at once."""
    numbers = attributes.encode([{"hair": "long", "glasses": "none"}] * count)
    return prior.conditions(unit_rows(count, 7), unit_rows(count, 8), numbers)


def fit(prior: StylePrior, standard: torch.Tensor, wanted: Conditions, steps: int = 400) -> None:
    draw = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(prior.denoiser.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.arange(64) % len(standard)
        level, noise = torch.rand(64, generator=draw), torch.randn(64, *standard.shape[1:], generator=draw)
        optimizer.zero_grad()
        prior.loss(standard[rows], Conditions(*(part[rows] for part in wanted)), level, noise).backward()
        optimizer.step()
        rate.step()


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "edm"])
def test_sixteen_pairs_are_recovered(statistics, prediction):
    prior = build(statistics, prediction=prediction)
    standard = torch.randn(16, 1, W, generator=torch.Generator().manual_seed(4))
    wanted = prior.conditions(image=unit_rows(16, 4))
    slow = prediction == "epsilon"  # where there is most noise, the code is a small remainder of the answer
    fit(prior, standard, wanted, 1600 if slow else 400)
    codes = prior.sample(wanted, guidance=1.0, steps=24 if slow else 8)
    error = (statistics.standard_code(codes[:, :1]) - standard).square().mean()
    assert error < 0.05, f"a code differs by {error:.3f} of its variance"
    assert codes.shape == (16, SLOTS, W) and (codes == codes[:, :1]).all()


def test_sixteen_codes_of_slots_are_recovered_from_words(statistics):
    """In w+, and from nothing but attributes."""
    prior = build(statistics, space="w+", heads=4)
    standard = torch.randn(16, SLOTS, W, generator=torch.Generator().manual_seed(4))
    said = [{"hair": WORDS["hair"][i % 4], "style": WORDS["style"][i // 4]} for i in range(16)]
    wanted = prior.conditions(attributes=attributes.encode(said))
    fit(prior, standard, wanted)
    error = (statistics.standard_code(prior.sample(wanted, guidance=1.0)) - standard).square().mean()
    assert error < 0.05, f"a code differs by {error:.3f} of its variance"


def test_guidance_one_is_the_conditional_prediction(statistics):
    prior = build(statistics)
    wanted, noisy, time = known(prior), torch.randn(5, 1, W), torch.tensor(500.0)
    with torch.no_grad():
        conditional = prior.denoiser(noisy, time.expand(5), wanted)
        free = prior.denoiser(noisy, time.expand(5), wanted.only())
        assert not torch.allclose(conditional, free, atol=1e-3)
        assert torch.equal(prior.predict(noisy, time, wanted, 1.0), conditional)
        torch.testing.assert_close(prior.predict(noisy, time, wanted, 0.0), free)
        torch.testing.assert_close(prior.predict(noisy, time, wanted, 3.0), 3 * conditional - 2 * free)


def test_each_condition_can_be_guided_by_itself(statistics):
    prior = build(statistics)
    wanted, noisy, time = known(prior), torch.randn(5, 1, W), torch.tensor(300.0)
    with torch.no_grad():
        plain = [prior.denoiser(noisy, time.expand(5), wanted.only(*names)) for names in
                 ((), ("image",), ("image", "text"), ("image", "text", "attributes"))]  # fmt: skip
        guided = prior.predict(noisy, time, wanted, {"image": 1.5, "text": 3.0, "attributes": 0.5})
        steps = [after - before for before, after in zip(plain, plain[1:], strict=False)]
        torch.testing.assert_close(guided, plain[0] + 1.5 * steps[0] + 3 * steps[1] + 0.5 * steps[2])
        equal = dict.fromkeys(("image", "text", "attributes"), 2.0)
        both = prior.predict(noisy, time, wanted, equal), prior.predict(noisy, time, wanted, 2.0)
        torch.testing.assert_close(*both, atol=1e-4, rtol=1e-4)


def test_what_is_unwanted_takes_the_place_of_nothing(statistics):
    prior = build(statistics)
    wanted, noisy, time = known(prior), torch.randn(5, 1, W), torch.tensor(300.0)
    unwanted = prior.conditions(text=unit_rows(5, 9))
    with torch.no_grad():
        away = prior.predict(noisy, time, wanted, 2.0, unwanted)
        expected = 2 * prior.denoiser(noisy, time.expand(5), wanted) - prior.denoiser(noisy, time.expand(5), unwanted)
        torch.testing.assert_close(away, expected)


def test_an_unknown_condition_says_nothing(statistics):
    prior = build(statistics)
    wanted, noisy, time = known(prior), torch.randn(5, 1, W), torch.full((5,), 300.0)
    other = wanted._replace(text=wanted.text + 1)
    with torch.no_grad():
        assert torch.equal(
            prior.denoiser(noisy, time, wanted.only("image")), prior.denoiser(noisy, time, other.only("image"))
        )
        assert not torch.equal(prior.denoiser(noisy, time, wanted), prior.denoiser(noisy, time, other))


def test_samples_depend_on_seed_and_row_alone(statistics):
    prior = build(statistics)
    wanted = prior.conditions(image=unit_rows(3, 5))
    together = prior.sample(wanted, seed=7)
    alone = prior.sample(Conditions(*(part[:1] for part in wanted)), seed=7)
    torch.testing.assert_close(alone, together[:1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(prior.sample(wanted, seed=8), together)


@pytest.mark.parametrize("prediction", ["v_prediction", "edm"])
def test_strength_leads_from_the_start_to_a_new_code(statistics, prediction):
    prior = build(statistics, prediction=prediction)
    wanted, start = prior.conditions(image=unit_rows(4, 5)), statistics.code(torch.randn(4, SLOTS, W))
    found = [prior.sample(wanted, start=start, strength=share) for share in (0.1, 0.4, 0.9)]
    gone = [float((code - start[:, :1]).norm()) for code in found]
    assert gone == sorted(gone) and gone[0] < 0.5 * gone[2]


def test_conditions_and_codes_are_standard(statistics):
    pictures = statistics.image(unit_rows(64, 1))
    torch.testing.assert_close(pictures.mean(0), torch.zeros(CLIP), atol=1e-5, rtol=0)
    torch.testing.assert_close(pictures.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(statistics.text(unit_rows(64, 2)).square().mean(), torch.tensor(1.0))
    codes = torch.randn(4, 1, W)
    torch.testing.assert_close(statistics.code(statistics.standard_code(codes)), codes)


@pytest.mark.parametrize("paired", [True, False])
def test_texts_are_mapped_to_the_pictures_they_describe(paired):
    """Captions beside their pictures, half of whose content they leave open: what they do not say becomes the mean."""
    draw = torch.Generator().manual_seed(5)
    said, open_ = torch.randn(2000, 6, generator=draw), torch.randn(2000, 6, generator=draw)
    pictures = torch.nn.functional.normalize(torch.cat([said, open_], 1) * 0.1 + 1, dim=1)
    texts = torch.nn.functional.normalize(torch.cat([said, torch.zeros_like(open_)], 1) * 0.1 - 1, dim=1)
    shown = pictures[:1000] if paired else pictures
    statistics = Statistics.of(torch.randn(9, 1, W), shown, texts[:1000], paired=paired)
    truth, guess = statistics.image(pictures[1000:]), statistics.pictured(texts[1000:])
    explained = 1 - (guess - truth).square().sum() / truth.square().sum()
    assert explained > 0.45, f"captions that say half explain {explained:.2f}"
    assert guess[:, 6:].square().mean() < 0.3 * guess[:, :6].square().mean()


def test_a_saved_prior_gives_the_same_codes_and_knows_its_generator(statistics, tmp_path):
    prior = build(statistics)
    prior.strangers = 0.25
    prior.save_pretrained(tmp_path)
    again = StylePrior.from_pretrained(tmp_path, "a" * 64)
    assert again.strangers == 0.25 and again.knows_attributes
    embeddings = unit_rows(2, 6)
    samples = (one.sample(one.conditions(image=embeddings)) for one in (again, prior))
    torch.testing.assert_close(*samples, atol=5e-2, rtol=2e-2)
    with pytest.raises(StyleAvatarError, match="belongs to another generator"):
        StylePrior.from_pretrained(tmp_path, "b" * 64)


@pytest.mark.parametrize(
    "settings", [{"guidance": -1.0}, {"guidance": {"images": 2.0}}, {"steps": 0}, {"strength": 0.0},
                 {"scheduler": "Best"}, {"scheduler": "EDMEulerScheduler"}],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(statistics, settings):
    prior = build(statistics)
    with pytest.raises(StyleAvatarError):
        prior.sample(prior.conditions(image=unit_rows(2, 1)), **settings)


def test_conditions_that_do_not_fit_are_refused(statistics):
    prior = build(statistics)
    with pytest.raises(StyleAvatarError, match="does not fit"):
        prior.conditions(image=torch.zeros(2, CLIP + 1))
    with pytest.raises(StyleAvatarError, match="no condition"):
        prior.conditions()


def test_folders_without_a_prior_are_named(statistics, tmp_path):
    with pytest.raises(StyleAvatarError, match="holds no style prior"):
        StylePrior.from_pretrained(tmp_path)
    build(statistics).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"words": 3}))
    with pytest.raises(StyleAvatarError, match="3 words"):
        StylePrior.from_pretrained(tmp_path)


def test_the_miniature_size_fits_its_share_of_the_repository():
    prior = StylePrior(DenoiserConfig(), Statistics(128, 128), 10, "")
    assert sum(p.numel() for p in prior.parameters()) <= 2.5e6
