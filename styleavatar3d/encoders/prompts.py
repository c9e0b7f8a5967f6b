"""Whether a prompt can be read, and which of its words nobody knows."""

from typing import Any

from styleavatar3d.errors import StyleAvatarError

MOST_CHARACTERS = 2000


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
    if backend.pre_tokenizer is None:
        return normal.split()
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]


def _known(tokenizer: Any, piece: str) -> bool:
    return tokenizer.unk_token_id not in tokenizer.backend_tokenizer.encode(piece, add_special_tokens=False).ids


def _is_word(piece: str) -> bool:
    return any(character.isalnum() for character in piece)
