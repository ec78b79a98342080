"""ComfyUI's graph as data: what comes out of a link, followed through the nodes that are known to hand it on.

A node that is not known ends the way: what lies behind it may be another thing than what came out. Graphs are made by
strangers: they may run in circles, be of any depth, and hold anything where a value is due.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

MOST_HOPS = 100  # from a sampler to what it was given
MOST_LOOKS = 2_000  # at nodes, in all
MOST_JOINED = 2**16  # characters
HANDS_ON = re.compile(r"reroute|any switch", re.IGNORECASE)  # of several links the first: others are where none is
SHOWS = re.compile(r"show|display|preview", re.IGNORECASE)
JOINS = re.compile(r"concat|join", re.IGNORECASE)
WAS, PYSSSSS = DROP_EMPTY = ("Text Concatenate", "StringFunction|pysssss")
JOINED = re.compile(r"(?:text|string|str|prompt)_?([a-z]|\d{1,2})")
TEXT = ("text", "value", "string", "prompt", "Text", "String")
NUMBER = ("value", "int", "float", "number", "Number", "seed")
ABOUT = ("control_after_generate", "min", "max", "step", "title", "mode")  # how a value is shown and changed
ENCODED = (("text_l", "text_g"), ("clip_l", "t5xxl"), ("text",), ("prompt",))  # for the first encoder, and the second
LOADER = re.compile(r"loader", re.IGNORECASE)
TWO_OUT = {
    "ACN_AdvancedControlNetApply": 0,
    "ControlNetApplyAdvanced": 0,
    "ControlNetApplySD3": 0,
    "Efficient Loader": 1,
    "InpaintModelConditioning": 0,
}
"""Nodes with an output for each side, and which of theirs is the positive one."""
SIDES = ("positive", "negative")
PARTIAL = re.compile(r"area|mask|timestep|gligen|average", re.IGNORECASE)  # a prompt for a part of the picture or run


class Node(NamedTuple):
    key: str
    kind: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Said:
    """What a text encoder was told: `first` (None: nothing), `second` if the second one was told another thing."""

    first: str | None
    second: str | None = None
    clip: Any = None
    guidance: float | None = None


class Graph(dict[str, Node]):
    """The nodes by their ids. An input is a value, or a link [id, output]."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        super().__init__({node.key: node for node in nodes})
        self._looks = MOST_LOOKS

    def source(self, link: Any) -> Node | None:
        """The node that `link` comes from, past those that only hand on what they are given."""
        found = self._output(link)
        return found[0] if found else None

    def _output(self, link: Any) -> tuple[Node, Any] | None:
        """The same, and which of its outputs."""
        for _ in range(MOST_HOPS):
            self._looks -= 1
            node = self.get(str(link[0])) if is_link(link) and self._looks >= 0 else None
            if node is None or not HANDS_ON.search(node.kind):
                return (node, link[1]) if node else None
            link = next(filter(is_link, node.inputs.values()), None)
        return None

    def upstream(self, *links: Any) -> Iterator[Node]:
        """Every node that `links` lead to, each once."""
        waiting, seen = list(links), set()
        while waiting:
            link = waiting.pop()
            key = str(link[0]) if is_link(link) else ""
            if key in self and key not in seen:
                seen.add(key)
                yield self[key]
                waiting += self[key].inputs.values()

    def number(self, value: Any, name: str) -> int | float | None:
        """A number, or the one that the node behind a link holds under `name` or as its only one."""
        for _ in range(MOST_HOPS):
            if isinstance(value, int | float):
                return value
            node = self.source(value)
            if node is None:
                return None
            given = {key: each for key, each in node.inputs.items() if key not in ABOUT}
            if len(given) != 1 and not isinstance(given.get(name), int | float):
                return None
            value = given.get(name) if name in given else next((given[key] for key in NUMBER if key in given), None)
        return None

    def text(self, value: Any, *names: str, hops: int = MOST_HOPS) -> str | None:
        """A text, or what the nodes behind a link hold, under one of `names` too, or make of those that they join."""
        if isinstance(value, str):
            return value
        node = self.source(value)
        if node is None or hops <= 0:
            return None
        for name in ("populated_text", *names):
            if isinstance(node.inputs.get(name), str):
                return str(node.inputs[name])
        if JOINS.search(node.kind) or node.kind == PYSSSSS:
            return self._join(node, hops - 1)
        given = [each for key, each in node.inputs.items() if key not in ABOUT]
        if SHOWS.search(node.kind):
            given = [each for each in given if is_link(each)]
        known = next((node.inputs[name] for name in (*names, *TEXT) if name in node.inputs), None)
        return self.text(known, *names, hops=hops - 1) if len(given) == 1 else None

    def _join(self, node: Node, hops: int) -> str | None:
        """The texts of a node that joins them, in the order of their names; as WAS's and pysssss's do it, too."""
        names = sorted((key for key in node.inputs if JOINED.fullmatch(key)), key=lambda key: (len(key), key))
        parts = [self.text(node.inputs[name], hops=hops) for name in names]
        texts = [part for part in parts if part is not None]
        between = _between(node)
        if len(texts) < len(parts) or len(names) < 2 or between is None or sum(map(len, texts)) > MOST_JOINED:
            return None
        if node.inputs.get("clean_whitespace") == "true":
            texts = [text.strip() for text in texts]
        return between.join(text for text in texts if text or node.kind not in DROP_EMPTY)

    def texts(self, link: Any) -> list[str]:
        """Every text that an encoder behind `link` may have been told."""
        keys = {name for names in ENCODED for name in names} | {"clip_g", *TEXT}
        given = [value for node in self.upstream(link) for key, value in node.inputs.items() if key in keys]
        return [text for text in given if isinstance(text, str)]

    def said(self, link: Any, side: str, hops: int = MOST_HOPS) -> Said | None:
        """What a conditioning says; None if that is not sure, as of a part of the picture or of a mixture."""
        node, output = self._output(link) or (None, None)
        if node is None or hops <= 0 or PARTIAL.search(node.kind):
            return None
        if node.kind == "ConditioningZeroOut":
            return Said(None)
        if node.kind == "ConditioningConcat":
            return self._concat(node, side, hops - 1)
        if set(SIDES) <= node.inputs.keys():
            return self._of_side(node, _side(node.kind, output) or side, hops)
        behind = [each for key, each in node.inputs.items() if key.startswith("conditioning") and is_link(each)]
        if not behind:
            return self._encoded(node)
        said = self.said(behind[0], side, hops - 1) if len(behind) == 1 else None
        guidance = self.number(node.inputs.get("guidance"), "guidance")
        return replace(said, guidance=guidance) if said and guidance is not None else said

    def _of_side(self, node: Node, side: str, hops: int) -> Said | None:
        given = node.inputs[side]
        if isinstance(given, str) or LOADER.search(node.kind):  # the Efficient Loader encodes as well
            text = self.text(given, side)
            return None if text is None else Said(text, clip=node.inputs.get("clip_skip"))
        return self.said(given, side, hops - 1)

    def _concat(self, node: Node, side: str, hops: int) -> Said | None:
        """One after the other, each in tokens of its own: as BREAK does it."""
        both = [self.said(node.inputs.get(f"conditioning_{end}"), side, hops) for end in ("to", "from")]
        first, last = both
        if first is None or last is None or first.first is None or last.first is None:
            return None
        second = None
        if first.second is not None or last.second is not None:
            second = f"{_second(first)} BREAK {_second(last)}"
        return replace(first, first=f"{first.first} BREAK {last.first}", second=second)

    def _encoded(self, node: Node) -> Said | None:
        """What a node tells one text encoder, or two: those of XL, or of FLUX."""
        inputs = node.inputs
        names = next((each for each in ENCODED if set(each) <= inputs.keys()), ())
        if not names or ("clip" not in inputs and len(inputs) > 1):
            return None
        if "clip_g" in inputs:  # SD 3's third
            names = (*names, "clip_g")
        texts = [self.text(inputs[name]) for name in names]
        first, *others = texts
        if any(text is None for text in texts) or (len(texts) > 2 and len(set(texts)) > 1):
            return None
        second = others[0] if others and others[0] != first else None
        return Said(first, second, inputs.get("clip"), self.number(inputs.get("guidance"), "guidance"))


def _side(kind: str, output: Any) -> str | None:
    """The side of an output, if the node is known to have two."""
    return SIDES[output - TWO_OUT[kind]] if kind in TWO_OUT and output - TWO_OUT[kind] in (0, 1) else None


def _between(node: Node) -> str | None:
    """What a node puts between the texts that it joins."""
    if node.kind == PYSSSSS:
        return (
            {"yes": ", ", "no": ""}.get(str(node.inputs.get("tidy_tags")))
            if node.inputs.get("action") == "append"
            else None
        )
    given = node.inputs.get("delimiter", node.inputs.get("separator"))
    return ("\n" if given == "\\n" and node.kind == WAS else given) if isinstance(given, str) else None


def _second(said: Said) -> str:
    return said.second if said.second is not None else said.first or ""


def is_link(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and isinstance(value[1], int)
    )
