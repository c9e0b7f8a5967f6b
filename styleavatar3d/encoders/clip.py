"""Pictures and words in one space: a stock CLIP folder, and what the miniature one needs said about unknown words."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from styleavatar3d.errors import StyleAvatarError

MOST_CHARACTERS = 2000
_UNIT = ([0.0] * 3, [1.0] * 3)
"""Mean and standard deviation, in [-1, 1], of colours that the picture tower reads as they are, as the miniature's."""
log = logging.getLogger(__name__)


class ClipEncoder:
    """Both towers of a `transformers` CLIPModel with its tokenizer; embeddings are unit vectors of length `dim`."""

    def __init__(self, model: Any, tokenizer: Any, norm: tuple[list[float], list[float]] = _UNIT):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1).to(model.device) for values in norm)
        self.dim: int = model.config.projection_dim
        self.size: int = model.config.vision_config.image_size

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "ClipEncoder":
        """Read a folder with a CLIPModel and its tokenizer. Raises StyleAvatarError when it is none."""
        from safetensors import SafetensorError
        from transformers import AutoTokenizer, CLIPModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # it loads in a blink
        if not (Path(folder) / "config.json").is_file():
            raise StyleAvatarError(
                "there is no CLIP model",
                got=str(folder),
                expected="a folder with config.json, model.safetensors, tokenizer.json",
            )
        try:
            model: Any = CLIPModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise StyleAvatarError(f"the CLIP model in {folder} cannot be read: {error}") from error
        return cls(model.to(device), tokenizer, _norm(Path(folder)))

    @torch.no_grad()
    def images(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Embeddings of square pictures in [-1, 1]; other sizes than the model's are resampled."""
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            shape = tuple(images.shape)
            raise StyleAvatarError("not a batch of square pictures", got=shape, expected="[batch, 3, n, n]")
        images = images.to(self.model.device, torch.float32)
        if images.shape[-1] != self.size:
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        images = (images - self.mean) / self.std
        return F.normalize(_features(self.model.get_image_features(pixel_values=images)), dim=-1)

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Float[Tensor, "batch dim"]:
        """Embeddings of prompts. Unknown words are named in a warning.

        Raises StyleAvatarError for a prompt that is empty, far too long, or of no known word.
        """
        for text in texts:
            if unknown := self.check(text):
                log.warning("the encoder does not know: %s", ", ".join(unknown))
        options = {"padding": True, "truncation": True, "max_length": self.tokenizer.model_max_length}
        tokens = self.tokenizer(texts, return_tensors="pt", **options).input_ids.to(self.model.device)
        return F.normalize(_features(self.model.get_text_features(input_ids=tokens)), dim=-1)

    def check(self, text: str) -> list[str]:
        """The unknown words of a usable prompt. Raises StyleAvatarError for one that cannot be used."""
        return check_prompt(self.tokenizer, text)

    def unknown(self, text: str) -> list[str]:
        """The words of a prompt that the encoder has never seen, in order, each once."""
        return unknown_words(self.tokenizer, text)


def check_prompt(tokenizer: Any, text: str) -> list[str]:
    """The words of `text` that the tokenizer does not know.

    Raises StyleAvatarError for a prompt that is empty, longer than 2000 characters, or of no known word.
    """
    if len(text) > MOST_CHARACTERS:
        raise StyleAvatarError(
            "the prompt is too long",
            got=text,
            expected=f"at most {MOST_CHARACTERS} characters",
            remedy="a dozen words do: a style, a person or alien, hair, glasses, a shirt",
        )
    pieces = _pieces(tokenizer, text)
    unknown = unknown_words(tokenizer, text)
    if not any(_is_word(piece) and _known(tokenizer, piece) for piece in pieces):
        raise StyleAvatarError(
            "the prompt has no word that the encoder knows",
            got=text,
            expected="words such as: a young woman with red hair and round glasses, clay style",
        )
    return unknown


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words of a text outside the tokenizer's vocabulary, in order, each once; none for a subword tokenizer."""
    strange = [piece for piece in _pieces(tokenizer, text) if _is_word(piece) and not _known(tokenizer, piece)]
    return list(dict.fromkeys(strange))


def _pieces(tokenizer: Any, text: str) -> list[str]:
    backend = tokenizer.backend_tokenizer
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]


def _known(tokenizer: Any, piece: str) -> bool:
    return tokenizer.unk_token_id not in tokenizer.backend_tokenizer.encode(piece, add_special_tokens=False).ids


def _is_word(piece: str) -> bool:
    return any(character.isalnum() for character in piece)


def _norm(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation by which stock models norm colours of [0, 1], for colours of [-1, 1]."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return _UNIT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        mean, std = ([float(number) for number in about[name]] for name in ("image_mean", "image_std"))
    except (ValueError, KeyError, TypeError) as error:
        raise StyleAvatarError(f"{path} does not say how pictures are normed: {error!r}") from error
    return [2 * number - 1 for number in mean], [2 * number for number in std]


def _features(output: Any) -> Tensor:
    """Newer versions of transformers wrap the projected embedding in an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output
