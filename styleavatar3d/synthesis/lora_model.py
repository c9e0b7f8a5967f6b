"""A diffusion model with low-rank adapters (LoRA, arXiv 2106.09685) on some of its layers, as training sees it.

The adapters are those of `peft`, hung in by diffusers' and transformers' own support, so what is saved is what any
diffusers pipeline loads. Their scale is 1 (alpha = rank), for a file then needs no number beside its weights.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from styleavatar3d.errors import StyleAvatarError, require

Target = Literal["attention", "feed_forward", "convolution", "text"]
Latents = Float[Tensor, "batch channel height width"]

UNET_LAYERS: dict[Target, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    "convolution": ("conv1", "conv2"),
}
"""The layers of each target, by the ends of their names: of attention blocks, and of residual blocks."""
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
TOWERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


def add_adapters(pipeline: Any, rank: int, targets: Sequence[Target], seed: int) -> None:
    """Freeze the pipeline and hang new adapters into it; those alone learn, in float32. Drawn from `seed`."""
    peft = require("peft", "lora")
    layers = [layer for target in targets for layer in UNET_LAYERS.get(target, ())]
    wanted = {"unet": layers} | dict.fromkeys(_towers(pipeline) if "text" in targets else (), list(TEXT_LAYERS))
    for part in ("unet", "vae", *_towers(pipeline)):
        getattr(pipeline, part).requires_grad_(False).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part, names in wanted.items():
            if names:
                adapter = peft.LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=names)
                getattr(pipeline, part).add_adapter(adapter)
    for parameter in adapter_weights(pipeline).values():
        parameter.data = parameter.data.float()


def adapter_weights(pipeline: Any) -> dict[str, nn.Parameter]:
    """What learns, by part and name."""
    return {
        f"{part}.{name}": parameter
        for part in ("unet", *_towers(pipeline))
        for name, parameter in getattr(pipeline, part).named_parameters()
        if parameter.requires_grad
    }


def stock_weights(pipeline: Any) -> dict[str, dict[str, Tensor]]:
    """The adapters by part, under the names of diffusers' LoRA files: arguments of its `save_lora_weights`.

    The UNet's keep peft's names, all of them: diffusers' converter renames those of attention only, and its loader,
    which judges by the first name, then passes over one kind or the other.
    """
    from diffusers.utils import convert_state_dict_to_diffusers

    peft = require("peft", "lora")
    parts = sorted({name.partition(".")[0] for name in adapter_weights(pipeline)})
    found = {part: peft.get_peft_model_state_dict(getattr(pipeline, part)) for part in parts}
    return {
        f"{part}_lora_layers": weights if part == "unet" else convert_state_dict_to_diffusers(weights)
        for part, weights in found.items()
    }


def predict(
    pipeline: Any, noisy: Latents, times: Int[Tensor, "batch"], prompts: Sequence[str], sizes: Float[Tensor, "batch 6"]
) -> Latents:
    """What the UNet says of noisy latents. `sizes` are SDXL's: original, corner of the crop, target; height first."""
    states, pooled = read_prompts(pipeline, prompts)
    added = {} if pooled is None else {"text_embeds": pooled, "time_ids": sizes.to(states)}
    return pipeline.unet(noisy.to(pipeline.unet.dtype), times, states, added_cond_kwargs=added).sample.float()


def read_prompts(pipeline: Any, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Prompts as `texts.TextEncoder` reads them, with gradients: states, and of SDXL also the pooled words."""
    towers = [getattr(pipeline, name) for name in _towers(pipeline)]
    tokenizers = [getattr(pipeline, TOWERS[name]) for name in _towers(pipeline)]
    tokens = [_tokens(tokenizer, prompts, pipeline.device) for tokenizer in tokenizers]
    if len(towers) == 1:
        mask = tokens[0].attention_mask if getattr(towers[0].config, "use_attention_mask", False) else None
        return towers[0](tokens[0].input_ids, attention_mask=mask)[0], None
    read = [tower(some.input_ids, output_hidden_states=True) for tower, some in zip(towers, tokens, strict=True)]
    return torch.cat([each.hidden_states[-2] for each in read], -1), read[1][0]


def add_noise(
    scheduler: Any, latents: Latents, source: torch.Generator
) -> tuple[Latents, Latents, Int[Tensor, "batch"]]:
    """Noisy latents at even times, what is to be predicted of them, and the times; by the scheduler's own config.

    What is predicted is the noise, the velocity (arXiv 2202.00512, appendix D) or the picture.
    """
    kept = getattr(scheduler, "alphas_cumprod", None)
    if kept is None:
        raise StyleAvatarError("this scheduler has no noise to train with", got=type(scheduler).__name__)
    times = torch.randint(len(kept), (len(latents),), generator=source)
    noise = torch.randn(latents.shape, generator=source).to(latents)
    share = kept.cpu()[times].to(latents)[:, None, None, None]
    signal, amount = share.sqrt(), (1 - share).sqrt()
    targets = {"epsilon": noise, "v_prediction": signal * noise - amount * latents, "sample": latents}
    if (kind := scheduler.config.prediction_type) not in targets:
        raise StyleAvatarError("this kind of prediction is not known", got=kind, expected=", ".join(targets))
    return signal * latents + amount * noise, targets[kind], times.to(latents.device)


@torch.no_grad()
def encode(vae: Any, pictures: Float[Tensor, "batch 3 tall wide"]) -> tuple[Latents, Latents]:
    """Mean and spread of the latents of pictures in [-1, 1], at the UNet's scale; the spread of a plain code is 0."""
    encoded = vae.encode(pictures.to(vae.device, vae.dtype))
    if "latent_dist" not in encoded:
        mean = encoded.latents.float() * vae.config.scaling_factor
        return mean, torch.zeros_like(mean)
    found = encoded.latent_dist
    return found.mean.float() * vae.config.scaling_factor, found.std.float() * vae.config.scaling_factor


def draw(pipeline: Any, prompts: Sequence[str], seeds: Sequence[int], size: int, steps: int, scale: float) -> Latents:
    """Latents that the stock pipeline draws for these prompts, without guidance pictures; one seed each."""
    pipeline.set_progress_bar_config(disable=True)
    drawn = [
        pipeline(
            prompt=prompt, height=size, width=size, num_inference_steps=steps, guidance_scale=scale,
            generator=torch.Generator().manual_seed(seed), output_type="latent",
        ).images.float()
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]  # fmt: skip
    return torch.cat(drawn)


@torch.no_grad()
def decode(vae: Any, latents: Latents) -> Float[Tensor, "batch 3 tall wide"]:
    """Pictures in [-1, 1] of latents at the UNet's scale."""
    decoded = [vae.decode(one.to(vae.dtype) / vae.config.scaling_factor).sample.float() for one in latents.split(1)]
    return torch.cat(decoded).clamp(-1, 1)


@contextmanager
def without_adapters(pipeline: Any):
    """Inside, the pipeline is the base model."""
    pipeline.disable_lora()
    try:
        yield
    finally:
        pipeline.enable_lora()


def _towers(pipeline: Any) -> list[str]:
    return [name for name in TOWERS if getattr(pipeline, name, None) is not None]


def _tokens(tokenizer: Any, prompts: Sequence[str], device: Any) -> Any:
    options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    return tokenizer(list(prompts), return_tensors="pt", **options).to(device)
