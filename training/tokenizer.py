"""The tokenizer: byte pair encoding in CLIP's form, in which every word of the captions is one token."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from training.captions import vocabulary

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 32  # every caption fits; 77, as CLIP's, would make each step of training a fifth slower


def make_tokenizer() -> CLIPTokenizer:
    """Merges are learned until all words are whole; the vocabulary is bytes, bytes that end a word, merges, signs."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    words = vocabulary()
    learner.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=10_000, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), BEGIN, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab, merges, model_max_length=LENGTH, bos_token=BEGIN, eos_token=END, unk_token=END, pad_token=END
    )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """With vocab.json and merges.txt, which `save_pretrained` leaves out and older tools want."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
