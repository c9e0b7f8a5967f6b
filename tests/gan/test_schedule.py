"""Schedules are pure functions of the number of images seen."""

import pytest

from styleavatar3d.gan.schedule import Schedule, phase_at

SCHEDULE = Schedule(kimg=100, start_resolution=16, grow_kimg=10, fade_kimg=5)


@pytest.mark.parametrize(
    "kimg, resolution, fade",
    [(0, 16, 1), (9.99, 16, 1), (10, 32, 0), (12.5, 32, 0.5), (15, 32, 1), (20, 64, 0), (22.5, 64, 0.5), (90, 64, 1)],
)
def test_the_resolution_doubles_and_fades_in(kimg, resolution, fade):
    phase = phase_at(SCHEDULE, round(kimg * 1000), 64)
    assert phase.resolution == resolution and phase.fade == pytest.approx(fade)


def test_penalty_and_samples_change_with_the_final_resolution():
    early, late = phase_at(SCHEDULE, 0, 64), phase_at(SCHEDULE, 20_000, 64)
    assert (early.samples, early.penalty) == ((10, 10), 0.1) and (late.samples, late.penalty) == ((14, 14), 0.5)


def test_rates_fall_at_the_end_only():
    rates = [phase_at(SCHEDULE, seen, 64).rate for seen in (0, 84_000, 92_500, 100_000)]
    assert rates == pytest.approx([1, 1, 0.75, 0.5])


def test_a_generator_can_be_held_at_first():
    held = Schedule(kimg=10, hold_kimg=2)
    assert [phase_at(held, seen, 64).held for seen in (0, 1999, 2000)] == [True, True, False]
    assert not phase_at(SCHEDULE, 0, 64).held


def test_a_model_that_starts_at_its_final_resolution_never_grows():
    assert {phase_at(SCHEDULE, seen, 16)[:2] for seen in range(0, 100_000, 1000)} == {(16, 1.0)}


def test_a_start_resolution_must_be_a_power_of_two():
    with pytest.raises(ValueError, match="power of two"):
        Schedule(kimg=1, start_resolution=24)


def test_fades_are_part_of_a_phase():
    fades = {"blur": {"start": 10, "end": 0, "kimg": 20}, "neural_resolution": {"start": 8, "end": 16, "kimg": 20}}
    faded = Schedule.model_validate({"kimg": 100, "fades": fades})
    phase = phase_at(faded, 10_000, 64)
    assert (phase.blur, phase.neural_resolution) == (5.0, 12) and (phase.swap, phase.density_noise) == (0, 0)
    assert phase_at(SCHEDULE, 10_000, 64).neural_resolution is None
