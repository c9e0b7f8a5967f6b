"""Prompts as the networks read them: one text tower (SD 1.5, SD 2) or two with pooled words and sizes (SDXL)."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from styleavatar3d.synthesis.loop import Words

log = logging.getLogger(__name__)
_KEPT = 512
"""Texts whose embeddings are kept: SDXL's take 0.3 MB each in half precision."""


class _Embedding(NamedTuple):
    states: Tensor  # [1, tokens, width]
    pooled: Tensor | None = None  # [1, width]


class TextEncoder:
    """The text towers of a pipeline, and the embeddings of the texts they read last.

    A text is embedded alone, so that its embedding never depends, not by a rounding, on when and beside what it was
    first asked for.
    """

    def __init__(self, pipeline: Any):
        self.pipeline, self._device = pipeline, pipeline.device
        self.two = getattr(pipeline, "text_encoder_2", None) is not None
        self._embed = lru_cache(maxsize=_KEPT)(self._read)

    def forget(self) -> None:
        """Drop what is kept: the towers have changed."""
        self._embed.cache_clear()

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str], negatives: Sequence[str] | None, size: tuple[int, int]) -> Words:
        """States and, for SDXL, pooled words and time ids: negatives first, or none of them.

        Args:
            negatives: None where there is no classifier-free guidance
            size: height and width of the pictures, which SDXL is told as original, cropped at (0, 0), and target size
        """
        texts = [*map(self._negative, negatives or ()), *map(self._embed, prompts)]
        states = torch.cat([text.states for text in texts])
        if not self.two:
            return Words(states, {})
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=states.dtype, device=states.device)
        pooled = torch.cat([text.pooled for text in texts if text.pooled is not None])
        return Words(states, {"text_embeds": pooled, "time_ids": sizes.repeat(len(texts), 1)})

    def _negative(self, text: str) -> _Embedding:
        """An empty negative is zeros for models that were trained so."""
        embedding = self._embed(text)
        if not text and getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False):
            return _Embedding(*(torch.zeros_like(part) for part in embedding if part is not None))
        return embedding

    def _read(self, text: str) -> _Embedding:
        pipeline = self.pipeline
        if not self.two:
            tokens = self._tokens(pipeline.tokenizer, text)
            encoder = pipeline.text_encoder
            mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
            return _Embedding(encoder(tokens.input_ids, attention_mask=mask)[0], None)
        towers = ((pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2))
        read = [encoder(self._tokens(tokenizer, text).input_ids, output_hidden_states=True)
                for tokenizer, encoder in towers]  # fmt: skip
        return _Embedding(torch.cat([each.hidden_states[-2] for each in read], -1), read[1][0])

    def _tokens(self, tokenizer: Any, text: str) -> Any:
        text = self.pipeline.maybe_convert_prompt(text, tokenizer)  # one word of many vectors: as many tokens
        longest = tokenizer.model_max_length
        tokens = tokenizer(text, padding="max_length", max_length=longest, truncation=True, return_tensors="pt")
        if tokens.attention_mask.all() and len(whole := tokenizer(text).input_ids) > longest:
            log.warning("a prompt of %d tokens is cut to %d: %s", len(whole), longest, text)
        return tokens.to(self._device)
