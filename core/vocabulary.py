"""CLIP's tokenizer for checkpoints that bring none, built from the merges in presets/tokenizers/clip."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path
from typing import Any

CLIP_MERGES = Path(__file__).resolve().parent.parent / "presets" / "tokenizers" / "clip" / "merges.txt.gz"
MOST_TOKENS = 77  # of every CLIP text encoder of Stable Diffusion, with a beginning and an end
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # bytes that stand for themselves


def clip_tokenizer(pad_token: str) -> Any:
    """`pad_token` fills up short prompts: the end mark for OpenAI's encoder, "!" for those of OpenCLIP."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), pad_token=pad_token, model_max_length=MOST_TOKENS)


@functools.cache
def _clip_vocabulary() -> tuple[dict[str, int], tuple[tuple[str, ...], ...]]:
    """Token -> id, and the merges: bytes as characters, the same at a word's end, the merges, begin and end."""
    with gzip.open(CLIP_MERGES, "rt", encoding="utf-8") as file:
        next(file)  # its version
        merges = tuple(tuple(line.split()) for line in file)
    others = 256 - len(PRINTABLE)
    characters = [chr(byte) for byte in PRINTABLE] + [chr(256 + k) for k in range(others)]
    words = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in merges)]
    return {word: k for k, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}, merges
