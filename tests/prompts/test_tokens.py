"""Chunks of tokens: where they end, how they are filled up, and words that stand for vectors."""

from __future__ import annotations

import pytest
import torch

from core.prompts.grammar import Time, parse
from core.prompts.tokens import chunked, split_tokens
from tests import tiny

ROOM = 30  # tokens of a chunk of the pocket model's tokenizer, beside its beginning and end


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


def wording(text):
    return parse(text).at(Time(0, 1))


def lengths(tokenizer, text):
    return [len(chunk) for chunk in split_tokens(tokenizer, wording(text))]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


@pytest.mark.parametrize("text", ["", "a red circle on a blue background", "Two  GREEN trees, at 12:30!"])
def test_one_chunk_is_what_diffusers_gives_its_encoder(tokenizer, text):
    padded = tokenizer(text, padding="max_length", max_length=32, truncation=True).input_ids
    (chunk,) = chunked(tokenizer, wording(text))
    assert [token.id for token in chunk] == padded
    assert {token.weight for token in chunk} == {1.0}


def test_long_text_goes_on_in_further_chunks_and_nothing_is_lost(tokenizer):
    text = "red " * 75
    assert lengths(tokenizer, text) == [30, 30, 15]
    joined = [token.id for chunk in split_tokens(tokenizer, wording(text)) for token in chunk]
    assert joined == ids(tokenizer, text)


@pytest.mark.parametrize(
    ("before", "expected"),
    [(29, [30, 10]), (20, [21, 19]), (11, [12, 28]), (10, [11, 29]), (9, [30, 10]), (30, [30, 10])],
)
def test_a_full_chunk_ends_after_a_comma_within_20_tokens(tokenizer, before, expected):
    """`before` words, a comma, then words up to 40 tokens: A1111 moves what follows the comma to the next chunk."""
    assert lengths(tokenizer, "red " * before + ", " + "red " * (39 - before)) == expected


def test_breaks_begin_chunks_and_an_empty_end_is_none(tokenizer):
    assert lengths(tokenizer, "red BREAK blue green") == [1, 2]
    assert lengths(tokenizer, "red BREAK") == [1]
    assert lengths(tokenizer, "BREAK red") == [0, 1]
    assert lengths(tokenizer, "") == [0]


def test_every_token_has_its_weight_and_the_frame_has_none(tokenizer):
    (chunk,) = chunked(tokenizer, wording("a (red:1.5) [circle]"))
    assert [round(token.weight, 4) for token in chunk[:6]] == [1, 1, 1.5, 0.9091, 1, 1]


def test_empty_chunks_follow_up_to_the_number_asked_for(tokenizer):
    chunks = chunked(tokenizer, wording("red"), at_least=3)
    assert len(chunks) == 3
    assert chunks[1] == chunks[2] == chunked(tokenizer, ((),))[0]


def test_words_stand_for_vectors_whole_words_only_in_any_case(tokenizer):
    words = {"style-a": torch.arange(6.0).reshape(2, 3), "style": torch.zeros(1, 3)}
    (tokens,) = split_tokens(tokenizer, wording("red (Style-A:1.2) mystyle style"), words)
    vectors = [token.vector for token in tokens if token.vector is not None]
    assert [vector.tolist() for vector in vectors] == [[0, 1, 2], [3, 4, 5], [0, 0, 0]]
    assert [token.weight for token in tokens if token.vector is not None] == [1.2, 1.2, 1]
    assert len(tokens) == 1 + 3 + len(ids(tokenizer, "mystyle"))


def test_a_words_vectors_are_not_torn_apart(tokenizer):
    words = {"style": torch.zeros(5, 3)}
    chunks = split_tokens(tokenizer, wording("red " * 27 + "style"), words)
    assert [len(chunk) for chunk in chunks] == [27, 5]
    (cut, *others) = split_tokens(tokenizer, wording("style"), {"style": torch.zeros(99, 3)})
    assert (len(cut), others) == (ROOM, [])
