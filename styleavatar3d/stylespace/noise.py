"""Noise schedules of the style prior: what is learned at a level of noise, and the way back from pure noise.

Two of them. Variance-preserving with a cosine (arXiv:2102.09672), where the network says the noise, the code or the
velocity (arXiv:2202.00512); and EDM (arXiv:2206.00364), where the noise is added, and the network's answer is scaled
so that it has spread one at every level. Codes have mean zero and spread one. The steps back are those of diffusers.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError

Prediction = Literal["epsilon", "sample", "v_prediction", "edm"]
Predict = Callable[[Tensor, Tensor], Tensor]
TIMES = 1000
_SPREAD = 1.0
_LOG_SIGMA = (-0.6, 1.4)
"""Mean and deviation of the logarithm of EDM's noise while training. EDM's (-1.2, 1.2) are for pixels of spread 0.5."""
_OWN = {"edm": "EDMDPMSolverMultistepScheduler"}
_USUAL = "DPMSolverMultistepScheduler"


class NoiseSchedule:
    """`prediction` says what the network answers, and whether noise replaces the code or is added to it (edm)."""

    def __init__(self, prediction: Prediction):
        self.prediction: Prediction = prediction
        self._training: Any = None

    @property
    def training(self) -> Any:
        """The scheduler of diffusers that knows the noise of each time; made when first needed (a slow import)."""
        if self._training is None:
            self._training = self.scheduler("DDIMScheduler")
        return self._training

    def scheduler(self, name: str = "") -> Any:
        """A scheduler of diffusers by the name of its class, with this noise. Raises StyleAvatarError for no such."""
        import diffusers

        name = name or _OWN.get(self.prediction, _USUAL)
        edm = self.prediction == "edm"
        kind = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
        if kind is None or name.startswith("EDM") != edm:
            expected = "EDMDPMSolverMultistepScheduler or EDMEulerScheduler" if edm else f"{_USUAL}, DDIMScheduler, ..."
            raise StyleAvatarError(f"no such scheduler for a prior of {self.prediction}", got=name, expected=expected)
        if edm:
            return kind(sigma_data=_SPREAD, prediction_type="epsilon")
        return kind.from_config({**_variance_preserving(self.prediction), "prediction_type": self.prediction})

    def lesson(
        self,
        clean: Float[Tensor, "batch tokens w"],
        noise: Float[Tensor, "batch tokens w"],
        level: Float[Tensor, "batch"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At levels in [0, 1), which are uniform: what the network sees, the time it is told, what it should answer."""
        if self.prediction == "edm":
            return _edm_lesson(clean, noise, level)
        time = (level * TIMES).long()
        noisy = self.training.add_noise(clean, noise, time)
        answers = {
            "epsilon": lambda: noise,
            "sample": lambda: clean,
            "v_prediction": lambda: self.training.get_velocity(clean, noise, time),
        }
        return noisy, time.float(), answers[self.prediction]()

    def walk_back(
        self,
        predict: Predict,
        noise: Float[Tensor, "batch tokens w"],
        steps: int,
        start: Float[Tensor, "batch tokens w"] | None = None,
        strength: float = 1.0,
        name: str = "",
    ) -> Float[Tensor, "batch tokens w"]:
        """Codes without noise, in `steps` calls of `predict`; from `start` only the last `strength` of the way, which
        may have fewer times than that."""
        scheduler = self.scheduler(name)
        whole = steps if start is None else min(round(steps / strength), TIMES)
        scheduler.set_timesteps(whole, device=noise.device)
        times = scheduler.timesteps
        code = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        if start is not None:
            times = times[-max(round(whole * strength), 1) :]
            code = scheduler.add_noise(start, noise, times[:1].expand(len(noise)))
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(len(scheduler.timesteps) - len(times))
        for time in times:
            answer = predict(
                scheduler.scale_model_input(code, time), _told(time) if self.prediction == "edm" else time.float()
            )
            code = scheduler.step(answer, time, code, return_dict=False)[0]
        return code


def _variance_preserving(prediction: Prediction) -> dict[str, Any]:
    usual = {"num_train_timesteps": TIMES, "timestep_spacing": "trailing", "clip_sample": False}
    if prediction == "epsilon":
        # From pure noise a noise says nothing about the code, and near it small errors are blown up: Stable Diffusion's
        # schedule stops before.
        return usual | {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    return usual | {"beta_schedule": "squaredcos_cap_v2", "rescale_betas_zero_snr": True}


def _edm_lesson(clean: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """EDM, table 1 and section 5: c_in (x + sigma n) -> (x - c_skip (x + sigma n)) / c_out."""
    mean, deviation = _LOG_SIGMA
    sigma = torch.exp(mean + deviation * torch.special.ndtri(level.clamp(1e-4, 1 - 1e-4)))
    sigmas, total = sigma[:, None, None], (sigma**2 + _SPREAD**2)[:, None, None]
    noisy = clean + sigmas * noise
    answer = (clean - noisy * _SPREAD**2 / total) * total.sqrt() / (sigmas * _SPREAD)
    return noisy / total.sqrt(), _told(sigma.log() / 4), answer


def _told(c_noise: Tensor) -> Tensor:
    """EDM's log(sigma) / 4, which is about -1.6 to 1.1, as a time in 0..1000."""
    return (c_noise.float() + 1.6) * (TIMES / 2.7)
