"""Train a LoRA: about ten pictures of one character or style teach a diffusion model a word for it.

StyleAvatar3D's characters (arXiv 2305.19012): the LoRA takes the place of the style in the prompts of a synthesis, all
else stays as it is. `model.loras` of a synthesis names what is written here, its prompts say the trigger words.
The same call starts a run and resumes it; every draw is a function of (seed, pictures seen).
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from styleavatar3d.config import save_config
from styleavatar3d.encoders.prompts import unknown_words
from styleavatar3d.errors import ConfigError, Stopped, StyleAvatarError
from styleavatar3d.runtime.checkpoint import Checkpoint, Checkpoints, StopSignal, load_optimizer, optimizer_tensors
from styleavatar3d.runtime.media import grid, png, to_uint8
from styleavatar3d.runtime.random import key
from styleavatar3d.runtime.storage import Storage
from styleavatar3d.runtime.tracking import Progress, Tracker
from styleavatar3d.shards.schema import Model
from styleavatar3d.synthesis import loading
from styleavatar3d.synthesis.lora_card import save_lora
from styleavatar3d.synthesis.lora_config import LoraConfig, LoraTrain
from styleavatar3d.synthesis.lora_lessons import Lessons
from styleavatar3d.synthesis.lora_model import adapter_weights, add_adapters, decode, draw, without_adapters
from styleavatar3d.synthesis.lora_pictures import Example, read_examples
from styleavatar3d.synthesis.sources import CONTROLNETS, Source, describe_weights

__all__ = ["LoraConfig", "train"]


def train(config: LoraConfig) -> dict[str, Any]:
    """Train or go on; write log, checkpoints, `sheet.png` and `weights/` under `run.out`. Returns a summary.

    Raises:
        StyleAvatarError: pictures, captions or base model cannot be used (nothing was written then), or the loss is
            no number; the checkpoint before it is kept
        Stopped: after a checkpoint, on SIGTERM or Ctrl-C
    """
    began, storage, recipe = time.monotonic(), Storage.open(config.run.out), config.train
    examples, (pipeline, base) = read_examples(config.data), load_base(config)
    check_words(pipeline, config, examples)
    identity = config.identity(base, examples)
    checkpoints = Checkpoints(storage)
    checkpoint = resumable(checkpoints, identity)
    lessons = Lessons(pipeline, config, examples, storage)
    prepare(pipeline, config)
    weights, optimizer = adapter_weights(pipeline), make_optimizer(pipeline, recipe)
    seen = restore(checkpoint, weights, optimizer)
    storage.publish("config.yaml", save_config(config).encode())
    tracker = Tracker(config.track, storage, config.model_dump(mode="json"), seen)
    progress, saved = Progress("lora", recipe.images, seen, config.track.seconds), time.monotonic()
    with StopSignal() as stop:
        while seen < recipe.images:
            factor = rate_factor(seen, recipe)
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * factor
            loss = lessons.loss(seen)
            if not torch.isfinite(loss):
                raise StyleAvatarError(
                    f"the loss is {loss.item()} at {seen} pictures",
                    remedy="lower --train.learning_rate, or use --train.precision fp32",
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights.values(), 1.0)
            optimizer.step()
            seen += recipe.batch
            progress.add({"loss": loss.item()})
            ended = seen >= recipe.images
            if progress.due() or ended:
                tracker.report(seen, progress.line(seen))
            if ended or stop.requested or time.monotonic() - saved > recipe.checkpoint_seconds:
                checkpoints.save(seen, state(weights, optimizer), {"identity": identity})
                saved = time.monotonic()
                tracker.flush()
            if stop.requested and not ended:
                raise Stopped(f"stopped after {seen} pictures", remedy="the same command goes on from there")
    made = save_lora(pipeline, config, base, examples, seen, identity)
    if recipe.samples:
        tracker.picture("sheet.png", png(sheet(pipeline, config, examples)))
    tracker.close()
    seconds = round(time.monotonic() - began, 1)
    return {"out": f"{storage.url}/weights", "trigger": config.data.trigger, "images": seen, "seconds": seconds, **made}


def load_base(config: LoraConfig) -> tuple[Any, Model]:
    """The pipeline in float32 on the device, without ControlNets, and what it is."""
    model = config.model
    source = {name: getattr(model, name) for name in ("folder", "revision", "variant", "offline")}
    path = loading.find_pipeline(loading.PipelineConfig(**source))
    with loading.quiet():
        pipeline, _ = loading.load_networks(path, {}, torch.float32, model.variant)
    if config.data.resolution % pipeline.vae_scale_factor:
        raise StyleAvatarError(
            "the resolution does not fit the model", got=config.data.resolution,
            expected=f"a multiple of {pipeline.vae_scale_factor}",
        )  # fmt: skip
    device = ("cuda" if torch.cuda.is_available() else "cpu") if model.device == "auto" else model.device
    pipeline.to(device)
    known = Source(model.folder, model.revision, model.variant)
    return pipeline, describe_weights(known, path, apart=CONTROLNETS)


def check_words(pipeline: Any, config: LoraConfig, examples: Sequence[Example]) -> None:
    """Raise unless the tokenizer tells the trigger from other words, and no prompt loses it to the length limit."""
    tokenizer, trigger = pipeline.tokenizer, config.data.trigger
    if unknown := unknown_words(tokenizer, trigger):
        raise StyleAvatarError(
            "the model cannot read the trigger", got=", ".join(unknown), expected="words of its vocabulary",
            remedy="choose a word that it knows and that your prompts do not use, with --data.trigger",
        )  # fmt: skip
    longest = tokenizer.model_max_length
    for one in examples:
        if len(tokens := tokenizer(one.prompt).input_ids) > longest:
            raise StyleAvatarError(
                "a prompt is too long for the model", got=f"{one.name}: {len(tokens)} tokens: {one.prompt}",
                expected=f"at most {longest} tokens", remedy="shorten its caption",
            )  # fmt: skip


def prepare(pipeline: Any, config: LoraConfig) -> None:
    """Hang in the adapters, and bring what is frozen to the precision that it is computed in."""
    if config.train.precision == "bf16":
        for part in ("unet", "text_encoder", "text_encoder_2"):
            if (network := getattr(pipeline, part, None)) is not None:
                with loading.quiet():
                    network.to(torch.bfloat16)
    if config.train.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    seed = key(config.run.seed, "lora adapters")
    add_adapters(pipeline, config.model.rank, config.model.targets, seed)


def make_optimizer(pipeline: Any, recipe: LoraTrain) -> torch.optim.AdamW:
    """One group of parameters for the UNet and one for the text towers, each with its full rate."""
    weights = adapter_weights(pipeline)
    of_unet = [weight for name, weight in weights.items() if name.startswith("unet.")]
    of_text = [weight for name, weight in weights.items() if not name.startswith("unet.")]
    rates = ((of_unet, recipe.learning_rate), (of_text, recipe.text_learning_rate))
    groups = [{"params": params, "full_rate": rate} for params, rate in rates if params]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)


def rate_factor(seen: int, recipe: LoraTrain) -> float:
    """The share of the full learning rate after `seen` pictures."""
    warm = min(1.0, (seen + recipe.batch) / max(recipe.warmup, 1))
    return warm * 0.5 * (1 + math.cos(math.pi * min(seen / recipe.images, 1.0)))


def state(weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that training changes."""
    return {f"adapter.{name}": weight for name, weight in weights.items()} | optimizer_tensors(optimizer, "optimizer")


