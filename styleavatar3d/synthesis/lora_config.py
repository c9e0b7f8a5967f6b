"""The configuration of a LoRA training: the model and where it learns, the pictures, the recipe."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from styleavatar3d.config import RunConfig, Strict
from styleavatar3d.runtime.tracking import TrackConfig
from styleavatar3d.shards.schema import Model
from styleavatar3d.synthesis.lora_model import Target
from styleavatar3d.synthesis.lora_pictures import Example, LoraData


class LoraModel(Strict):
    """The model that learns, and where: a source as in `PipelineConfig`."""

    folder: str = "data/miniature/diffusion"
    revision: str = "main"
    variant: str = ""
    offline: bool = False
    device: str = "auto"
    rank: int = Field(default=16, ge=1, le=256)
    targets: tuple[Target, ...] = Field(default=("attention",), min_length=1)
    """attention, feed_forward and convolution of the UNet; text is the attention of the text towers"""


class PriorConfig(Strict):
    """Prior preservation (DreamBooth, arXiv 2208.12242): beside the pictures the model learns what it drew before.

    It keeps the character out of prompts that do not call it.
    """

    pictures: int = Field(default=0, ge=0)
    """how many are drawn by the base model; 0 for none"""
    prompts: tuple[str, ...] = ("portrait of a person",)
    """taken in turn; without the trigger"""
    weight: float = Field(default=1.0, gt=0)
    steps: int = Field(default=25, ge=1)
    scale: float = Field(default=5.0, ge=0)


class LoraTrain(Strict):
    """AdamW, linear warm-up, cosine to 0."""

    images: int = Field(ge=1)
    """pictures seen, repetitions counted"""
    batch: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    text_learning_rate: float = Field(default=5e-5, gt=0)
    """of the text towers, where they are among the targets"""
    warmup: int = Field(default=0, ge=0)
    """pictures until the full rate"""
    weight_decay: float = Field(default=0.01, ge=0)
    drop_text: float = Field(default=0.0, ge=0, le=1)
    """how often the prompt is empty"""
    precision: Literal["fp32", "bf16"] = "bf16"
    """of the frozen weights and of what is computed with them; the adapters are fp32"""
    gradient_checkpointing: bool = False
    """a third slower, and SDXL at 1024 px fits into 24 GB"""
    prior: PriorConfig = PriorConfig()
    checkpoint_seconds: float = Field(default=120.0, gt=0)
    samples: int = Field(default=4, ge=0)
    """columns of `sheet.png`: pictures, and what their prompts give without and with the LoRA"""


class LoraConfig(Strict):
    """One run of `styleavatar3d train lora`."""

    run: RunConfig
    data: LoraData
    model: LoraModel = LoraModel()
    train: LoraTrain
    track: TrackConfig = TrackConfig()

    @model_validator(mode="after")
    def _consistent(self):
        said = [prompt for prompt in self.train.prior.prompts if self.data.trigger.lower() in prompt.lower()]
        if self.train.prior.pictures and said:
            raise ValueError(f"train.prior.prompts must not say the trigger: {said[0]}")
        return self

    def identity(self, base: Model, examples: Sequence[Example]) -> str:
        """12 hex digits over all that decides the weights: pictures, prompts, base and recipe; places are left out."""
        apart: Any = {
            "run": {"out"}, "data": {"pictures", "captions"}, "track": True,
            "model": {"folder", "device", "offline"}, "train": {"checkpoint_seconds", "samples"},
        }  # fmt: skip
        learned = [[one.digest, one.prompt, one.original, one.corner] for one in examples]
        tree = {**self.model_dump(mode="json", exclude=apart), "base": base.sha256, "learned": learned}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
