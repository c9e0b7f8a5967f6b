"""From a config to a loaded pipeline, and to the list of weights that it names."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.attention import Attention
from styleavatar3d.shards.schema import Model
from styleavatar3d.synthesis.adapters import LoraConfig, load_embeddings, load_loras, one_file
from styleavatar3d.synthesis.families import check_family
from styleavatar3d.synthesis.samplers import find_scheduler
from styleavatar3d.synthesis.sources import CONTROLNETS, Source, describe_weights

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CLASSES: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
}


class PipelineConfig(Strict):
    """Weights and how they are computed with. A source is a path, a path in the shipped data, or a pinned hub id."""

    folder: str = "data/miniature/diffusion"
    """source of the pipeline"""
    revision: str = "main"
    """commit of `folder` where that is a hub id"""
    family: Literal["", "sd15", "sd21", "sdxl"] = ""
    """the public architecture it has, if one of these: for its size and memory without its weights; else an error"""
    variant: str = ""
    """of the files in a hub repository, such as fp16"""
    controlnets: dict[str, str] = Field(default_factory=dict)
    """kind of guidance to the source of its ControlNet; by default those of `folder/controlnets`"""
    loras: dict[str, LoraConfig] = Field(default_factory=dict)
    embeddings: dict[str, str] = Field(default_factory=dict)
    """words that prompts may use to the sources of their textual inversions"""
    scheduler: str = ""
    """a name of `samplers.SCHEDULERS`; by default the model's own"""
    device: str = "auto"
    """the GPU where there is one"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """bfloat16 where the device computes in it"""
    attention: Attention = "sdpa"
    vae_slicing: bool = False
    """decode one picture at a time: less memory"""
    offline: bool = False
    """look for hub ids in the cache of this machine only"""


def load_parts(config: PipelineConfig) -> tuple[Any, dict[str, Any]]:
    """The pipeline and its ControlNets by kind, with LoRAs, embeddings and scheduler, on the device, ready to draw.

    Raises:
        StyleAvatarError: something is not there, is damaged, or does not fit the others
    """
    path = find_pipeline(config)
    places = {kind: place for kind, (_, place) in find_controlnets(path, config).items()}
    device = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    number = _DTYPES.get(config.dtype) or fast_dtype(device)
    with quiet():
        pipeline, networks = load_networks(path, places, number, config.variant)
        if config.family:
            check_family(config.family, pipeline.unet.config)
        load_loras(pipeline, config.loras, config.offline)
        load_embeddings(pipeline, config.embeddings, config.offline)
    if config.scheduler:
        pipeline.scheduler = find_scheduler(config.scheduler, pipeline.scheduler.config)
    if config.vae_slicing:
        pipeline.vae.enable_slicing()
    pipeline.to(device)
    if number == torch.float16 and hasattr(pipeline, "upcast_vae") and pipeline.vae.config.force_upcast:
        pipeline.vae.to(torch.float32)  # SDXL's decoder overflows in float16
    return pipeline, {kind: network.to(device) for kind, network in networks.items()}


def load_networks(
    path: Path, places: Mapping[str, Path], number: torch.dtype, variant: str
) -> tuple[Any, dict[str, Any]]:
    """The pipeline and ControlNets of local folders, as they are."""
    import diffusers

    name = _class_of(path)
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        networks = {
            kind: diffusers.ControlNetModel.from_pretrained(
                str(place), dtype=number, variant=_variant(place, variant), **options
            )
            for kind, place in places.items()
        }
        pipeline = getattr(diffusers, name).from_pretrained(
            str(path), dtype=number, variant=variant or None, **options, **_CLASSES[name]
        )
    except Exception as error:  # diffusers raises many kinds on damaged folders
        raise StyleAvatarError(
            f"the diffusion model cannot be loaded: {error}",
            got=str(path),
            expected=f"a {name} folder and ControlNet folders with safetensors weights",
        ) from error
    for kind, network in networks.items():
        _check_fit(kind, network, pipeline.unet)
    return pipeline, networks


def _class_of(path: Path) -> str:
    try:
        name = json.loads((path / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = "no readable model_index.json"
    if name not in _CLASSES:
        raise StyleAvatarError(
            "this is not a pipeline that can be posed", got=f"{name} in {path}", expected=" or ".join(_CLASSES)
        )
    return name


def _variant(place: Path, variant: str) -> str | None:
    """The variant where the ControlNet has it: many have one set of weights only."""
    return variant if variant and any(place.glob(f"*.{variant}*.safetensors")) else None


def _check_fit(kind: str, network: Any, unet: Any) -> None:
    for field in ("cross_attention_dim", "block_out_channels", "in_channels"):
        if network.config[field] != unet.config[field]:
            raise StyleAvatarError(
                f"the ControlNet for {kind} is of another family than the pipeline",
                got=f"{field} {network.config[field]}",
                expected=f"{field} {unet.config[field]}",
                remedy=f"give model.controlnets.{kind} one that was trained for this pipeline's family",
            )
    if network.config.global_pool_conditions:
        raise StyleAvatarError(
            f"the ControlNet for {kind} pools its pictures", got="global_pool_conditions", expected="one that poses"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and without notes about parts that are not used here."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from diffusers.utils import logging
    from transformers.utils import logging as of_towers

    before = [(library, library.get_verbosity()) for library in (logging, of_towers)]
    for library, _ in before:
        library.disable_progress_bar()
        library.set_verbosity_error()  # they warn of every unusual autoencoder, and of every layer that has no LoRA
    try:
        yield
    finally:
        for library, verbosity in before:
            library.set_verbosity(verbosity)


def fast_dtype(device: str) -> torch.dtype:
    """bfloat16 where it is computed natively (twice as fast as float32 there), else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def find_pipeline(config: PipelineConfig) -> Path:
    """The folder of the pipeline; StyleAvatarError if it holds none or cannot be had."""
    path = _base(config).locate(config.offline, parts=True)
    if (path / "model_index.json").is_file():
        return path
    raise StyleAvatarError(
        "there is no diffusion model",
        got=config.folder,
        expected="a diffusers folder with model_index.json",
        remedy="`styleavatar3d train miniature` makes one, or give model.folder",
    )


