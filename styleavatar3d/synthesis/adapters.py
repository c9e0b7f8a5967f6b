"""LoRAs and textual inversions: small weights that teach a pipeline a style, a character or a word."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from styleavatar3d.config import Strict
from styleavatar3d.errors import StyleAvatarError, require
from styleavatar3d.synthesis.sources import Source

_TOWERS = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}


class LoraConfig(Strict):
    """A LoRA: `source` is a file, a folder or a pinned hub id with one safetensors file, or with `file` among several.

    `weight` is its strength where no prompt asks for another.
    """

    source: str
    weight: float = Field(default=1.0, ge=-4, le=4)
    file: str = ""


def load_loras(pipeline: Any, loras: Mapping[str, LoraConfig], offline: bool = False) -> None:
    """Add these LoRAs to the UNet and the text towers, at their own weights."""
    if not loras:
        return
    require("peft", "lora")
    for name, lora in loras.items():
        file = one_file(Source(lora.source).locate(offline), lora.file)
        try:
            pipeline.load_lora_weights(_read(file), adapter_name=name)
        except (ValueError, RuntimeError, KeyError) as error:
            raise StyleAvatarError(
                f"the LoRA {name} does not fit this model: {str(error).splitlines()[0]}",
                got=str(file),
                expected=f"LoRA weights for a {type(pipeline).__name__} of this family",
            ) from error
    use_loras(pipeline, {name: lora.weight for name, lora in loras.items()})


def use_loras(pipeline: Any, weights: Mapping[str, float]) -> None:
    """Switch on these LoRAs at these weights, and all others off."""
    if not weights:
        pipeline.disable_lora()
        return
    loaded = sorted({name for names in pipeline.get_list_adapters().values() for name in names})
    if unknown := sorted(set(weights) - set(loaded)):
        raise StyleAvatarError(
            "there is no such LoRA", got=", ".join(unknown), expected=", ".join(loaded) or "LoRAs in model.loras",
            remedy="name its source in model.loras",
        )  # fmt: skip
    pipeline.enable_lora()
    pipeline.set_adapters(list(weights), list(weights.values()))


def load_embeddings(pipeline: Any, embeddings: Mapping[str, str], offline: bool = False) -> None:
    """Teach the text towers words: `embeddings` maps a word to its file, one vector or several."""
    for word, source in embeddings.items():
        file = one_file(Source(source).locate(offline))
        tensors = _read(file)
        two = getattr(pipeline, "text_encoder_2", None) is not None
        if two != (set(_TOWERS) <= set(tensors)):
            raise StyleAvatarError(
                f"the embedding of {word} is of another family of models",
                got=f"{file} with {', '.join(sorted(tensors))}",
                expected="clip_l and clip_g (SDXL)" if two else "one tensor (SD 1.5 and SD 2)",
            )
        if not two:
            tensors = {"clip_l": next(iter(tensors.values()))}
        for name, vectors in tensors.items():
            tokenizer, tower = (getattr(pipeline, part) for part in _TOWERS[name])
            try:
                pipeline.load_textual_inversion(vectors, token=word, tokenizer=tokenizer, text_encoder=tower)
            except ValueError as error:
                raise StyleAvatarError(f"the word {word} cannot be learned: {error}", got=str(file)) from error


def one_file(path: Path, name: str = "") -> Path:
    """The safetensors file at `path`: itself, the one called `name` or the only one in the folder."""
    found = [path] if path.is_file() else sorted(path.glob(name or "*.safetensors"))
    if len(found) != 1:
        raise StyleAvatarError(
            "which weights are meant cannot be told",
            got=f"{path} with {', '.join(file.name for file in found) or 'no such file'}",
            expected="one .safetensors file",
            remedy="name it in `file`, or give its path",
        )
    return found[0]


def _read(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise StyleAvatarError(
            f"these weights cannot be read: {error}", got=str(file), expected="safetensors"
        ) from error
