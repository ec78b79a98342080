"""How long a prompt is, as a text encoder reads it."""

from __future__ import annotations

from typing import Any, NamedTuple

from core.prompts.grammar import Time, compose
from core.prompts.tokens import SPECIAL_TOKENS, Words, split_tokens


class TokenCount(NamedTuple):
    """Of a prompt as it is read: its `tokens`, the chunks they fill, and how many each chunk holds."""

    tokens: int
    chunks: int
    room: int


def count_tokens(tokenizer: Any, text: str, words: Words | None = None, steps: int = 20) -> TokenCount:
    """Of the longest of what `text` says in the course of so many steps."""
    wordings = {part.at(Time(step, steps)) for part in compose(text) for step in range(steps)}
    split = [split_tokens(tokenizer, wording, words) for wording in wordings]
    chunks, tokens = max((len(chunks), sum(map(len, chunks))) for chunks in split)
    return TokenCount(tokens, chunks, tokenizer.model_max_length - SPECIAL_TOKENS)
