"""A wording as a text encoder reads it: tokens in chunks of the encoder's length, and embeddings with weights.

Made for CLIP and whatever has its tokens between a beginning and an end. Without weights, and within one chunk, these
are the very bits of the diffusers pipelines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.grammar import Span, Wording

Words = Mapping[str, Tensor]
"""Textual inversion: names in lower case, each standing for vectors (n, width) in place of its tokens."""
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
    room, (comma, *_) = tokenizer.model_max_length - 2, _ids(tokenizer, ",")
    chunks: list[list[Token]] = []
    for block in wording:
        chunk: list[Token] = []
        for unit in (unit for span in block for unit in _units(tokenizer, span, words or {})):
            if len(chunk) + len(unit) > room:
                border = len(chunk) if unit[0].id == comma or len(unit) > 1 else _border(chunk, comma)
                chunks.append(chunk[:border])
                chunk = chunk[border:]
            chunk += unit[:room]
        chunks.append(chunk)
    return chunks if chunks[-1] or len(chunks) == 1 else chunks[:-1]


def _border(chunk: Sequence[Token], comma: int) -> int:
    near = range(len(chunk) - 1, max(-1, len(chunk) - COMMA_REACH - 1), -1)
    return next((place + 1 for place in near if chunk[place].id == comma), len(chunk))


def _units(tokenizer: Any, span: Span, words: Words) -> Iterator[list[Token]]:
    """What may not be torn apart: single tokens, and all the vectors of a word."""
    for place, text in enumerate(_names(words).split(span.text) if words else [span.text]):
        if place % 2:
            yield [Token(0, span.weight, vector) for vector in words[text.lower()]]
        elif text.strip():
            yield from ([Token(id, span.weight)] for id in _ids(tokenizer, text))


def _names(words: Words) -> re.Pattern[str]:
    names = "|".join(re.escape(name) for name in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)({names})(?!\w)", re.IGNORECASE)


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids


def _framed(tokenizer: Any, tokens: Sequence[Token]) -> Chunk:
    framed = [Token(tokenizer.bos_token_id), *tokens, Token(tokenizer.eos_token_id)]
    padding = [Token(tokenizer.pad_token_id)] * (tokenizer.model_max_length - len(framed))
    return (*framed, *padding)


def encode(encoder: Any, chunks: Sequence[Chunk]) -> Any:
    """The encoder's output for a batch of chunks, with its hidden states (each n, tokens, width)."""
    ids = torch.tensor([[token.id for token in chunk] for chunk in chunks], device=encoder.device)
    with _vectors_placed(encoder, chunks):
        return encoder(ids, output_hidden_states=True)


@contextmanager
def _vectors_placed(encoder: Any, chunks: Sequence[Chunk]) -> Iterator[None]:
    """While it is open, the vectors of `chunks` stand in the encoder's token embeddings."""

    def place(module: Any, arguments: Any, embedded: Tensor) -> Tensor:
        for row, chunk in enumerate(chunks):
            for column, token in enumerate(chunk):
                if token.vector is not None:
                    embedded[row, column] = token.vector
        return embedded

    hook = encoder.get_input_embeddings().register_forward_hook(place)
    try:
        yield
    finally:
        hook.remove()


def weigh(hidden: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """(n, tokens, width) to (1, n · tokens, width), each token times its weight.

    A1111's rule: every chunk is then scaled so that its mean is what it was.
    """
    weights = torch.tensor([[token.weight for token in chunk] for chunk in chunks])
    if (weights != 1).any():
        weighted = hidden * weights.to(hidden)[..., None]
        restored = hidden.mean((1, 2), keepdim=True) / weighted.mean((1, 2), keepdim=True)
        hidden = weighted * restored.nan_to_num(1, 1, 1)
    return hidden.flatten(0, 1)[None]
