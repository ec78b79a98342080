r"""The language of prompts, as A1111 made it common.

(word)  [word]        × 1.1, ÷ 1.1; they nest
(word:1.3)            × 1.3
[a:b:0.4]             a, and b after this share of the steps; a number without a point counts steps
[a:0.4]  [a::0.4]     a only after it, only before it
[a|b|c]               in turns, a step each
a BREAK b             b begins a new chunk of the encoder's tokens
a AND b:0.5           two predictions added up, each with its weight
\( \) \[ \] \: \| \\  the characters themselves

Any text means something: a bracket that closes nothing is itself, one that is never closed reaches to the end, and
what looks like a number but is none is text. Parsing takes time linear in the text, however deep it nests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Union

EMPHASIS = 1.1
WEIGHT_LIMIT = 10.0  # weights, and products of nested ones, stay within ± this
_PIECES = re.compile(r"\\.?|[()\[\]:|]|[^\\()\[\]:|]+", re.DOTALL)
_FOLDERS = re.compile(r"embedding:[^\s,:|()\[\]\\]+(?:\\[^\s,:|()\[\]\\]+)+", re.IGNORECASE)  # of ComfyUI on Windows
_NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*", re.ASCII)


class Span(NamedTuple):
    """A run of text that is read with one weight."""

    text: str
    weight: float = 1.0


Wording = tuple[tuple[Span, ...], ...]
"""What a prompt says at one step: blocks of spans; each block but the first followed a BREAK."""


class Time(NamedTuple):
    """Step `step` (0 …) of a run of `steps`; `before`: how many runs came before it, one in a second pass."""

    step: int
    steps: int
    before: int = 0


class _Mark(str):
    """A colon or bar that was not escaped: text, unless the bracket around it closes and gives it a meaning."""

    __slots__ = ()


Item = Union[str, "Group"]


@dataclass(frozen=True, eq=False, repr=False)
class Group:
    """What a pair of brackets holds: one branch with a factor, or several of which a step reads one.

    `when` is where the second of two branches begins: a share of the steps, or with `counted` their number.
    Without it, branches take turns.
    """

    branches: tuple[Sequence[Item], ...]
    factor: float = 1.0
    when: float | None = None
    counted: bool = False

    def at(self, time: Time) -> Sequence[Item]:
        if self.when is None:
            return self.branches[time.step % len(self.branches)]
        share = 0 if self.counted and time.before else self.when - time.before
        first = share if self.counted else round(share * time.steps, 6)  # 0.7 * 10 is 7, not 6.99…
        return self.branches[time.step >= int(first)]


@dataclass(frozen=True, eq=False, repr=False)
class Part:
    """One prompt of those that AND joins."""

    items: Sequence[Item]
    weight: float = 1.0

    def at(self, time: Time) -> Wording:
        """What it says then: the same for equal texts, as a key of what was encoded."""
        runs: list[tuple[list[str], float]] = []
        for text, weight in self._read(time):
            if runs and runs[-1][1] == weight:
                runs[-1][0].append(text)
            else:
                runs.append(([text], weight))
        return tuple(_blocks(("".join(texts), weight) for texts, weight in runs))

    def _read(self, time: Time) -> Iterator[tuple[str, float]]:
        open_groups = [(iter(self.items), 1.0)]
        while open_groups:
            items, weight = open_groups[-1]
            item = next(items, None)
            if item is None:
                open_groups.pop()
            elif isinstance(item, Group):
                open_groups.append((iter(item.at(time)), _within(weight * item.factor)))
            else:
                yield item, weight


def parse(text: str) -> Part:
    """One prompt, in which AND is a word like any other."""
    return Part(_parse(text))


def compose(text: str) -> tuple[Part, ...]:
    """The prompts that AND joins, with their weights; just one if there is no AND."""
    texts = re.split(r"\bAND\b", text)
    if len(texts) == 1:
        return (parse(text),)
    return tuple(_weighted_part(part) for part in texts)


def _weighted_part(text: str) -> Part:
    before, _, after = text.rpartition(":")
    weight = _number(after) if before else None
    return Part(_parse(text)) if weight is None else Part(_parse(before), _within(weight))


def _parse(text: str) -> list[Item]:
    closes = {"(": ")", "[": "]"}
    means = {")": _round, "]": _square}
    frames: list[tuple[str, list[Item]]] = [("", [])]  # what will close each open bracket, and what it holds so far
    slanted = _FOLDERS.sub(lambda name: name[0].replace("\\", "/"), text)
    for piece in _PIECES.findall(slanted):
        items = frames[-1][1]
        if piece in closes:
            frames.append((closes[piece], []))
        elif piece == frames[-1][0]:
            frames.pop()
            frames[-1][1].append(means[piece](items))
        elif piece in ":|":
            items.append(_Mark(piece))
        else:
            items.append(piece[1:] if piece[0] == "\\" else piece)
    while len(frames) > 1:  # never closed
        closing, items = frames.pop()
        frames[-1][1].append(Group((items,), EMPHASIS if closing == ")" else 1 / EMPHASIS))
    return frames[0][1]


def _round(items: list[Item]) -> Group:
    number = _number(items[-1]) if len(items) > 1 and _is(items[-2], ":") else None
    if number is None:
        return Group((items,), EMPHASIS)
    return Group((items[:-2],), _within(number))


def _square(items: list[Item]) -> Group:
    turns = _split(items, "|")
    if len(turns) > 1:
        return Group(tuple(turns))
    *texts, last = _split(items, ":")
    number = _number(last[0]) if len(last) == 1 else None
    if number is None or len(texts) not in (1, 2):
        return Group((items,), 1 / EMPHASIS)
    before, after = texts if len(texts) == 2 else ([], texts[0])
    counted = "." not in str(last[0])
    return Group((before, after), when=min(number, 1e6), counted=counted)


def _split(items: list[Item], mark: str) -> list[list[Item]]:
    parts: list[list[Item]] = [[]]
    for item in items:
        if _is(item, mark):
            parts.append([])
        else:
            parts[-1].append(item)
    return parts


def _is(item: Item, mark: str) -> bool:
    return isinstance(item, _Mark) and item == mark


def _number(item: Item) -> float | None:
    """The number that a text spells, None if it is none (nan, inf and 1e30 are words here)."""
    found = _NUMBER.fullmatch(item) if isinstance(item, str) else None
    return float(found[1]) if found else None


def _within(weight: float) -> float:
    return max(-WEIGHT_LIMIT, min(weight, WEIGHT_LIMIT))


def _blocks(runs: Iterator[tuple[str, float]]) -> list[tuple[Span, ...]]:
    """The runs of text as spans, cut into blocks where BREAK stands."""
    blocks: list[list[Span]] = [[]]
    for text, weight in runs:
        for number, piece in enumerate(re.split(r"\bBREAK\b", text)):
            if number:
                blocks.append([])
            if piece.strip():
                blocks[-1].append(Span(piece, weight))
    return [tuple(block) for block in blocks]