def resumable(checkpoints: Checkpoints, identity: str) -> Checkpoint | None:
    """The run's latest checkpoint, or None. ConfigError if it is of other pictures, another base or recipe."""
    checkpoint = checkpoints.latest()
    if checkpoint and checkpoint.scalars["identity"] != identity:
        raise ConfigError(
            f"{checkpoints.storage.url} holds a LoRA of other pictures, another model or another recipe",
            remedy="use the pictures and the config it was started with, or another --run.out",
        )
    return checkpoint


@torch.no_grad()
def restore(checkpoint: Checkpoint | None, weights: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Go back to a checkpoint; returns the pictures seen."""
    if checkpoint is None:
        return 0
    for name, weight in weights.items():
        weight.copy_(checkpoint.tensors[f"adapter.{name}"])
    load_optimizer(optimizer, checkpoint.tensors, "optimizer")
    return checkpoint.position


def sheet(pipeline: Any, config: LoraConfig, examples: Sequence[Example]) -> Tensor:
    """Pictures, and below each what its prompt gives without and with the LoRA, from the same noise."""
    shown = examples[: config.train.samples]
    seeds = [key(config.run.seed, "lora sheet", index) for index in range(len(shown))]
    arguments = (pipeline, [one.prompt for one in shown], seeds, config.data.resolution, 20, 4.0)
    with torch.autocast(pipeline.device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
        with without_adapters(pipeline):
            before = draw(*arguments)
        after = draw(*arguments)
    rows = [torch.stack([one.pixels for one in shown])]
    rows += [to_uint8(decode(pipeline.vae, latents)) for latents in (before, after)]
    return grid(torch.cat(rows), len(shown), max(1, 256 // config.data.resolution))
