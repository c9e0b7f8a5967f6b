"""What our denoising loop costs beside the networks that it calls, and what a batch gains. SD 1.5's layout, tiny.

The layout is that of Stable Diffusion 1.5 (four levels of two layers, attention on three, one ControlNet) at 32 and 64
channels and pictures of 64 px, because what is measured is what Python and PyTorch's dispatch cost, which at full size
on a GPU hides behind the kernels. Times are process CPU time of one thread; ways and batches take turns.
"""

import logging
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from styleavatar3d.encoders.tokenizer import build_tokenizer
from styleavatar3d.synthesis.families import build_pipeline, tiny
from styleavatar3d.synthesis.pipeline import Synthesizer
from styleavatar3d.synthesis.prompts import vocabulary

BATCHES = (1, 4, 8)
STEPS, SCALE = 20, 5.0


def run(repeats: int = 9) -> dict[str, Any]:
    """Print two tables and return their numbers, each the median of `repeats` turns.

    In a turn every batch is drawn in all three ways, and what is compared is of one turn: a machine that is busy for a
    while changes no ratio. "outside": of our call, the share of time outside the modules of the pipeline (text tower,
    ControlNet, UNet, decoder and the parts of them that are computed beforehand). "ours over bare" and "stock over
    bare": our call and diffusers' own over the bare modules, called as often as the stock pipeline calls them; ours can
    be below 0, for it calls some parts less often.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        synthesizer = _synthesizer()
        ways = {batch: _ways(synthesizer, batch) for batch in BATCHES}
        turns = [{batch: _turn(synthesizer, ways[batch]) for batch in BATCHES} for _ in range(repeats + 1)]
    finally:
        torch.set_num_threads(threads)
    rows, gain = compare(turns[1:])  # the first warms up
    _print(rows, gain)
    return {
        "table": "synthesis",
        "layout": "SD 1.5 at 32-64 channels, 64 px, one ControlNet",
        "steps": STEPS,
        "torch": torch.__version__,
        "repeats": repeats,
        "rows": rows,
        f"batch_{BATCHES[-1]}_over_{BATCHES[0]}": round(gain, 2),
    }


class Ways(NamedTuple):
    """The same pictures, drawn by us, by diffusers' own pipeline, and by the bare modules."""

    ours: Callable[[], None]
    stock: Callable[[], None]
    bare: Callable[[], None]


class Turn(NamedTuple):
    """Seconds of each way; `inside`: of ours, those inside the modules."""

    ours: float
    stock: float
    bare: float
    inside: float


def _synthesizer() -> Synthesizer:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), 77)
    pipeline, controlnet = build_pipeline(tiny("sd15", vocabulary=len(tokenizer)), tokenizer)
    return Synthesizer(pipeline, {"depth": controlnet})


def _ways(synthesizer: Synthesizer, batch: int) -> Ways:
    prompts, negatives = [f"a man, {index} hats" for index in range(batch)], ["back view"] * batch
    pictures = torch.randint(256, (batch, 64, 64, 3), dtype=torch.uint8)

    def ours() -> None:
        synthesizer.texts.forget()
        synthesizer.generate(prompts, negatives, {"depth": pictures}, range(batch), STEPS, SCALE)

    return Ways(ours, _stock(synthesizer, prompts, negatives, pictures), _bare(synthesizer, batch, pictures))


def _turn(synthesizer: Synthesizer, ways: Ways) -> Turn:
    with _timed(synthesizer) as inside:
        ours = _seconds(ways.ours)
    return Turn(ours, _seconds(ways.stock), _seconds(ways.bare), inside.seconds)


def compare(turns: list[dict[int, Turn]]) -> tuple[list[dict[str, Any]], float]:
    """A row a batch, and how many times the pictures a second of the smallest batch the largest makes."""
    few, many = min(turns[0]), max(turns[0])
    gain = statistics.median(many / few * turn[few].ours / turn[many].ours for turn in turns)
    return [_row(batch, [turn[batch] for turn in turns]) for batch in turns[0]], gain


