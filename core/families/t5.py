"""T5 as a reader of prompts: tokens with an end and no beginning, as many as there are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from core.prompts import Chunk, Wording, plain_tokens, token_ids
from core.prompts.work import encode, weigh_only

MOST_T5_TOKENS = 1_024  # twice what the models saw; what T5 needs in memory grows with the square


def read_by_t5(tokenizer: Any, wording: Wording) -> Chunk:
    """The tokens of all blocks, one after the other, and the end."""
    spans = (span for block in wording for span in block)
    words = [token for span in spans for token in plain_tokens(token_ids(tokenizer, span.text), span.weight)]
    return (*words, *plain_tokens([tokenizer.eos_token_id]))


def encode_by_t5(encoder: Any, tokenizer: Any, wording: Wording, length: int) -> Tensor:
    """(1, length, width), padded as the models saw it in training."""
    read = read_by_t5(tokenizer, wording)
    chunk = (*read, *plain_tokens([tokenizer.pad_token_id] * (length - len(read))))
    return weigh_only(encode(encoder, [chunk])[0], [chunk])
