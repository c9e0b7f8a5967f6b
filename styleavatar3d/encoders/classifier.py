"""Any image classifier of `transformers`, by the labels that its own config names."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from styleavatar3d.errors import StyleAvatarError


class ImageClassifier:
    """A classifier and how its pictures are prepared."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self.labels: list[str] = [model.config.id2label[i] for i in range(model.config.num_labels)]

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "ImageClassifier":
        """Read a folder with safetensors and `preprocessor_config.json`. Raises StyleAvatarError when it is none."""
        from safetensors import SafetensorError
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        try:
            model: Any = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise StyleAvatarError(
                f"the image classifier cannot be read: {error}", got=str(folder),
                expected="a folder with config.json, model.safetensors and preprocessor_config.json",
            ) from error  # fmt: skip
        return cls(model.to(device), processor)

    @torch.no_grad()
    def probabilities(self, images: UInt8[Tensor, "batch 3 height width"]) -> list[dict[str, float]]:
        """Of every label, for each picture."""
        inputs = self.processor(images=list(images.cpu()), return_tensors="pt").to(self.model.device)
        shares = self.model(**inputs).logits.float().softmax(1).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in shares]
