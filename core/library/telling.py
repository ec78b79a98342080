"""What of the written prompts a model is told, and what is said of the rest.

Comments and other tools' tags are left out, as in A1111, and embeddings are named as encoders find them. The request
itself keeps what was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from core.library.checkpoints import Checkpoint
from core.library.embeddings import PROMPTS, Embedding, named
from core.library.headers import PICKLES, SAFETENSORS
from core.library.names import meant
from core.prompts import word
from core.request import GenerationRequest, short, without_comments, words_of

SIGNS = r"()[]:|"  # of the prompts' language, which a name may hold
ENDINGS = "|".join(re.escape(ending) for ending in (*SAFETENSORS, *PICKLES))
NAME = r"(?:\\.|[^\s,()\[\]:|<>\\])+"  # after "embedding:", where there is none of that name


@dataclass(frozen=True)
class Told:
    """A request with its prompts as encoders read them, and a sentence for all that is not read as it stands."""

    request: GenerationRequest
    notes: tuple[str, ...] = ()


def tell(request: GenerationRequest, checkpoint: Checkpoint, embeddings: Sequence[Embedding]) -> Told:
    notes: dict[str, None] = {}
    changes: dict[str, str] = {}
    for name in PROMPTS:
        if text := getattr(request, name):
            label = str(GenerationRequest.model_fields[name].title)
            told = _without_foreign(text, label, notes)
            changes[name] = _renamed(told, checkpoint, embeddings, notes)
    changes = {name: text for name, text in changes.items() if text != getattr(request, name)}
    return Told(request.replace(**changes) if changes else request, tuple(notes))


def _without_foreign(text: str, label: str, notes: dict[str, None]) -> str:
    bare = without_comments(text)
    if bare != text:
        notes[f"{label}: what follows # is a comment and not drawn; \\# is the character"] = None
    return words_of(bare, label, notes)


def _renamed(text: str, checkpoint: Checkpoint, known: Sequence[Embedding], notes: dict[str, None]) -> str:
    """`text` with each embedding by the one name under which its vectors are found."""
    usable = [each for each in known if each.fits(checkpoint) or each.problem]
    text = _pattern(known, usable).sub(lambda found: _renaming(found, known, usable, notes), text)
    names = {word(each.name) for each in usable}
    for other in named(text, (each for each in known if word(each.name) not in names)):
        notes[f"“{other.name}” is read as a word: the embedding of that name is for another model"] = None
    return text


def _renaming(
    found: re.Match[str], known: Sequence[Embedding], usable: Sequence[Embedding], notes: dict[str, None]
) -> str:
    if bare := found["bare"]:
        return _escaped(_plain(bare))
    names = meant(_plain(found["known"] or found["missing"]), (each.reference for each in known))
    called = [each for each in known if each.reference in names]
    fitting = [each for each in usable if each in called and not each.problem]
    if chosen := fitting or [each for each in usable if each in called]:
        return _escaped(f"embedding:{chosen[-1].reference}")
    why = "is for another model" if called else "is not here"
    notes[f"“{short(found[0])}” is left out: the embedding {why}"] = None
    return ""


def called(text: str, known: Iterable[str]) -> list[str]:
    """What a prompt calls embeddings, after "embedding:"; where it says one of the `known` names, that."""
    pattern = re.compile(_explicit(known), re.IGNORECASE)
    return [_plain(each["known"] or each["missing"]) for each in pattern.finditer(without_comments(text))]


def _pattern(known: Iterable[Embedding], usable: Iterable[Embedding]) -> re.Pattern[str]:
    """Where a prompt names an embedding: after "embedding:", or by a usable name that holds SIGNS, escaped or not."""
    names = {name for each in known for name in (each.name, each.reference)}
    signed = {each.name for each in usable if set(each.name) & set(SIGNS)}
    return re.compile(rf"{_explicit(names)}|(?<!\w)(?P<bare>{_any_of(signed, _strictly)})(?!\w)", re.IGNORECASE)


def _explicit(names: Iterable[str]) -> str:
    known = rf"(?P<known>{_any_of(names, _loosely)})(?:{ENDINGS})?(?!\w|[-./\\]\w)"
    return rf"(?<!\w)embedding:(?:{known}|(?P<missing>{NAME}))"


def _any_of(names: Iterable[str], spelled: Callable[[str], Iterator[str]]) -> str:
    forms = {form for name in names for form in (name, unicodedata.normalize("NFD", name))}
    return "|".join("".join(spelled(form)) for form in sorted(forms, key=len, reverse=True)) or r"(?!)"


def _loosely(name: str) -> Iterator[str]:
    for sign in name:
        yield r"[/\\]+" if sign == "/" else rf"\\?{re.escape(sign)}" if sign in SIGNS else re.escape(sign)


def _strictly(name: str) -> Iterator[str]:
    """Without its word before them, only brackets inside a name may do without a backslash."""
    for place, sign in enumerate(name):
        is_loose = place > 0 and sign in "()[]"
        yield rf"\\{'?' if is_loose else ''}{re.escape(sign)}" if sign in SIGNS else re.escape(sign)


def _plain(name: str) -> str:
    return re.sub(r"[/\\]+(?![()\[\]:|])", "/", name).replace("\\", "")


def _escaped(name: str) -> str:
    return re.sub(rf"([{re.escape(SIGNS)}])", r"\\\1", name)
