"""Prompts in A1111's language: what each form means, and that no text breaks or slows the parser."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.prompts.grammar import WEIGHT_LIMIT, Time, compose, parse

STEPS = 20


def read(text: str, step: int = 0, before: int = 0) -> list[list[tuple[str, float]]]:
    wording = parse(text).at(Time(step, STEPS, before))
    return [[(span.text.strip(), round(span.weight, 6)) for span in block] for block in wording]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("a cat", [("a cat", 1)]),
        ("a (red) cat", [("a", 1), ("red", 1.1), ("cat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", 0.909091)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(red: -.5 )", [("red", -0.5)]),
        ("(a (b:2) c:0.5)", [("a", 0.5), ("b", 1), ("c", 0.5)]),
        ("(time 12:30:1.2)", [("time 12:30", 1.2)]),
        (r"a \(big\) \[one\] \\ here", [("a (big) [one] \\ here", 1)]),
        (r"(a\:1.2)", [("a:1.2", 1.1)]),
        (r"[a\|b]", [("a|b", 0.909091)]),
        ("at 12:30, a|b", [("at 12:30, a|b", 1)]),
        (":) and ] and )", [(":) and ] and )", 1)]),
        ("a (red cat", [("a", 1), ("red cat", 1.1)]),
        ("a [red cat", [("a", 1), ("red cat", 0.909091)]),
        ("[a:b]", [("a:b", 0.909091)]),
        ("(a:nan) (b:inf) (c:1e3)", [("a:nan", 1.1), ("b:inf", 1.1), ("c:1e3", 1.1)]),
        ("(a:1e30)", [("a:1e30", 1.1)]),
        ("(a:99999999999999999999)", [("a", WEIGHT_LIMIT)]),
        ("((a:-50):50)", [("a", -WEIGHT_LIMIT)]),
        ("", []),
        ("()[](:1)", []),
    ],
)
def test_weights_and_escapes(text: str, spans: list[tuple[str, float]]) -> None:
    assert read(text) == [spans]


@pytest.mark.parametrize(
    ("text", "at_0", "at_7", "at_8", "at_19"),
    [
        ("[a:b:0.4]", "a", "a", "b", "b"),
        ("[a:b:8]", "a", "a", "b", "b"),
        ("[b:0.4]", "", "", "b", "b"),
        ("[a::8]", "a", "a", "", ""),
        ("[a:b:1.0]", "a", "a", "a", "a"),
        ("[a:b:0]", "b", "b", "b", "b"),
        ("[a:b:-1]", "b", "b", "b", "b"),
        ("[a:b:999999999999]", "a", "a", "a", "a"),
        ("[a|b]", "a", "b", "a", "b"),
        ("[a|b|]", "a", "b", "", "b"),
        ("[a:[b|c]:0.4]", "a", "a", "b", "c"),
        ("[[a|b]:c:0.4]", "a", "b", "c", "c"),
    ],
)
def test_what_changes_with_the_steps(text: str, at_0: str, at_7: str, at_8: str, at_19: str) -> None:
    said = ["".join(word for word, _ in read(text, step)[0]) for step in (0, 7, 8, 19)]
    assert said == [at_0, at_7, at_8, at_19]


def test_edits_keep_the_weights_around_and_inside() -> None:
    assert read("(x [a:(b:2):0.5]:0.5)", 0) == [[("x a", 0.5)]]
    assert read("(x [a:(b:2):0.5]:0.5)", 10) == [[("x", 0.5), ("b", 1)]]


def test_a_share_above_one_is_of_the_second_pass() -> None:
    text = "[a:b:1.4]"
    assert read(text, 19) == [[("a", 1)]]
    assert read(text, 7, before=1) == [[("a", 1)]]
    assert read(text, 8, before=1) == [[("b", 1)]]
    assert read("[a:b:0.4]", 0, before=1) == read("[a:b:8]", 0, before=1) == [[("b", 1)]]


def test_breaks_cut_where_they_stand() -> None:
    assert read("a BREAK b") == [[("a", 1)], [("b", 1)]]
    assert read("(a BREAK b:2) c") == [[("a", 2)], [("b", 2), ("c", 1)]]
    assert read("BREAKFAST") == [[("BREAKFAST", 1)]]


def test_and_joins_prompts_with_weights() -> None:
    parts = compose("a cat AND a dog:0.5 AND rain : -1 AND at 12:x")
    assert [part.weight for part in parts] == [1, 0.5, -1, 1]
    texts = [part.at(Time(0, STEPS))[0][0].text.strip() for part in parts]
    assert texts == ["a cat", "a dog", "rain", "at 12:x"]
    (alone,) = compose("a lamp at 12:30 BRAND")
    assert (alone.weight, alone.at(Time(0, STEPS))[0][0].text) == (1, "a lamp at 12:30 BRAND")


PIECES = [*"ab ()[]:|\\.0159-,\né猫", "AND", "BREAK"]
SIGNS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


@given(st.one_of(st.text(), SIGNS), st.integers(0, STEPS - 1), st.integers(0, 1))
def test_any_text_means_something(text: str, step: int, before: int) -> None:
    for part in compose(text):
        for block in part.at(Time(step, STEPS, before)):
            assert all(span.text and -WEIGHT_LIMIT <= span.weight <= WEIGHT_LIMIT for span in block)


WORDS = st.text(st.sampled_from("abc()[]:|\\ 1."), min_size=1, max_size=6).map(lambda text: ("word", text))
FACTORS = st.sampled_from([0.5, 0.25, 2.0])


def groups(inner: st.SearchStrategy) -> st.SearchStrategy:
    items = st.lists(inner, max_size=3)
    return st.one_of(
        st.tuples(st.just("weight"), items, FACTORS),
        st.tuples(st.just("edit"), items, items, st.integers(0, STEPS)),
        st.tuples(st.just("turns"), st.lists(items, min_size=2, max_size=4)),
    )


def written(items: list) -> str:
    """A tree as somebody would write it."""
    text = ""
    for kind, *values in items:
        if kind == "word":
            text += "".join("\\" + sign if sign in "()[]:|\\" else sign for sign in values[0])
        elif kind == "weight":
            text += f"({written(values[0])}:{values[1]})"
        elif kind == "edit":
            text += f"[{written(values[0])}:{written(values[1])}:{values[2]}]"
        else:
            text += "[" + "|".join(map(written, values[0])) + "]"
    return text


def meant(items: list, step: int, weight: float = 1.0) -> list[tuple[str, float]]:
    """Its characters at a step, each with its weight."""
    signs: list[tuple[str, float]] = []
    for kind, *values in items:
        if kind == "word":
            signs += [(sign, weight) for sign in values[0]]
        elif kind == "weight":
            signs += meant(values[0], step, max(-10, min(10, weight * values[1])))
        elif kind == "edit":
            signs += meant(values[step >= values[2]], step, weight)
        else:
            signs += meant(values[0][step % len(values[0])], step, weight)
    return signs


@given(st.lists(st.recursive(WORDS, groups, max_leaves=12), max_size=4), st.integers(0, STEPS - 1))
def test_what_is_written_is_what_is_read(items: list, step: int) -> None:
    (block,) = parse(written(items)).at(Time(step, STEPS))
    signs = [(sign, span.weight) for span in block for sign in span.text if sign != " "]
    assert signs == [(sign, weight) for sign, weight in meant(items, step) if sign != " "]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 20_000,
        "[" * 20_000,
        "(a" * 20_000 + ")" * 20_000,
        "(a:" + "9" * 20_000,
        "(a:" + "9" * 20_000 + "x)",
        "[a:b:" * 5000,
        "[a:" * 5000 + ":0.4]" * 5000,
        "[a|" * 5000 + "]" * 5000,
        "a AND " + ":9" * 10_000 + "x",
        "AND " * 5000,
        " " * 20_000 + "BREAK",
        "\\" * 20_001,
    ],
    ids=lambda text: text[:8],
)
def test_no_text_is_slow(text: str) -> None:
    began = time.process_time()  # whatever else this machine does
    for part in compose(text):
        part.at(Time(5, STEPS))
    assert time.process_time() - began < 2
