"""What our denoising loop costs beside the networks that it calls, and what a batch gains. SD 1.5's layout, tiny.

The layout is that of Stable Diffusion 1.5 (four levels of two layers, attention on three, one ControlNet) at 32 and 64
channels and pictures of 64 px, because what is measured is what Python and PyTorch's dispatch cost, which at full size
on a GPU hides behind the kernels. Times are process CPU time of one thread; the three ways take turns.
"""

import logging
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

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

    "outside": of our call, the share of time outside the modules of the pipeline (text tower, ControlNet, UNet,
    decoder and the parts of them that are computed beforehand). "ours over bare" and "stock over bare": our call and
    diffusers' own over the bare modules, called as often as the stock pipeline calls them; ours can be below 0, for
    it calls some parts less often.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_row(batch, repeats) for batch in BATCHES]
    finally:
        torch.set_num_threads(threads)
    gain = rows[-1]["pictures_a_second"] / rows[0]["pictures_a_second"]
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


def _row(batch: int, repeats: int) -> dict[str, Any]:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(vocabulary(), 77)
    pipeline, controlnet = build_pipeline(tiny("sd15", vocabulary=len(tokenizer)), tokenizer)
    synthesizer = Synthesizer(pipeline, {"depth": controlnet})
    prompts, negatives = [f"a man, {index} hats" for index in range(batch)], ["back view"] * batch
    pictures = torch.randint(256, (batch, 64, 64, 3), dtype=torch.uint8)

    def ours() -> None:
        synthesizer.texts.forget()
        synthesizer.generate(prompts, negatives, {"depth": pictures}, range(batch), STEPS, SCALE)

    ways = {
        "ours": ours,
        "stock": _stock(synthesizer, prompts, negatives, pictures),
        "bare": _bare(synthesizer, batch, pictures),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    outside = []
    for turn in range(repeats + 1):
        with _timed(synthesizer) as inside:
            seconds = _seconds(ways["ours"])
        spent = {"ours": seconds, "stock": _seconds(ways["stock"]), "bare": _seconds(ways["bare"])}
        if turn:  # the first warms up
            outside.append(1 - inside.seconds / seconds)
            for name, each in spent.items():
                times[name].append(each)
    middle = {name: statistics.median(each) for name, each in times.items()}
    over = {
        name: statistics.median(one / bare - 1 for one, bare in zip(times[name], times["bare"], strict=True))
        for name in ("ours", "stock")
    }
    return {
        "batch": batch,
        "ms_a_picture": round(middle["ours"] * 1e3 / batch, 1),
        "pictures_a_second": round(batch / middle["ours"], 3),
        "outside": round(statistics.median(outside), 4),
        "ours_over_bare": round(over["ours"], 4),
        "stock_over_bare": round(over["stock"], 4),
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