def find_controlnets(path: Path, config: PipelineConfig) -> dict[str, tuple[Source, Path]]:
    """ControlNets by kind: those asked for, or those inside the pipeline's own folder."""
    if config.controlnets:
        sources = {kind: Source(name, variant=config.variant) for kind, name in config.controlnets.items()}
        return {kind: (source, source.locate(config.offline)) for kind, source in sources.items()}
    found = sorted(folder for folder in (path / CONTROLNETS).glob("*") if folder.is_dir())
    if not found:
        raise StyleAvatarError(
            "the diffusion model has no ControlNet",
            got=str(path),
            expected=f"folders named by the kind of guidance in {path / CONTROLNETS}",
            remedy="name the ControlNets' sources in model.controlnets",
        )
    return {folder.name: (Source(str(folder), config.revision), folder) for folder in found}


def describe_models(config: PipelineConfig) -> list[Model]:
    """All weights that take part: the pipeline, its ControlNets, LoRAs and embeddings, with sha256 and licence."""
    base, path = _base(config), find_pipeline(config)
    models = [describe_weights(base, path, apart=CONTROLNETS)]
    models += [describe_weights(*found) for found in find_controlnets(path, config).values()]
    small = [(Source(lora.source), lora.file) for lora in config.loras.values()]
    small += [(Source(name), "") for name in config.embeddings.values()]
    return models + [describe_weights(each, one_file(each.locate(config.offline), file)) for each, file in small]


def describe(config: PipelineConfig) -> Model:
    """All of `describe_models` as one: the pipeline's name, a sha256 over all weights, every licence."""
    models = describe_models(config)
    digest = hashlib.sha256("\n".join(f"{model.id} {model.sha256}" for model in models).encode()).hexdigest()
    licences = ", ".join(dict.fromkeys(model.licence for model in models))
    return Model(id=models[0].id, revision=config.revision, sha256=digest, licence=licences)


def _base(config: PipelineConfig) -> Source:
    return Source(config.folder, config.revision, config.variant)
