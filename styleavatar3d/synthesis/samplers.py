"""Sampling steps: schedulers by name, and what of them can be known before the loop begins.

A deterministic scheduler is linear: after step i the latents are a weighted sum of the first latents and of the
predictions so far, with weights that depend on the schedule alone. Trying the scheduler out on unit vectors gives that
table of weights, so a step of any of them, first order or third, is one product. Schedulers that draw noise or clip
are not linear; the trial shows it, and they are asked at every step.
"""

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm++_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++_2m_karras": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "dpm++_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++_2s": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++"}),
    "deis": ("DEISMultistepScheduler", {"algorithm_type": "deis"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
"""The class of each name and how it differs from what the model's own scheduler config says."""

_TRIAL_SIZE, _TRIAL_ERROR = 8.0, 1e-3


def find_scheduler(name: str, config: Any) -> Any:
    """The scheduler called `name`, with the noise schedule and the kind of prediction of the model's own `config`."""
    import diffusers

    if name not in SCHEDULERS:
        raise StyleAvatarError("there is no such scheduler", got=name, expected=", ".join(SCHEDULERS))
    class_name, changes = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(config, **changes)


class Schedule:
    """The steps of one scheduler: `timesteps`, and, where it is linear, the scale of every input and all weights.

    Args:
        scheduler: any diffusers scheduler; it is copied, never changed
        strength: share of the steps that are taken, from the last: below 1 a picture is given and partly noised
    """

    def __init__(self, scheduler: Any, steps: int, device: torch.device | str, strength: float = 1.0):
        self.scheduler = copy.deepcopy(scheduler)
        self.scheduler.set_timesteps(steps, device=device)
        skipped = steps - min(int(steps * strength), steps)
        if skipped == steps:
            raise StyleAvatarError(
                "no step is left to take", got=f"strength {strength} of {steps} steps", expected="strength >= 1 / steps"
            )
        begin = skipped * self.scheduler.order
        if strength < 1 and hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        self.timesteps: Tensor = self.scheduler.timesteps[begin:]
        trial = _try_out(copy.deepcopy(self.scheduler), self.timesteps)
        self.scales, self.weights = (trial[0], trial[1].to(device)) if trial else (None, None)

    @property
    def linear(self) -> bool:
        return self.weights is not None

    def begin(
        self, latents: Float[Tensor, "batch channel height width"], generators: Sequence[torch.Generator]
    ) -> "Steps | LinearSteps":
        """Start a run at `latents`; noise that is drawn on the way comes from `generators`, one a picture."""
        return LinearSteps(self, latents) if self.linear else Steps(self, latents, generators)

    def add_noise(
        self, latents: Float[Tensor, "batch channel height width"], noise: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Noise a picture's latents as far as the first step expects them."""
        return self.scheduler.add_noise(latents, noise, self.timesteps[:1].repeat(len(latents)))


class LinearSteps:
    """A run whose steps are products with the table: the latents so far are kept only as first noise and predictions.

    Sums are taken in the precision of the latents, whatever the networks compute in.
    """

    def __init__(self, schedule: Schedule, latents: Tensor):
        assert schedule.weights is not None and schedule.scales is not None
        self._weights, self._scales, self.latents = schedule.weights.to(latents.dtype), schedule.scales, latents
        self._terms = latents.new_empty(len(schedule.timesteps) + 1, latents.numel())
        self._terms[0] = latents.flatten()

    def inputs(self, index: int) -> Tensor:
        """What the networks see at this step."""
        return self.latents * self._scales[index]

    def advance(self, index: int, prediction: Tensor) -> None:
        """Take the step that this prediction gives."""
        self._terms[index + 1] = prediction.flatten()
        count = index + 2
        self.latents = (self._weights[index, :count] @ self._terms[:count]).view_as(prediction)


class Steps:
    """A run of a scheduler that must be asked at every step."""

    def __init__(self, schedule: Schedule, latents: Tensor, generators: Sequence[torch.Generator]):
        self._scheduler, self._timesteps = copy.deepcopy(schedule.scheduler), schedule.timesteps
        self._options = _options(self._scheduler, list(generators))
        self.latents = latents

    def inputs(self, index: int) -> Tensor:
        """What the networks see at this step."""
        return self._scheduler.scale_model_input(self.latents, self._timesteps[index])

    def advance(self, index: int, prediction: Tensor) -> None:
        """Take the step that this prediction gives."""
        step = self._scheduler.step
        self.latents = step(prediction, self._timesteps[index], self.latents, **self._options, return_dict=False)[0]


def _try_out(scheduler: Any, timesteps: Tensor) -> tuple[list[float], Tensor] | None:
    """Scales [step] and weights [step, 1 + prediction] of a linear scheduler; None of any other.

    Column k of the trial is a run whose k-th term is 1 and all others 0; two more columns are runs of random, large
    terms, which show whether the table predicts them.
    """
    count = len(timesteps) + 1
    draw = torch.Generator().manual_seed(0)
    terms = torch.cat([torch.eye(count), _TRIAL_SIZE * torch.randn(count, 2, generator=draw)], 1).double()
    options = _options(scheduler, torch.Generator().manual_seed(0))
    latents, scales, rows = terms[0].view(1, 1, 1, -1), [], []
    for timestep, prediction in zip(timesteps.cpu(), terms[1:], strict=True):
        scaled = scheduler.scale_model_input(latents, timestep)
        scales.append(float(scaled.flatten() @ latents.flatten() / latents.square().sum()))
        latents = scheduler.step(prediction.view_as(latents), timestep, latents, **options, return_dict=False)[0]
        rows.append(latents.flatten())
    weights, seen = torch.stack(rows).split([count, 2], dim=1)
    error = (weights @ terms[:, count:] - seen).abs().max() / seen.abs().max()
    return (scales, weights) if error < _TRIAL_ERROR else None  # a NaN is no table either


def _options(scheduler: Any, generator: Any) -> dict[str, Any]:
    """Arguments of a step, where it takes them; eta 0 as in diffusers' pipelines: DDIM and TCD without added noise."""
    wanted = {"generator": generator, "eta": 0.0}
    taken = inspect.signature(scheduler.step).parameters
    return {name: value for name, value in wanted.items() if name in taken}
