"""How a prompt is read: its language, its tokens in chunks, and what a text encoder makes of them.

It knows texts and tokenizers alone: nothing of requests, of files, or of the models that are told what was read.
"""

from core.prompts.counting import TokenCount, count_tokens
from core.prompts.grammar import Part, Time, Wording, compose, parse
from core.prompts.tokens import (
    MOST_CHUNKS,
    Chunk,
    Words,
    chunked,
    names_pattern,
    plain_tokens,
    split_tokens,
    token_ids,
    word,
)

__all__ = [
    "MOST_CHUNKS",
    "Chunk",
    "Part",
    "Time",
    "TokenCount",
    "Wording",
    "Words",
    "chunked",
    "compose",
    "count_tokens",
    "names_pattern",
    "parse",
    "plain_tokens",
    "split_tokens",
    "token_ids",
    "word",
]
