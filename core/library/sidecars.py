"""What lies beside a file of weights and tells of it: Civitai's NAME.civitai.info, Stability Matrix's
NAME.cm-info.json, A1111's NAME.json and NAME.txt, and a preview picture.

They were written by strangers: what is not what it should be says nothing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLD_IN = (".json", ".civitai.info", ".cm-info.json")  # a person's own words first
PREVIEWS = tuple(f"{before}.{ending}" for before in (".preview", "") for ending in ("png", "jpg", "jpeg", "webp"))
FILE_LIMIT = 2**21  # bytes of what is read; Civitai's has all its example pictures' settings in it
MOST_WORDS = 12  # trigger words that are shown
WORD_LIMIT, TITLE_LIMIT, TEXT_LIMIT = 100, 100, 2_000  # characters
TITLES = ("model.name", "ModelName")
VERSIONS = ("name", "VersionName")
WORDS = ("activation text", "trainedWords", "TrainedWords")
NOTES = ("notes", "description", "ModelDescription")
BASES = ("sd version", "baseModel", "BaseModel")
"""Where each fact may stand; the first that says something holds."""
UNKNOWN = ("", "unknown", "other")  # what A1111 and Civitai write where they do not know


@dataclass(frozen=True)
class Sidecar:
    """`base` is the model that it was made for, in its maker's words; `hashes` are hex digits of any length."""

    title: str = ""
    words: tuple[str, ...] = ()
    notes: str = ""
    base: str = ""
    hashes: tuple[str, ...] = ()
    preview: Path | None = None


def beside(path: Path) -> Sidecar:
    """What is told of the file of weights `path`."""
    base = str(path.with_suffix(""))
    told = [read for end in TOLD_IN if (read := _object(Path(base + end)))]
    return Sidecar(
        title=_title(told),
        words=listed(",".join(_texts(_first(told, WORDS)))),
        notes=(_plain(_first(told, NOTES)) or _read(Path(base + ".txt")))[:TEXT_LIMIT],
        base=_base(told),
        hashes=tuple(dict.fromkeys(hash for each in told for hash in _hashes(each, path.name))),
        preview=next((each for end in PREVIEWS if (each := Path(base + end)).is_file()), None),
    )


def listed(text: str) -> tuple[str, ...]:
    """The words of a list with commas between, each once."""
    words = [word.strip()[:WORD_LIMIT] for word in text[:TEXT_LIMIT].split(",")]
    return tuple(dict.fromkeys(word for word in words if word.isprintable() and word))[:MOST_WORDS]


def _title(told: Iterable[Mapping[str, Any]]) -> str:
    """What its maker calls it, and which version it is."""
    for each in told:
        if title := _one_line(_first([each], TITLES)):
            version = _one_line(_first([each], VERSIONS))
            both = f"{title} {version}"
            return next((each for each in (title, version) if title in each and version in each), both)[:TITLE_LIMIT]
    return ""


def _base(told: Iterable[Mapping[str, Any]]) -> str:
    said = (_one_line(_first([each], BASES)) for each in told)
    return next((base[:TITLE_LIMIT] for base in said if base.lower() not in UNKNOWN), "")


def _hashes(told: Mapping[str, Any], name: str) -> Iterator[str]:
    """Of a version's files the one that is called so, or the only one."""
    files = [file for file in _list(told.get("files")) if isinstance(file, dict)]
    own = [file for file in files if file.get("name") == name] or (files if len(files) == 1 else [])
    for holder in (*(file.get("hashes") for file in own), told.get("Hashes")):
        if isinstance(holder, dict):
            yield from (each.lower() for each in holder.values() if _is_hash(each))
    if _is_hash(told.get("sha256")):
        yield told["sha256"].lower()


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f]{8,128}", value) is not None


def _first(told: Iterable[Mapping[str, Any]], paths: Iterable[str]) -> Any:
    """The first of what stands at `paths` that says something."""
    found = (_at(each, path) for each in told for path in paths)
    return next((value for value in found if value), None)


def _at(told: Any, path: str) -> Any:
    for name in path.split("."):
        told = told.get(name) if isinstance(told, dict) else None
    return told


def _texts(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _one_line(value: Any) -> str:
    text = " ".join(value[:TEXT_LIMIT].split()) if isinstance(value, str) else ""
    return text if text.isprintable() else ""


def _plain(value: Any) -> str:
    """Civitai's descriptions are HTML."""
    text = value[: 10 * TEXT_LIMIT] if isinstance(value, str) else ""
    text = html.unescape(re.sub(r"<[^<>]*>", " ", text)).strip() if "<" in text else text
    return text.encode("utf-8", "replace").decode("utf-8")


def _object(path: Path) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        read = json.loads(_read(path))
        return read if isinstance(read, dict) else {}
    return {}


def _read(path: Path) -> str:
    """A text file; nothing if it is not there or larger than any such file."""
    with suppress(OSError):
        if path.is_file() and path.stat().st_size <= FILE_LIMIT:
            return path.read_text("utf-8", "replace")
    return ""
