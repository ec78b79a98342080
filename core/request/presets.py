"""Presets: styles, settings and sizes, as YAML that ships with Darkroom and YAML of the user's own.

Both folders may hold styles.yaml, settings.yaml and sizes.yaml. What is wrong in a file is named and skipped; the
rest goes on. The user's entry wins over a shipped one of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

import yaml
from pydantic import Field

from core.errors import DarkroomError, NotFound, RequestError, StorageError
from core.request.generation import GenerationRequest
from core.request.parameters import PICTURES, Name, Parameters, Side, Text
from core.request.tags import closed
from core.storage import storage, write_file

Kind = Literal["styles", "settings", "sizes"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE_LIMIT = 2**17  # bytes of one file
NAME_LIMIT = 100  # characters


class Style(Parameters):
    """What is put around a prompt and a negative prompt."""

    prompt: Text = Field("{prompt}", max_length=5_000, title="Prompt", description="{prompt} is the person's own")
    negative_prompt: Text = Field("", max_length=5_000, title="Negative prompt", description="Added to the person's")
    suits: Literal["real", "pocket"] = Field("real", title="Suits", description="The models it was written for")

    def apply(self, request: GenerationRequest) -> GenerationRequest:
        return request.replace(
            prompt=_around(self.prompt, request.prompt),
            negative_prompt=_around(self.negative_prompt, request.negative_prompt),
        )


def _around(template: str, text: str) -> str:
    """`text` in the place of {prompt}, or before a template without it; no comma is left where `text` is empty."""
    text = closed(text) if template.rpartition("{prompt}")[2] else text
    if "{prompt}" not in template:
        return ", ".join(part for part in (text, template) if part)
    return template.replace("{prompt}", text) if text else template.replace("{prompt}", "").strip(" ,")


class Size(Parameters):
    """A shape of pictures: a ratio such as "3:2", at the area a model was made for, or pixels."""

    ratio: Name | None = Field(None, title="Ratio", description="Width to height, such as 3:2")
    width: Side = Field(None, title="Width")
    height: Side = Field(None, title="Height")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if (self.ratio is None, self.width is None, self.height is None) not in (
            (False, True, True),
            (True, False, False),
        ):
            raise RequestError("ratio", self.ratio, "either a ratio, or a width and a height", "Ratio")
        if self.ratio is not None and not all(1 <= side <= 64 for side in self._sides()):
            raise RequestError("ratio", self.ratio, "two whole numbers from 1 to 64, such as 3:2", "Ratio")

    def pixels(self, native_size: int) -> tuple[int, int]:
        """Width and height for a model made for squares of `native_size` pixels.

        A ratio's sides are rounded to a sixteenth of that, as SDXL was trained with 64 of 1024.
        """
        if self.ratio is None:
            assert self.width and self.height
            return self.width, self.height
        width, height = self._sides()
        grid = max(8, native_size // 128 * 8)
        stretch = (width / height) ** 0.5
        return max(64, round(native_size * stretch / grid) * grid), max(
            64, round(native_size / stretch / grid) * grid
        )

    def _sides(self) -> tuple[int, int]:
        """The ratio's two numbers, 0 for whatever is none."""
        width, _, height = (self.ratio or "").partition(":")
        return _side(width), _side(height)


