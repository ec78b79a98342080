"""Which file a name means: the one rule for models, VAEs, LoRAs, embeddings, upscalers, ControlNets and refiners.

A picture, a prompt or a program says a name as its own tool has it. It means what is called exactly so; else what is
called so without regard to case, Unicode's forms and the slant of slashes; else without the ending; else without the
folders. Where two files would be meant, neither is.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Iterable

from core.library.headers import GGUF, PICKLES, SAFETENSORS

ENDINGS = (*SAFETENSORS, *PICKLES, GGUF)
LEAST_HASH = 8  # hex digits by which a file may be told
LIKENESS = 0.6  # of names that are near each other


def plain(name: str) -> str:
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return folded.replace("\\", "/")


def without_ending(name: str) -> str:
    """`plain`, without the ending of a file of weights."""
    told = plain(name)
    return next((told.removesuffix(ending) for ending in ENDINGS if told.endswith(ending)), told)


def stem(name: str) -> str:
    """`without_ending`, and without folders; a way out of them means nothing."""
    told = without_ending(name)
    return told if ".." in told.split("/") else told.rpartition("/")[2]


READINGS: tuple[Callable[[str], str], ...] = (str, plain, without_ending, stem)


def meant(name: str, known: Iterable[str]) -> list[str]:
    """Those of `known` that `name` means, by the strictest reading that finds any."""
    every = list(known)
    hits = ([each for each in every if reading(each) == reading(name)] for reading in READINGS)
    return next(filter(None, hits), [])


def the_one(name: str, known: Iterable[str]) -> str | None:
    """What `name` means, if it is one."""
    found = meant(name, known)
    return found[0] if len(found) == 1 else None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is called most like `name`, if any is."""
    by_stem = {stem(each): each for each in known}
    close = difflib.get_close_matches(stem(name), by_stem, n=1, cutoff=LIKENESS)
    return by_stem[close[0]] if close else None


def same_hash(one: str, other: str) -> bool:
    """Whether two hashes are one, of which each may be cut short."""
    one, other = one.lower(), other.lower()
    shorter = min(len(one), len(other))
    return shorter >= LEAST_HASH and one[:shorter] == other[:shorter]
