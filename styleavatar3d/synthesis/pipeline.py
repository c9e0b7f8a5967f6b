"""The diffusion model: any `StableDiffusionPipeline` folder, a ControlNet a kind of guidance, one seed a picture."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

from styleavatar3d.assets import assets
from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.shards.schema import Guidance, Model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PipelineConfig(Strict):
    """`folder` is a path, or a path inside the shipped data.

    `controlnets` maps a kind of guidance to a ControlNet's folder; by default they are those of `folder/controlnets`.
    `device` "auto" takes the GPU where there is one, `dtype` "auto" bfloat16 where the device computes in it.
    """

    folder: str = "data/miniature/diffusion"
    controlnets: dict[str, str] = Field(default_factory=dict)
    revision: str = "main"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class Synthesizer:
    """A loaded pipeline and its ControlNets, by kind of guidance. Pictures are made by diffusers' own call."""

    def __init__(self, pipeline: Any, controlnets: Mapping[str, Any]):
        self.pipeline, self.controlnets = pipeline, dict(controlnets)
        self.pipeline.set_progress_bar_config(disable=True)
        for network in self.controlnets.values():
            network.controlnet_cond_embedding = _Once(network.controlnet_cond_embedding)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str = "auto", dtype: str = "auto", controlnets: Mapping[str, str] | None = None
    ) -> "Synthesizer":
        """Load a diffusers folder; StyleAvatarError if it is none."""
        path = find_folder(folder)
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its notes are about parts that are not used here
        from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
        from diffusers.utils import logging
        from transformers.utils.logging import disable_progress_bar as no_bar_of_transformers

        logging.disable_progress_bar()
        no_bar_of_transformers()
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # it warns of every autoencoder that is not the usual one
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        number = _DTYPES.get(dtype) or fast_dtype(device)
        try:
            networks = {
                kind: ControlNetModel.from_pretrained(str(place), torch_dtype=number, local_files_only=True)
                for kind, place in find_controlnets(path, controlnets or {}).items()
            }
            pipeline = StableDiffusionControlNetPipeline.from_pretrained(
                str(path), controlnet=list(networks.values()), dtype=number, safety_checker=None, local_files_only=True
            )
        except Exception as error:  # diffusers raises many kinds on damaged folders
            raise StyleAvatarError(
                f"the diffusion model cannot be loaded: {error}",
                got=str(path),
                expected="a StableDiffusionPipeline folder and ControlNet folders with safetensors weights",
            ) from error
        finally:
            logging.set_verbosity(verbosity)
        return cls(pipeline.to(device), networks)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        pictures: Mapping[str, UInt8[Tensor, "batch height width 3"]],
        seeds: Sequence[int],
        steps: int,
        scale: float,
        guidance: Sequence[Guidance] = (),
    ) -> UInt8[Tensor, "batch height width 3"]:
        """One picture a prompt, posed by its guidance.

        Args:
            pictures: what the ControlNets look at, by kind
            seeds: one a picture; the noise depends on nothing else
            steps: denoising steps
            scale: classifier-free guidance
            guidance: which ControlNets take part, how strongly and when; by default all of `pictures`, at full strength
        """
        guidance = guidance or [Guidance(kind=kind, scale=1.0) for kind in pictures]
        result = self.pipeline_for([one.kind for one in guidance])(
            prompt=list(prompts),
            negative_prompt=list(negatives),
            image=[pictures[one.kind].permute(0, 3, 1, 2).float() / 255 for one in guidance],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=steps,
            guidance_scale=scale,
            controlnet_conditioning_scale=[one.scale for one in guidance],
            control_guidance_start=[one.start for one in guidance],
            control_guidance_end=[one.end for one in guidance],
            output_type="pt",
        )
        images = result.images.float().clamp(0, 1) * 255
        return images.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()

    def pipeline_for(self, kinds: Sequence[str]) -> Any:
        """The pipeline with the ControlNets of these kinds of guidance, in this order."""
        from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

        if unknown := [kind for kind in kinds if kind not in self.controlnets]:
            raise StyleAvatarError(
                "there is no ControlNet for this guidance",
                got=", ".join(unknown),
                expected=f"one of {', '.join(self.controlnets)}",
                remedy="name its folder in model.controlnets",
            )
        self.pipeline.controlnet = MultiControlNetModel([self.controlnets[kind] for kind in kinds])
        return self.pipeline


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


def find_controlnets(path: Path, asked: Mapping[str, str]) -> dict[str, Path]:
    """Folders of ControlNets by kind: those asked for, or those inside the pipeline's own folder."""
    if asked:
        return {kind: next((p for p in (Path(f), assets() / f) if p.is_dir()), Path(f)) for kind, f in asked.items()}
    found = sorted(folder for folder in (path / "controlnets").glob("*") if folder.is_dir())
    if not found:
        raise StyleAvatarError(
            "the diffusion model has no ControlNet",
            got=str(path),
            expected=f"folders named by the kind of guidance in {path / 'controlnets'}",
            remedy="name the ControlNets' folders in model.controlnets",
        )
    return {folder.name: folder for folder in found}


def describe(config: PipelineConfig) -> Model:
    """Which weights these are: sha256 over all of the folder's safetensors, licence from its model card."""
    path = find_folder(config.folder)
    elsewhere = find_controlnets(path, config.controlnets).values() if config.controlnets else ()
    digest = hashlib.sha256()
    for folder in (path, *elsewhere):
        for file in sorted(folder.rglob("*.safetensors")):
            digest.update(str(file.relative_to(folder)).encode())
            digest.update(file.read_bytes())
    card = path / "README.md"
    stated = re.search(r"^license:\s*(\S+)", card.read_text(), re.MULTILINE) if card.is_file() else None
    licence = stated[1] if stated else "not stated"
    return Model(id=Path(config.folder).name, revision=config.revision, sha256=digest.hexdigest(), licence=licence)
