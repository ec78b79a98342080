"""Chunks of tokens through a text encoder, and the weights of their embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from core.prompts.tokens import Chunk


def encode(encoder: Any, chunks: Sequence[Chunk]) -> Any:
    """The encoder's output for a batch of chunks, with its hidden states (each n, tokens, width)."""
    ids = torch.tensor([[token.id for token in chunk] for chunk in chunks], device=encoder.device)
    with _vectors_placed(encoder, chunks):
        return encoder(ids, output_hidden_states=True)


def last_but(output: Any, clip_skip: int) -> Tensor:
    """The layer (n, tokens, width) that models since XL read: the last but one, for `clip_skip` 1 and 2 alike, or one
    before it. So A1111, Forge and ComfyUI count, too.
    """
    hidden: Tensor = output.hidden_states[-max(clip_skip, 2)]
    return hidden


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

    A1111's rule for CLIP: every chunk is then scaled so that its mean is what it was.
    """
    weights = _weights(hidden, chunks)
    if (weights != 1).any():
        weighted = hidden * weights
        restored = hidden.mean((1, 2), keepdim=True) / weighted.mean((1, 2), keepdim=True)
        hidden = weighted * restored.nan_to_num(1, 1, 1)
    return hidden.flatten(0, 1)[None]


def weigh_only(hidden: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    """The same without scaling, for T5, whose means are near 0: their quotient would be anything."""
    return (hidden * _weights(hidden, chunks)).flatten(0, 1)[None]


def _weights(hidden: Tensor, chunks: Sequence[Chunk]) -> Tensor:
    weights = [[token.weight for token in chunk] for chunk in chunks]
    return torch.tensor(weights).to(hidden)[..., None]
