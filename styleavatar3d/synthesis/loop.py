"""The denoising loop over a UNet and its ControlNets, with all that does not change taken out of it.

Nothing of diffusers' modules is rewritten: while the loop runs, the small parts of them that would compute the same
at every step (the embeddings of time, of sizes and pooled words, of the guidance pictures) are stand-ins that give
what was computed before. ControlNets are not asked in steps in which they have no say.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from styleavatar3d.synthesis.samplers import Schedule


class Control(NamedTuple):
    """A ControlNet, the pictures in [0, 1] that it looks at, how strongly it counts and in which share of the steps."""

    network: Any
    pictures: Float[Tensor, "batch 3 height width"]
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def counts(self, index: int, steps: int) -> bool:
        """Whether step `index` lies wholly inside [start, end]."""
        return self.scale != 0 and index / steps >= self.start and (index + 1) / steps <= self.end


class Words(NamedTuple):
    """What the networks are told. With classifier-free guidance the first half of the rows is the negatives'."""

    states: Float[Tensor, "rows tokens width"]
    added: dict[str, Tensor]
    """pooled words and sizes of SDXL; empty of the others"""


@torch.inference_mode()
def denoise(
    unet: Any,
    controls: Sequence[Control],
    schedule: Schedule,
    latents: Float[Tensor, "batch channel height width"],
    words: Words,
    scale: float,
    generators: Sequence[torch.Generator] = (),
) -> Float[Tensor, "batch channel height width"]:
    """Latents of pictures from noisy latents, by the scheduler's steps; guided by negatives where `words` has them.

    Args:
        latents: as noisy as the first of the schedule's timesteps expects; sums are taken in their precision
        scale: of classifier-free guidance (arXiv 2207.12598)
        generators: of the noise that some schedulers draw on the way, one a picture
    """
    copies, numbers = len(words.states) // len(latents), words.states.dtype  # `unet.dtype` walks all its parameters
    steps, run = len(schedule.timesteps), schedule.begin(latents, generators)
    with _prepared(unet, controls, schedule.timesteps, copies, numbers) as clocks:
        for index, timestep in enumerate(schedule.timesteps):
            for clock in clocks:
                clock.at = index
            inputs = run.inputs(index).to(numbers)
            inputs = torch.cat([inputs, inputs]) if copies == 2 else inputs
            prediction = unet(
                inputs, timestep, encoder_hidden_states=words.states, added_cond_kwargs=words.added,
                **_residuals(controls, index, steps, inputs, timestep, words), return_dict=False,
            )[0].to(latents.dtype)  # fmt: skip
            if copies == 2:
                away, towards = prediction.chunk(2)
                prediction = torch.lerp(away, towards, scale)
            run.advance(index, prediction)
    return run.latents


def _residuals(
    controls: Sequence[Control], index: int, steps: int, inputs: Tensor, timestep: Tensor, words: Words
) -> dict[str, Any]:
    """The sum of what the ControlNets that count at this step add to the UNet, as its arguments."""
    down: list[Tensor] = []
    middle: Any = None
    for control in controls:
        if not control.counts(index, steps):
            continue
        more, more_middle = control.network(
            inputs, timestep, encoder_hidden_states=words.states, controlnet_cond=control.pictures,
            conditioning_scale=control.scale, added_cond_kwargs=words.added, return_dict=False,
        )  # fmt: skip
        down = [one + other for one, other in zip(down, more, strict=True)] if down else list(more)
        middle = more_middle if middle is None else middle + more_middle
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle} if down else {}


@contextmanager
def _prepared(
    unet: Any, controls: Sequence[Control], timesteps: Tensor, copies: int, numbers: torch.dtype
) -> Iterator[list["_Known"]]:
    """Inside, the networks know their embeddings already. Yields those that the loop must turn to its step."""
    networks = {id(one): one for one in (unet, *(control.network for control in controls))}.values()
    guides = {id(control.network): control for control in controls}.values()
    with ExitStack() as stack:
        clocks = []
        for control in guides:
            seen = control.network.controlnet_cond_embedding(_in_order(control).to(numbers))
            known = _Known(seen.repeat(copies, 1, 1, 1)[None])
            stack.enter_context(_replaced(control.network, "controlnet_cond_embedding", known))
        for network in networks:
            clocks.append(_Known(network.time_embedding(network.time_proj(timesteps).to(numbers))[:, None]))
            stack.enter_context(_replaced(network, "time_proj", nn.Identity()))
            stack.enter_context(_replaced(network, "time_embedding", clocks[-1]))
            for name in ("add_embedding", "add_time_proj"):
                if isinstance(part := getattr(network, name, None), nn.Module):
                    stack.enter_context(_replaced(network, name, _Once(part)))
        yield clocks


def _in_order(control: Control) -> Tensor:
    backwards = control.network.config.controlnet_conditioning_channel_order == "bgr"
    return control.pictures.flip(1) if backwards else control.pictures


@contextmanager
def _replaced(network: nn.Module, name: str, stand_in: nn.Module) -> Iterator[None]:
    original = getattr(network, name)
    setattr(network, name, stand_in)
    try:
        yield
    finally:
        setattr(network, name, original)


class _Known(nn.Module):
    """Gives row `at` of what was computed before, whatever it is asked."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows, self.at = rows, 0

    def forward(self, *_: Any) -> Tensor:
        return self.rows[self.at]


class _Once(nn.Module):
    """Computes at its first call and gives the same afterwards."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part, self._value = part, None

    def forward(self, *arguments: Any) -> Any:
        if self._value is None:
            self._value = self.part(*arguments)
        return self._value