def _row(batch: int, turns: list[Turn]) -> dict[str, Any]:
    ours = statistics.median(turn.ours for turn in turns)
    return {
        "batch": batch,
        "ms_a_picture": round(ours * 1e3 / batch, 1),
        "pictures_a_second": round(batch / ours, 3),
        "outside": round(statistics.median(1 - turn.inside / turn.ours for turn in turns), 4),
        "ours_over_bare": round(statistics.median(turn.ours / turn.bare - 1 for turn in turns), 4),
        "stock_over_bare": round(statistics.median(turn.stock / turn.bare - 1 for turn in turns), 4),
    }


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _stock(synthesizer: Synthesizer, prompts: list[str], negatives: list[str], pictures: Tensor) -> Callable[[], None]:
    from diffusers import StableDiffusionControlNetPipeline

    pipeline: Any = StableDiffusionControlNetPipeline(
        **synthesizer.pipeline.components, controlnet=synthesizer.controlnets["depth"], requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    image = pictures.permute(0, 3, 1, 2).float() / 255

    def call() -> None:
        pipeline(
            prompt=prompts, negative_prompt=negatives, image=image, num_inference_steps=STEPS, guidance_scale=SCALE,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))], output_type="pt",
        )  # fmt: skip

    return call


def _bare(synthesizer: Synthesizer, batch: int, pictures: Tensor) -> Callable[[], None]:
    """ControlNet, UNet and decoder, called as the stock pipeline calls them, with nothing between."""
    unet, vae, controlnet = synthesizer.pipeline.unet, synthesizer.pipeline.vae, synthesizer.controlnets["depth"]
    latents = torch.randn(2 * batch, 4, 8, 8)
    words = torch.randn(2 * batch, 77, unet.config.cross_attention_dim)
    image = pictures.permute(0, 3, 1, 2).float().repeat(2, 1, 1, 1) / 255
    times = torch.linspace(900, 1, STEPS).long()

    @torch.inference_mode()
    def call() -> None:
        for moment in times:
            down, middle = controlnet(latents, moment, words, image, return_dict=False)
            unet(
                latents, moment, words, down_block_additional_residuals=down, mid_block_additional_residual=middle,
                return_dict=False,
            )  # fmt: skip
        vae.decode(latents[:batch], return_dict=False)

    return call


class _Inside:
    """Seconds inside any of some modules; a module inside another is not counted twice."""

    def __init__(self):
        self.seconds, self._depth, self._since = 0.0, 0, 0.0

    def enter(self, *_: Any) -> None:
        if self._depth == 0:
            self._since = time.process_time()
        self._depth += 1

    def leave(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.process_time() - self._since


@contextmanager
def _timed(synthesizer: Synthesizer):
    pipeline, inside = synthesizer.pipeline, _Inside()
    networks: list[nn.Module] = [pipeline.unet, *synthesizer.controlnets.values()]
    modules = [pipeline.text_encoder, pipeline.vae.decoder, pipeline.vae.post_quant_conv, *networks]
    modules += [part for network in networks for part in (network.time_proj, network.time_embedding)]
    modules += [network.controlnet_cond_embedding for network in synthesizer.controlnets.values()]
    hooks = [module.register_forward_pre_hook(inside.enter) for module in modules]
    hooks += [module.register_forward_hook(inside.leave) for module in modules]
    try:
        yield inside
    finally:
        for hook in hooks:
            hook.remove()


def _print(rows: list[dict[str, Any]], gain: float) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = ("batch", "ms a picture", "outside the modules", "ours over bare", "stock over bare")
    table = Table(*columns, title=f"SD 1.5's layout, tiny: {STEPS} steps, one ControlNet, CPU time")
    for row in rows:
        shares = (f"{row[name]:+.1%}" for name in ("outside", "ours_over_bare", "stock_over_bare"))
        table.add_row(str(row["batch"]), f"{row['ms_a_picture']:.0f}", *shares)
    Console().print(table)
    Console().print(f"a batch of {BATCHES[-1]} makes {gain:.1f} times the pictures a second of a batch of {BATCHES[0]}")