def _side(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 3 else 0


Setting = Mapping[str, Any]  # some of a request's fields by name, as a request takes them
Preset = Style | Setting | Size


def _setting(**values: Any) -> Setting:
    for name in (*PICTURES, "controls"):
        if name in values:
            raise RequestError(name, name, "fields without pictures", "Field")
    request = GenerationRequest(**values)
    return {name: getattr(request, name) for name in values}


MAKERS: Mapping[Kind, Callable[..., Preset]] = {"styles": Style, "settings": _setting, "sizes": Size}


@dataclass(frozen=True)
class PresetLibrary:
    """All presets by name, the shipped ones first; `own` are the user's; `problems` says what was skipped and why."""

    styles: Mapping[str, Style] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    own: frozenset[tuple[str, str]] = frozenset()  # (kind, name)
    problems: tuple[str, ...] = ()

    def apply_styles(self, request: GenerationRequest, names: Iterable[str]) -> GenerationRequest:
        """Puts the styles around the prompts one after the other; RequestError for an unknown one."""
        for name in names:
            if name not in self.styles:
                raise RequestError("name", name, "one of " + ", ".join(self.styles), "Style")
            request = self.styles[name].apply(request)
        return request


class Presets:
    """The presets of two folders. `library` is what was read last; only the user's folder is ever written to."""

    def __init__(self, shipped: Path, user: Path) -> None:
        self._shipped, self._user = shipped, user
        self._lock = Lock()
        self.library = self.load()

    def load(self) -> PresetLibrary:
        """Reads both folders anew."""
        presets: dict[Kind, dict[str, Any]] = {kind: {} for kind in KINDS}
        own: set[tuple[Kind, str]] = set()
        problems: list[str] = []
        for folder in (self._shipped, self._user):
            for kind in KINDS:
                checked, wrong = _checked(kind, folder)
                presets[kind] |= checked
                problems += wrong
                own |= {(kind, name) for name in checked if folder == self._user}
        self.library = PresetLibrary(**presets, own=frozenset(own), problems=tuple(problems))
        return self.library

    def save(self, kind: Kind, name: str, values: Mapping[str, Any], *, overwrite: bool = False) -> PresetLibrary:
        """Keeps a preset of the user's: a style's or size's values, or a request's fields.

        Raises RequestError for a bad name or value, or a taken name unless told to `overwrite`; StorageError if the
        user's file is damaged, full or cannot be written.
        """
        if kind not in KINDS:
            raise RequestError("kind", kind, "one of " + ", ".join(KINDS), "Preset")
        values = _as_data(_make(kind, name, values))
        with self._lock:
            if name in getattr(self.library, kind) and not overwrite:
                raise RequestError("name", name, "a name that is not taken, or overwrite it", "Name")
            _write(self._user / f"{kind}.yaml", _entries_or_error(self._user, kind) | {name: values})
            return self.load()

    def delete(self, kind: Kind, name: str) -> PresetLibrary:
        """Removes a preset of the user's; NotFound for any other."""
        with self._lock:
            if (kind, name) not in self.library.own:
                raise NotFound("There is no such preset of your own.")
            entries = _entries_or_error(self._user, kind)
            entries.pop(name, None)
            _write(self._user / f"{kind}.yaml", entries)
            return self.load()


# Checking


def _make(kind: Kind, name: object, values: object) -> Preset:
    """The preset that `values` describe; RequestError if they, or the name, do not do."""
    if not isinstance(name, str):
        raise RequestError("name", name, "text in quotes", "Name")
    if not (0 < len(name) <= NAME_LIMIT and name.isprintable() and name == name.strip()):
        raise RequestError("name", name, f"1 to {NAME_LIMIT} printable characters", "Name")
    if set(name) & {"/", "\\"} or name in (".", ".."):
        raise RequestError("name", name, "a name without slashes", "Name")
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise RequestError("values", "this entry", "lines such as “steps: 20” below the name", "Preset")
    return MAKERS[kind](**values)


def _checked(kind: Kind, folder: Path) -> tuple[dict[str, Preset], list[str]]:
    """A file's good entries, and what is wrong with the others."""
    try:
        entries = _entries(folder / f"{kind}.yaml")
    except ValueError as error:
        return {}, [f"{kind}.yaml is skipped: {error}."]
    good: dict[str, Preset] = {}
    wrong: list[str] = []
    for name, values in entries.items():
        try:
            good[name] = _make(kind, name, values)
        except DarkroomError as error:
            wrong.append(f"“{str(name)[:NAME_LIMIT]}” in {kind}.yaml is skipped. {error}")
    return good, wrong


def _as_data(preset: Preset) -> dict[str, Any]:
    """A preset as what YAML can hold."""
    if isinstance(preset, Parameters):
        return preset.model_dump(exclude_none=True)
    return GenerationRequest(**preset).model_dump(mode="json", include=set(preset))


# Files


class _Loader(yaml.SafeLoader):
    """YAML without aliases, which can grow a small file beyond measure, and without silently lost entries."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if key.value in names:
                raise yaml.MarkedYAMLError(problem="the same name twice", problem_mark=key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


def _entries(path: Path) -> dict[Any, Any]:
    """A file's entries, unchecked; none if there is no file. ValueError says what is wrong, in words for people."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError:
        raise ValueError("it cannot be read") from None
    if len(data) > FILE_LIMIT:
        raise ValueError(f"it is larger than {FILE_LIMIT // 1024} kB")
    try:
        entries = yaml.load(data.decode("utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or 'not YAML'}{line}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        raise ValueError("it is not YAML of text, numbers and lists without aliases") from None
    if entries is not None and not isinstance(entries, dict):
        raise ValueError("it is no list of names with values")
    return entries or {}


def _entries_or_error(folder: Path, kind: Kind) -> dict[Any, Any]:
    try:
        return _entries(folder / f"{kind}.yaml")
    except ValueError as error:
        raise StorageError(f"Your {kind}.yaml is damaged: {error}. Repair or remove it first.") from None


def _write(path: Path, entries: Mapping[Any, Any]) -> None:
    data = yaml.safe_dump(dict(entries), allow_unicode=True, sort_keys=False).encode()
    if len(data) > FILE_LIMIT:
        raise StorageError(f"Your {path.name} would grow beyond {FILE_LIMIT // 1024} kB. Delete some presets first.")
    with storage():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
