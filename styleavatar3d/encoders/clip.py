"""Pictures and words in one space: CLIP (arXiv:2103.00020), also the miniature one, and SigLIP (arXiv:2303.15343)."""

import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.encoders.encoder import Encoder
from styleavatar3d.encoders.preparation import FILE, Preparation
from styleavatar3d.encoders.prompts import check_prompt, unknown_words
from styleavatar3d.errors import StyleAvatarError

log = logging.getLogger(__name__)


class ClipEncoder(Encoder):
    """Both towers of a CLIPModel, with its tokenizer."""

    name, kinds, has_texts = "CLIP", ("clip",), True

    def __init__(self, model: Any, tokenizer: Any, preparation: Preparation):
        super().__init__(model, preparation)
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "ClipEncoder":
        model = cls._read_model(folder, device)
        tokenizer = cls._read_tokenizer(folder)
        size = model.config.vision_config.image_size
        if _is_miniature(tokenizer) and not (Path(folder) / FILE).exists():
            return cls(model, tokenizer, Preparation(size, size))
        preparation = Preparation.read(Path(folder))
        if preparation.size != size:
            raise StyleAvatarError(
                f"weights and {FILE} in {folder} do not belong together",
                got=preparation.size,
                expected=f"{size} pixels",
            )
        return cls(model, tokenizer, preparation)

    @property
    def dim(self) -> int:
        return self.model.config.projection_dim

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        for text in texts:
            if unknown := self.check(text):
                log.warning("the encoder does not know: %s", ", ".join(unknown))
        tokens = self._tokens(texts).to(self.model.device)
        return F.normalize(self.model.get_text_features(input_ids=tokens).pooler_output, dim=-1)

    def check(self, text: str) -> list[str]:
        return check_prompt(self.tokenizer, text)

    def unknown(self, text: str) -> list[str]:
        return unknown_words(self.tokenizer, text)

    def _vocabulary(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    def _features(self, prepared: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        return self.model.get_image_features(pixel_values=prepared).pooler_output

    def _tokens(self, texts: list[str]) -> Tensor:
        options = {"padding": True, "truncation": True, "max_length": self.tokenizer.model_max_length}
        return self.tokenizer(texts, return_tensors="pt", **options).input_ids

    @classmethod
    def _read_tokenizer(cls, folder: str | Path) -> Any:
        import transformers

        try:
            return getattr(transformers, cls._tokenizer_class).from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as error:
            raise StyleAvatarError(f"the tokenizer in {folder} cannot be read: {error}") from error

    _tokenizer_class = "AutoTokenizer"


class SiglipEncoder(ClipEncoder):
    """Both towers of a SiglipModel, which SigLIP 2 (arXiv:2502.14786) of fixed picture sizes is too.

    They were trained on texts in lower case, padded to one length, with nothing masked.
    """

    name, kinds = "SigLIP", ("siglip",)
    _tokenizer_class = "PreTrainedTokenizerFast"
    """reads tokenizer.json itself: the classes that hub folders name want sentencepiece, or leave out the lower case"""

    @property
    def dim(self) -> int:
        return self.model.config.vision_config.hidden_size

    def _tokens(self, texts: list[str]) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        options = {"padding": "max_length", "truncation": True, "max_length": length}
        return self.tokenizer([text.lower() for text in texts], return_tensors="pt", **options).input_ids


def _is_miniature(tokenizer: Any) -> bool:
    """Words for tokens, as only the little world's own encoder has: it reads the colours of pictures as they are."""
    return type(tokenizer.backend_tokenizer.model).__name__ == "WordLevel"
