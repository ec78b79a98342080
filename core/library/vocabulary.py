"""The tokenizers of text encoders that bring none, from the vocabularies in presets/tokenizers."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_TOKENIZERS = Path(__file__).resolve().parents[2] / "presets" / "tokenizers"
CLIP_MERGES = _TOKENIZERS / "clip" / "merges.txt.gz"
T5_PIECES = _TOKENIZERS / "t5" / "tokenizer.json.gz"
MOST_TOKENS = 77  # of every CLIP text encoder of Stable Diffusion, with a beginning and an end
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))  # bytes that stand for themselves


def clip_tokenizer(pad_token: str) -> Any:
    """`pad_token` fills up short prompts: the end mark for OpenAI's encoder, "!" for those of OpenCLIP."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), pad_token=pad_token, model_max_length=MOST_TOKENS)


def t5_tokenizer(pad_token: str) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    with gzip.open(T5_PIECES) as file:
        published = Tokenizer.from_buffer(file.read())
    return PreTrainedTokenizerFast(
        tokenizer_object=published, pad_token=pad_token, eos_token="</s>", unk_token="<unk>"
    )


SHIPPED: Mapping[str, tuple[Path, Callable[..., Any]]] = {
    "CLIPTokenizer": (CLIP_MERGES, clip_tokenizer),
    "T5Tokenizer": (T5_PIECES, t5_tokenizer),
}
"""By its class: what a tokenizer is made from, and how, given what fills up short prompts."""


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
