"""Loaded models, kept within a budget of bytes; the least recently used go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Key(NamedTuple):
    """A part of a model on disk: path, size in bytes, modification time in ns. A replaced file is another key, and so
    are its weights rounded to 8 bits.
    """

    path: Path
    size: int
    modified: int
    rounded: bool = False


@dataclass(frozen=True)
class Loaded:
    """A part of a model in memory: "pocket/unet", its bytes, its numbers' type and where it is."""

    name: str
    size: int
    dtype: str
    device: str


@dataclass
class _Entry:
    size: int
    users: int = 0
    model: Any = None
    loading: threading.Lock = field(default_factory=threading.Lock)


class ModelCache:
    """Models by key. What is in use is never dropped; several who want the same model load it once."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values())

    def __contains__(self, key: Key) -> bool:
        with self._lock:
            return key in self._entries and self._entries[key].model is not None

    @contextmanager
    def use(self, key: Key, size: int, load: Callable[[], Any]) -> Iterator[Any]:
        """The model of `key`, loaded if need be, kept at least until the block ends. `size` is in bytes."""
        entry = self._pin(key, size)
        try:
            with entry.loading:
                if entry.model is None:
                    entry.model = load()
            yield entry.model
        finally:
            self._unpin(key, entry)

    def size_of(self, keys: Collection[Key]) -> int:
        with self._lock:
            return sum(entry.size for key, entry in self._entries.items() if key in keys)

    def models(self, but: Collection[Key] = ()) -> list[tuple[Key, int, Any]]:
        """All networks that are loaded, without those of `but`: key, bytes, model. Tokenizers and LoRAs are none."""
        with self._lock:
            entries = [(key, entry.size, entry.model) for key, entry in self._entries.items() if key not in but]
        return [entry for entry in entries if hasattr(entry[2], "parameters")]

    def loaded(self) -> list[Loaded]:
        """All networks, in words."""
        return [
            Loaded("/".join(key.path.parts[-2:]), size, _precision(key, model), str(model.device))
            for key, size, model in self.models()
        ]

    def clear(self, but: Collection[Key] = ()) -> None:
        """Drop all that is neither in use nor among `but`."""
        with self._lock:
            for key in [key for key, entry in self._entries.items() if not entry.users and key not in but]:
                del self._entries[key]

    def _pin(self, key: Key, size: int) -> _Entry:
        with self._lock:
            for old in [k for k, e in self._entries.items() if k.path == key.path and k != key and not e.users]:
                del self._entries[old]
            if key not in self._entries:
                self._shrink(self._budget - size)
            entry = self._entries.setdefault(key, _Entry(size))
            self._entries.move_to_end(key)
            entry.users += 1
            return entry

    def _unpin(self, key: Key, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            if entry.model is None and not entry.users:
                self._entries.pop(key, None)

    def _shrink(self, target: int) -> None:
        kept = sum(entry.size for entry in self._entries.values())
        for key in [key for key, entry in self._entries.items() if not entry.users]:
            if kept <= target:
                return
            kept -= self._entries.pop(key).size


def _precision(key: Key, model: Any) -> str:
    return "8 bits" if key.rounded else str(model.dtype).removeprefix("torch.")
