"""One config for the miniature world's models. Amounts are pictures seen: they mean the same at any batch size."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from styleavatar3d.config import RunConfig, Strict
from styleavatar3d.miniature.models import MiniatureModels
from styleavatar3d.runtime.tracking import TrackConfig

Stage = Literal["clip", "codec", "coarse", "diffusion", "judge", "estimators"]


def _split(value: object) -> object:
    return tuple(value.split(",")) if isinstance(value, str) else value


class DataConfig(Strict):
    """The renders that everything is trained on; judge and estimators get populations of their own."""

    renders: int = Field(ge=8)
    judge_renders: int = Field(ge=8)
    estimator_renders: int = Field(ge=8)
    views: int = Field(3, ge=1)
    """pictures of one figure in one style"""
    backgrounds: float = Field(0.0, ge=0, le=1)
    """share of the pictures on a named background; the others are on plain grey"""
    held_out: int = Field(ge=1)
    """how many of the last renders are never trained on"""
    workers: int = Field(2, ge=1)
    """processes that render"""


class StageConfig(Strict):
    """How one model is trained: AdamW, linear warm-up, cosine decay, averaged weights."""

    images: int = Field(ge=1)
    batch: int = Field(ge=2)
    learning_rate: float = Field(gt=0)
    warmup: int = Field(2000, ge=0)
    """pictures until the full learning rate"""
    average: int = Field(3000, ge=1)
    """half-life, in pictures, of the averaged weights, which are the ones saved"""


class TrainConfig(Strict):
    stages: Annotated[tuple[Stage, ...], BeforeValidator(_split)] = (
        "clip", "codec", "coarse", "diffusion", "judge", "estimators",
    )  # fmt: skip
    threads: int = Field(1, ge=1)
    """CPU threads of each process"""
    precision: Literal["bf16", "fp32"] = "bf16"
    checkpoint_seconds: float = Field(120.0, gt=0)
    clip: StageConfig
    codec: StageConfig
    judge: StageConfig
    estimators: StageConfig
    coarse: StageConfig
    """the diffusion at half the resolution, where a picture costs a quarter: words and places are learned there"""
    diffusion: StageConfig
    drop_guidance: float = Field(0.25, ge=0, le=1)
    """how often each ControlNet is left out, so that either does alone, and words alone do too"""
    drop_text: float = Field(0.10, ge=0, le=1)
    """how often the prompt is empty, for classifier-free guidance"""


class MiniatureConfig(Strict):
    run: RunConfig
    data: DataConfig
    model: MiniatureModels = MiniatureModels()
    train: TrainConfig
    track: TrackConfig = TrackConfig()
