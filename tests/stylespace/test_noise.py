"""Noise schedules against diffusers and against a network that knows the answer."""

import pytest
import torch

from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.stylespace.noise import NoiseSchedule

PREDICTIONS = ("epsilon", "sample", "v_prediction", "edm")
SCHEDULERS = ("DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDPMScheduler")
CODES = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(6, 1, 8, generator=torch.Generator().manual_seed(2))


def oracle(schedule: NoiseSchedule, clean: torch.Tensor, scheduler):
    """A network that knows the clean code, and answers as `lesson` asks for it."""
    sigmas = iter(scheduler.sigmas.tolist()) if schedule.prediction == "edm" else None

    def predict(noisy, time):
        if sigmas is not None:
            sigma = next(sigmas)
            return (clean - noisy * (1 + sigma**2) ** 0.5 / (1 + sigma**2)) * (1 + sigma**2) ** 0.5 / sigma
        alpha = schedule.training.alphas_cumprod[int(time)]
        noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        if schedule.prediction == "epsilon":
            return noise
        return clean if schedule.prediction == "sample" else alpha.sqrt() * noise - (1 - alpha).sqrt() * clean

    return predict


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_knows_the_code_is_led_to_it(prediction):
    schedule = NoiseSchedule(prediction)
    scheduler = schedule.scheduler()
    scheduler.set_timesteps(8)
    found = schedule.walk_back(oracle(schedule, CODES, scheduler), NOISE, 8)
    torch.testing.assert_close(found, CODES, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_way_back_is_that_of_diffusers(name, prediction):
    """The same calls written out with the stock class, for a network that is not perfect."""
    import diffusers

    schedule = NoiseSchedule(prediction)
    cosine = {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True}
    stable = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    unclipped = {} if "Multistep" in name else {"clip_sample": False}
    stock = getattr(diffusers, name)(
        prediction_type=prediction, timestep_spacing="trailing", **unclipped,
        **(stable if prediction == "epsilon" else cosine),
    )  # fmt: skip
    stock.set_timesteps(6)
    torch.manual_seed(0)
    code = NOISE
    for time in stock.timesteps:
        code = stock.step(torch.tanh(code + 0.001 * time), time, code, return_dict=False)[0]
    torch.manual_seed(0)
    ours = schedule.walk_back(lambda noisy, time: torch.tanh(noisy + 0.001 * time), NOISE, 6, name=name)
    torch.testing.assert_close(ours, code)


def test_lessons_are_those_of_diffusers():
    level = torch.linspace(0, 0.999, 6)
    for prediction in ("epsilon", "sample", "v_prediction"):
        schedule = NoiseSchedule(prediction)
        noisy, time, answer = schedule.lesson(CODES, NOISE, level)
        stock = schedule.scheduler("DDPMScheduler")
        torch.testing.assert_close(noisy, stock.add_noise(CODES, NOISE, time.long()))
        wanted = {"epsilon": NOISE, "sample": CODES, "v_prediction": stock.get_velocity(CODES, NOISE, time.long())}
        torch.testing.assert_close(answer, wanted[prediction])


def test_edm_scales_as_diffusers_does():
    """What an answer means, put together by the stock scheduler, is the clean code; and spreads are one."""
    schedule = NoiseSchedule("edm")
    stock = schedule.scheduler("EDMEulerScheduler")
    level = torch.full((6,), 0.7)
    noisy, _, answer = schedule.lesson(CODES, NOISE, level)
    sigma = torch.exp(-0.6 + 1.4 * torch.special.ndtri(level[0]))
    added = CODES + sigma * NOISE
    torch.testing.assert_close(noisy, stock.precondition_inputs(added, sigma))
    torch.testing.assert_close(stock.precondition_outputs(added, answer, sigma), CODES, atol=1e-5, rtol=1e-5)
    many = torch.randn(2, 4000, 1, 1)
    noisy, _, answer = schedule.lesson(many[0], many[1], torch.rand(4000))
    assert abs(noisy.std() - 1) < 0.1 and abs(answer.std() - 1) < 0.1


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("steps", "strength", "calls"), [(8, 0.6, 8), (8, 0.01, 8), (50, 0.01, 10), (1000, 0.6, 600)])
def test_a_short_way_back_has_no_more_steps_than_times(prediction, steps, strength, calls):
    told = []

    def predict(noisy, time):
        told.append(time)
        return 0.1 * noisy

    found = NoiseSchedule(prediction).walk_back(predict, NOISE, steps, start=CODES, strength=strength)
    assert len(told) == calls and found.isfinite().all()


def test_no_noise_at_all_leaves_the_start_and_schedules_do_not_mix():
    schedule = NoiseSchedule("v_prediction")
    scheduler = schedule.scheduler()
    near = schedule.walk_back(oracle(schedule, CODES, scheduler), NOISE, 8, start=CODES, strength=0.2)
    torch.testing.assert_close(near, CODES, atol=0.02, rtol=0.02)
    for prediction, name in (("edm", "DDIMScheduler"), ("epsilon", "EDMEulerScheduler"), ("sample", "UNet2DModel")):
        with pytest.raises(StyleAvatarError, match="no such scheduler"):
            NoiseSchedule(prediction).scheduler(name)
