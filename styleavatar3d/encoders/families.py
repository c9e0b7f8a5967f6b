"""An encoder by what its folder says it is, and two of them as one."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from styleavatar3d.encoders.clip import ClipEncoder, SiglipEncoder
from styleavatar3d.encoders.encoder import Encoder, model_type
from styleavatar3d.encoders.preparation import Preparation
from styleavatar3d.errors import StyleAvatarError


class Dinov2Encoder(Encoder):
    """DINOv2 (arXiv:2304.07193): the normed class token of a picture. It has learned from pictures alone."""

    name, kinds = "DINOv2", ("dinov2", "dinov2_with_registers")

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Dinov2Encoder":
        return cls(cls._read_model(folder, device), Preparation.read(Path(folder)))

    @property
    def dim(self) -> int:
        return self.model.config.hidden_size

    def _features(self, prepared: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        return self.model(pixel_values=prepared).pooler_output


class BridgedEncoder:
    """Pictures go through one encoder and texts through another: their embeddings lie in two spaces.

    It has the interface of an Encoder; what is between the two spaces a style prior learns from pairs.
    """

    has_texts = True

    def __init__(self, pictures: Encoder, words: Encoder):
        """Raises StyleAvatarError if `words` has no text tower."""
        if not words.has_texts:
            raise StyleAvatarError(
                "the encoder of texts has no text tower", got=words.name, expected="a CLIP or a SigLIP"
            )
        self.pictures, self.words = pictures, words
        self.dim, self.text_dim = pictures.dim, words.dim
        self.images, self.traced = pictures.images, pictures.traced
        self.texts, self.check, self.unknown = words.texts, words.check, words.unknown

    @property
    def identity(self) -> dict[str, str]:
        """The sha256 of who reads pictures and of who reads texts."""
        return {"image": self.pictures.sha256, "text": self.words.sha256}


FAMILIES: tuple[type[Encoder], ...] = (ClipEncoder, SiglipEncoder, Dinov2Encoder)


def open_encoder(folder: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """The encoder that a local folder holds. Raises StyleAvatarError if it is of no family known here."""
    kind = model_type(folder)
    for family in FAMILIES:
        if kind in family.kinds:
            return family.from_pretrained(folder, device)
    raise StyleAvatarError(
        "this folder holds no encoder of pictures",
        got=f"{folder} ({kind or 'without a readable config.json'})",
        expected=", ".join(f"{family.name} ({' or '.join(family.kinds)})" for family in FAMILIES),
    )


def open_bridge(
    pictures: str | Path, words: str | Path, device: str | torch.device = "cpu"
) -> Encoder | BridgedEncoder:
    """The encoder in `pictures`, with the one in `words` for texts unless that is empty."""
    first = open_encoder(pictures, device)
    return BridgedEncoder(first, open_encoder(words, device)) if words else first
