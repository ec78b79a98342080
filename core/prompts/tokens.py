"""A wording as tokens, in chunks of the encoder's length: what A1111 does with prompts of any length.

For CLIP and whatever has its tokens between a beginning and an end. One chunk holds what diffusers' pipelines give
their encoder.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from core.prompts.grammar import Span, Wording

if TYPE_CHECKING:
    from torch import Tensor

Words = Mapping[str, "Tensor"]
"""Textual inversion: names as `word` has them, each standing for vectors (n, width) in place of its tokens."""
MOST_CHUNKS = 40  # of a prompt; 3,000 tokens with CLIP
SPECIAL_TOKENS = 2  # of each chunk: its beginning and its end
COMMA_REACH = 20  # a chunk may end at a comma so many tokens before its end, as in A1111


class Token(NamedTuple):
    """`vector` (width,), if there is one, takes the place of what `id` looks up."""

    id: int
    weight: float = 1.0
    vector: Tensor | None = None


Chunk = tuple[Token, ...]
"""Tokens as the encoder takes them, with their beginning, end and padding: `model_max_length` of them."""


def chunked(tokenizer: Any, wording: Wording, words: Words | None = None, at_least: int = 1) -> list[Chunk]:
    """The chunks of a wording; empty ones follow until there are `at_least` so many."""
    texts = split_tokens(tokenizer, wording, words)
    texts += [[]] * (at_least - len(texts))
    return [_framed(tokenizer, tokens) for tokens in texts]


def split_tokens(tokenizer: Any, wording: Wording, words: Words | None = None) -> list[list[Token]]:
    """The tokens of each chunk, at least one, without beginning, end and padding.

    As in A1111, a chunk that is full ends after its last comma, if one is near.
    """
    room, (comma, *_) = tokenizer.model_max_length - SPECIAL_TOKENS, token_ids(tokenizer, ",")
    chunks: list[list[Token]] = []
    for block in wording:
        chunk: list[Token] = []
        for unit in (unit[:room] for span in block for unit in _units(tokenizer, span, words or {})):
            if len(chunk) + len(unit) > room:
                border = len(chunk) if unit[0].id == comma or len(unit) > 1 else _border(chunk, comma)
                chunks.append(chunk[:border])
                chunk = chunk[border:]
            chunk += unit
        chunks.append(chunk)
    return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]


def _border(chunk: Sequence[Token], comma: int) -> int:
    near = range(len(chunk) - 1, max(-1, len(chunk) - COMMA_REACH - 1), -1)
    return next((place + 1 for place in near if chunk[place].id == comma), len(chunk))


def _units(tokenizer: Any, span: Span, words: Words) -> Iterator[list[Token]]:
    """What may not be torn apart: single tokens, and all the vectors of a word."""
    for place, text in enumerate(names_pattern(words).split(span.text) if words else [span.text]):
        if place % 2:
            yield [Token(0, span.weight, vector) for vector in words[word(text)]]
        elif text.strip():
            yield from ([token] for token in plain_tokens(token_ids(tokenizer, text), span.weight))


def word(text: str) -> str:
    """What is one word, however it is written."""
    return unicodedata.normalize("NFC", text.lower())


def names_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Each in both of its Unicode forms."""
    forms = {form for name in words for form in (name, unicodedata.normalize("NFD", name))}
    names = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    return re.compile(rf"(?<!\w)({names})(?!\w)", re.IGNORECASE)


def plain_tokens(ids: Iterable[int], weight: float = 1.0) -> list[Token]:
    return [Token(id, weight) for id in ids]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids


def _framed(tokenizer: Any, tokens: Sequence[Token]) -> Chunk:
    framed = [Token(tokenizer.bos_token_id), *tokens, Token(tokenizer.eos_token_id)]
    padding = [Token(tokenizer.pad_token_id)] * (tokenizer.model_max_length - len(framed))
    return (*framed, *padding)
