"""What reads pictures, and mostly texts, for the style prior: one interface over models of `transformers`."""

import hashlib
import json
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.encoders.preparation import Preparation
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.runtime.weights import weights_sha256


class Encoder(ABC):
    """A picture tower, and in some families a text tower beside it; embeddings are unit vectors of length `dim`."""

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]
    """`model_type` of the models that it can be"""
    has_texts: ClassVar[bool] = False
    """whether it reads texts too, into the space of its pictures"""

    def __init__(self, model: Any, preparation: Preparation):
        self.model = model.eval().requires_grad_(False)
        self.preparation, self.size = preparation, preparation.size

    @classmethod
    @abstractmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Encoder":
        """Read a local folder with safetensors weights. Raises StyleAvatarError when it holds no model of these."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of an embedding."""

    @property
    def text_dim(self) -> int:
        """Length of a text's embedding."""
        return self.dim

    @cached_property
    def sha256(self) -> str:
        """A name for the weights (the same in 32 and in 16 bits), the preparation of pictures and the vocabulary."""
        beside = json.dumps([self.preparation, sorted(self._vocabulary().items())])
        return hashlib.sha256(f"{weights_sha256(self.model)} {beside}".encode()).hexdigest()

    @property
    def identity(self) -> dict[str, str]:
        """The sha256 of who reads pictures and of who reads texts: a prior works with these alone."""
        return dict.fromkeys(("image", "text") if self.has_texts else ("image",), self.sha256)

    @torch.no_grad()
    def images(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of square pictures in [-1, 1] of any size."""
        return self.traced(images)

    def traced(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The same with a way back for gradients."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            shape = tuple(images.shape)
            raise StyleAvatarError("not a batch of square pictures", got=shape, expected="[batch, 3, n, n]")
        prepared = self.preparation(images.to(self.model.device, torch.float32))
        return F.normalize(self._features(prepared), dim=-1)

    def texts(self, texts: list[str]) -> Float[Tensor, "batch text_dim"]:
        """Embeddings of prompts. Unknown words are named in a warning.

        Raises StyleAvatarError for a prompt that is empty, far too long, or of no known word, and without text tower.
        """
        self._refuse(texts)

    def check(self, text: str) -> list[str]:
        """The unknown words of a usable prompt. Raises StyleAvatarError for one that cannot be used."""
        self._refuse(text)

    def unknown(self, text: str) -> list[str]:
        """The words of a prompt that the encoder has never seen, in order, each once."""
        self._refuse(text)

    def _refuse(self, texts: str | list[str]) -> NoReturn:
        raise StyleAvatarError(
            f"{self.name} reads no texts", got=texts, expected="an encoder with a text tower beside it",
            remedy="name a CLIP or SigLIP as data.text_encoder; in a pipeline its folder is text_encoder/",
        )  # fmt: skip

    def _vocabulary(self) -> dict[str, int]:
        return {}

    @abstractmethod
    def _features(self, prepared: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of prepared pictures, of any length."""

    @classmethod
    def _read_model(cls, folder: str | Path, device: str | torch.device) -> Any:
        """The model of a folder, in float32.

        Raises StyleAvatarError if it is of another family, damaged, or lacks weights: transformers itself would draw
        those at random and go on.
        """
        from safetensors import SafetensorError
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        if (kind := model_type(folder)) not in cls.kinds:
            raise StyleAvatarError(
                f"there is no {cls.name} model",
                got=f"{folder} ({kind or 'without a readable config.json'})",
                expected="a folder with config.json, model.safetensors and what belongs to them",
            )
        disable_progress_bar()
        try:
            model, found = AutoModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise StyleAvatarError(f"the {cls.name} model in {folder} cannot be read: {error}") from error
        if missing := sorted(found["missing_keys"]):
            raise StyleAvatarError(f"the {cls.name} model in {folder} lacks weights", got=", ".join(missing))
        return model.to(device)


def model_type(folder: str | Path) -> str | None:
    """The `model_type` of a folder of transformers; None if it is none."""
    try:
        about = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(about.get("model_type", "no model_type")) if isinstance(about, dict) else None
