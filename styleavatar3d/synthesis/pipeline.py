"""The diffusion model: any `StableDiffusionControlNetPipeline` folder, one seed a picture."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.schema import Model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PipelineConfig(Strict):
    """`folder` is a path, or a path inside the shipped data.

    `device` "auto" takes the GPU where there is one, `dtype` "auto" bfloat16 where the device computes in it.
    """

    folder: str = "data/miniature/diffusion"
    revision: str = "main"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class Synthesizer:
    """A loaded pipeline. Pictures are made by diffusers' own call."""

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self.pipeline.set_progress_bar_config(disable=True)
        control = self.pipeline.controlnet
        control.controlnet_cond_embedding = _Once(control.controlnet_cond_embedding)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto", dtype: str = "auto") -> "Synthesizer":
        """Load a diffusers folder; StyleAvatarError if it is none."""
        path = find_folder(folder)
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its notes are about parts that are not used here
        from diffusers import StableDiffusionControlNetPipeline
        from diffusers.utils.logging import disable_progress_bar as no_bar_of_diffusers
        from transformers.utils.logging import disable_progress_bar as no_bar_of_transformers

        no_bar_of_diffusers()
        no_bar_of_transformers()
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            pipeline = StableDiffusionControlNetPipeline.from_pretrained(
                str(path), dtype=_DTYPES.get(dtype) or fast_dtype(device), safety_checker=None, local_files_only=True
            )
        except Exception as error:  # diffusers raises many kinds on damaged folders
            raise StyleAvatarError(
                f"the diffusion model cannot be loaded: {error}",
                got=str(path),
                expected="a StableDiffusionControlNetPipeline folder with safetensors weights",
            ) from error
        return cls(pipeline.to(device))

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        guidance: UInt8[Tensor, "batch height width 3"],
        seeds: Sequence[int],
        steps: int,
        scale: float,
        control: float = 1.0,
    ) -> UInt8[Tensor, "batch height width 3"]:
        """One picture a prompt, posed by its guidance.

        Args:
            seeds: one a picture; the noise depends on nothing else
            steps: denoising steps
            scale: classifier-free guidance
            control: strength of the ControlNet
        """
        result = self.pipeline(
            prompt=list(prompts),
            negative_prompt=list(negatives),
            image=guidance.permute(0, 3, 1, 2).float() / 255,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=steps,
            guidance_scale=scale,
            controlnet_conditioning_scale=control,
            output_type="pt",
        )
        images = result.images.float().clamp(0, 1) * 255
        return images.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where it is computed natively (twice as fast as float32 there), else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


class _Once(torch.nn.Module):
    """Embeds a guidance picture once a call and not once a step: the pipeline shows the same tensor at every step."""

    def __init__(self, embedding: torch.nn.Module):
        super().__init__()
        self.embedding = embedding
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, conditioning: Tensor) -> Tensor:
        if self._last is None or self._last[0] is not conditioning:
            self._last = conditioning, self.embedding(conditioning)
        return self._last[1]


def find_folder(folder: str | Path) -> Path:
    """`folder` as given, or inside the shipped data; StyleAvatarError if no diffusers pipeline is there."""
    for path in (Path(folder), assets() / folder):
        if (path / "model_index.json").is_file():
            return path
    raise StyleAvatarError(
        "there is no diffusion model",
        got=str(folder),
        expected="a diffusers folder with model_index.json",
        remedy="`styleavatar3d train miniature` makes one, or give model.folder",
    )


def describe(config: PipelineConfig) -> Model:
    """Which weights these are: sha256 over all of the folder's safetensors, licence from its model card."""
    path = find_folder(config.folder)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.safetensors")):
        digest.update(str(file.relative_to(path)).encode())
        digest.update(file.read_bytes())
    card = path / "README.md"
    stated = re.search(r"^license:\s*(\S+)", card.read_text(), re.MULTILINE) if card.is_file() else None
    licence = stated[1] if stated else "not stated"
    return Model(id=Path(config.folder).name, revision=config.revision, sha256=digest.hexdigest(), licence=licence)
