"""The tokenizer: byte pair encoding in CLIP's form, in which every word of the captions is one token."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from training.captions import vocabulary

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 32  # every caption fits; 77, as CLIP's, would make each step of training a fifth slower


def make_tokenizer() -> CLIPTokenizer:
    """Merges are learned until all words are whole; the vocabulary is bytes, bytes that end a word, merges, signs."""
    merges = _merges(vocabulary())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), BEGIN, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab, merges, model_max_length=LENGTH, bos_token=BEGIN, eos_token=END, unk_token=END, pad_token=END
    )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte pair encoding (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909), algorithm 1.

    Of equally frequent pairs the last in the alphabet comes first. The tokenizers library leaves that to chance, and
    a run that went on in another process read some words as others.
    """
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for parts in split for pair in pairwise(parts)):
        merges.append(max(counts, key=lambda pair: (counts[pair], pair)))
        split = [_merged(parts, merges[-1]) for parts in split]
    return merges


def _merged(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """With vocab.json and merges.txt, which `save_pretrained` leaves out and older tools want."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
