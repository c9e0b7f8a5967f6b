"""A whole-word tokenizer for the closed vocabulary of the miniature world, in the stock fast-tokenizer format."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, UNKNOWN, END = "<|pad|>", "<|startoftext|>", "<|unknown|>", "<|endoftext|>"
"""Ids 0 to 3. The end is not id 2, which transformers reads as an old CLIP checkpoint and pools by the largest id."""
PUNCTUATION = (",", ".", "-", "'", "!", "?", ":", ";", "(", ")")


def build_tokenizer(words: Iterable[str], length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `words`: lower case, punctuation and hyphens split off, padded and cut to `length` tokens."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = sorted({piece for word in words for piece in re.findall(r"[^\W_]+", word.lower())})
    vocabulary = {word: index for index, word in enumerate((PAD, START, UNKNOWN, END, *PUNCTUATION, *pieces))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\W_]+|[^\s]"), behavior="removed", invert=True)
    ends = [(START, vocabulary[START]), (END, vocabulary[END])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        unk_token=UNKNOWN,
        eos_token=END,
        model_max_length=length,
        padding_side="right",
        truncation_side="right",
    )
