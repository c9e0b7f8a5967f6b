"""Tiny random pipelines of every family, and the pictures that diffusers' own pipelines make with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleavatar3d.encoders.tokenizer import build_tokenizer
from styleavatar3d.shards.schema import Guidance
from styleavatar3d.synthesis.families import build_pipeline, tiny
from styleavatar3d.synthesis.pipeline import Synthesizer

WORDS = ["a man woman robot with red blue hair in clay style front back view no face"]
PROMPTS = ["a man with red hair, front view", "a robot in clay style, back view"]
NEGATIVES = ["back view", "a face"]
KINDS = ("depth", "keypoints")


def make_folder(name: str, folder: Path) -> Path:
    """A pipeline folder of the family with a ControlNet a kind inside, as any diffusers pipeline is saved."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS, 16)
    pipeline, _ = build_pipeline(tiny(name, vocabulary=len(tokenizer)), tokenizer)
    pipeline.save_pretrained(folder)
    for kind in KINDS:
        _, controlnet = build_pipeline(tiny(name, vocabulary=len(tokenizer)), tokenizer)
        controlnet.save_pretrained(folder / "controlnets" / kind)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\nRandom weights.\n")
    return folder


def pictures(count: int = 2, seed: int = 1) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {kind: torch.randint(256, (count, 64, 64, 3), dtype=torch.uint8, generator=draw) for kind in KINDS}


def stock_pictures(
    synthesizer: Synthesizer,
    seeds: Sequence[int],
    steps: int,
    scale: float,
    guidance: Sequence[Guidance],
    negatives: Sequence[str] | None = NEGATIVES,
    start: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """uint8 [batch, height, width, 3] by `StableDiffusion(XL)ControlNet(Img2Img)Pipeline` with the same parts."""
    shown = [pictures()[one.kind].permute(0, 3, 1, 2).float() / 255 for one in guidance]
    posed: dict[str, Any] = {"image": shown}
    if start is not None:
        begun = start.permute(0, 3, 1, 2).float() / 255
        posed = {"image": begun, "control_image": shown, "strength": strength}
    made = _stock(synthesizer, guidance, start is not None)(
        prompt=PROMPTS, negative_prompt=negatives, **posed,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds], num_inference_steps=steps,
        guidance_scale=scale, controlnet_conditioning_scale=[one.scale for one in guidance],
        control_guidance_start=[one.start for one in guidance], control_guidance_end=[one.end for one in guidance],
        output_type="pt",
    ).images  # fmt: skip
    return (made.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _stock(synthesizer: Synthesizer, guidance: Sequence[Guidance], from_picture: bool) -> Any:
    import diffusers
    from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

    large = synthesizer.texts.two
    name = f"StableDiffusion{'XL' if large else ''}ControlNet{'Img2Img' if from_picture else ''}Pipeline"
    networks = MultiControlNetModel([synthesizer.controlnets[one.kind] for one in guidance])
    parts = dict(synthesizer.pipeline.components)
    if large:
        parts |= {"add_watermarker": False}
    else:
        parts |= {"requires_safety_checker": False}
    pipeline = getattr(diffusers, name)(**parts, controlnet=networks)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
