"""What a picture, a prompt or a browser's memory names that is not on this machine: one list for every kind of file,
and the settings with what takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from core.library.names import nearest, same_hash
from core.library.telling import called
from core.request import LANCZOS, SECOND_PROMPTS, Hires, rename_tags

MODELS = ("checkpoint", "refiner", "vae")  # fields that each hold a name
LISTS = (
    ("loras", "lora", "name"),
    ("controls", "controlnet", "net"),
)  # fields of several, what each names, and where
PROMPTS = ("prompt", "negative_prompt", *SECOND_PROMPTS)


class Kind(NamedTuple):
    """What a kind of file is called, and what happens where one is missing."""

    title: str
    instead: str


KINDS = {
    "checkpoint": Kind("Model", "the one that is chosen here takes its place"),
    "refiner": Kind("Refiner", "it is drawn without one"),
    "vae": Kind("VAE", "the model's own takes its place"),
    "upscaler": Kind("Upscaler", f"{LANCZOS} takes its place"),
    "lora": Kind("LoRA", "it is left out"),
    "controlnet": Kind("ControlNet", "its unit is left out"),
    "embedding": Kind("Embedding", "it is drawn without it"),
}


@dataclass(frozen=True)
class Here:
    """What is here of one kind: all names, the one that a name means, and each name with a hash of its file."""

    names: Collection[str]
    find: Callable[[str], str | None]
    hashes: Callable[[], Iterable[tuple[str, str]]] = tuple


@dataclass(frozen=True)
class Missing:
    """A file that is not here, and the one that is called most like it."""

    kind: str
    name: str
    nearest: str | None = None

    def __str__(self) -> str:
        title, instead = KINDS[self.kind]
        offer = f" The nearest here is “{self.nearest}”." if self.nearest else ""
        return f"{title} “{self.name}” is not on this machine; {instead}.{offer}"


@dataclass(frozen=True)
class AtHand:
    """Settings as this machine can draw them: every name is one of its files, and what was not is among `missing`."""

    fields: Mapping[str, Any]
    missing: tuple[Missing, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(str, self.missing))


def renamed(fields: Mapping[str, Any], find: Callable[[str, str], str | None]) -> dict[str, Any]:
    """Those of a request's `fields` that name files, with the names that `find` has for a kind and a name. Where it
    has none, the kind's place is empty, or Lanczos.
    """
    made: dict[str, Any] = {kind: find(kind, name) for kind in MODELS if (name := fields.get(kind))}
    if isinstance(hires := fields.get("hires"), Hires):
        made["hires"] = hires.replace(upscaler=find("upscaler", hires.upscaler) or LANCZOS)
    for name, kind, part in LISTS:
        found = [(each, find(kind, getattr(each, part))) for each in fields.get(name) or ()]
        made |= {name: tuple(each.replace(**{part: own}) for each, own in found if own)} if found else {}
    return made | {name: rename_tags(text, partial(find, "lora")) for name, text in _prompts(fields)}


def at_hand(
    fields: Mapping[str, Any],
    here: Callable[[str], Here],
    hashes: Mapping[str, str],
    others: Iterable[tuple[str, str]] = (),
) -> AtHand:
    """A request's `fields` with the names that this machine has for what they name. `hashes`: of files, by the names
    that `fields` have for them; `others`: kinds and names of files that it names beside them.
    """
    missing: dict[Missing, None] = {}

    def find(kind: str, name: str) -> str | None:
        there = here(kind)
        found = there.find(name) or _by_hash(hashes.get(name), there)
        if found is None:
            missing[Missing(kind, name, nearest(name, there.names))] = None
        return found

    made = {**fields, **renamed(fields, find)}
    words = here("embedding").names
    named = (name for _, text in _prompts(fields) for name in called(text, words))
    for kind, name in dict.fromkeys((*others, *(("embedding", name) for name in named))):
        find(kind, name)
    if made.get("checkpoint", "") is None:
        del made["checkpoint"]
    return AtHand(made, tuple(missing))


def _prompts(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((name, text) for name in PROMPTS if isinstance(text := fields.get(name), str))


def _by_hash(hash: str | None, here: Here) -> str | None:
    return next((name for name, known in here.hashes() if same_hash(hash, known)), None) if hash else None
