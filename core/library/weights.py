"""Files of weights as they are read: by `pread`, never mapped, and each of them in one state of it.

A mapped file that is cut short while it is read ends the process. One that is overwritten gives a mix of old and new
weights, which nobody would notice: so what each file is at the end is compared with what it was at the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from core.library.forms import SCALES

if TYPE_CHECKING:
    from torch import Tensor


class Changed(Exception):
    """A file of weights is another than it was when its reading began."""


@dataclass(frozen=True)
class Stored:
    """A tensor in an open file, which is read each time that it is wanted; times its scale, if it has one, in that
    scale's unit. Whole numbers without a scale stay whole: they are counts, and no weights.

    It may stand for a slice of a file where transformers takes one: `[...]` and `to` are all that it asks of those.
    """

    file: Any = field(repr=False)
    name: str
    scale: Stored | None = None
    unit: float = 1.0
    failures: list[Exception] = field(default_factory=list, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.name).get_shape())

    def __getitem__(self, _: Any) -> Stored:
        return self

    def to(self, device: Any = None, dtype: Any = None) -> Tensor:
        try:
            read: Tensor = self.file.get_tensor(self.name)
            if self.scale is not None:
                read = read.float() * self._scale_of(read)
            kept = read.dtype if dtype and not read.is_floating_point() else dtype
            return read.to(device=device, dtype=kept)
        except Exception as error:
            self.failures.append(error)
            raise

    def _scale_of(self, read: Tensor) -> Tensor:
        """One for all, or one for each row."""
        assert self.scale
        scale = self.scale.to().float() * self.unit
        return scale.reshape(-1, *(1 for _ in read.shape[1:])) if scale.numel() > 1 else scale.reshape(())


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[dict[str, Stored]]:
    """The tensors of a model's files by name, to be read while this is open.

    Raises Changed if a file was changed meanwhile, whatever that led to; else what went wrong first, where a library
    makes another error of what the reading raised.
    """
    before = [_mark(path) for path in files]
    failures: list[Exception] = []
    with ExitStack() as stack:
        try:
            yield _stored([stack.enter_context(safe_open(path, "pt", backend="pread")) for path in files], failures)
        except Exception as error:
            failures.append(error)
        if [_mark(path) for path in files] != before:
            raise Changed
        if failures:
            raise failures[0]


def _stored(files: Sequence[Any], failures: list[Exception]) -> dict[str, Stored]:
    every = {name: Stored(file, name, failures=failures) for file in files for name in file.keys()}  # noqa: SIM118
    return {
        name: replace(each, **_scaled(name, every))
        for name, each in every.items()
        if not name.endswith(tuple(SCALES))
    }


def _scaled(name: str, every: Mapping[str, Stored]) -> dict[str, Any]:
    layer = name.removesuffix(".weight")
    scales = ({"scale": every[f"{layer}{end}"], "unit": SCALES[end]} for end in SCALES if f"{layer}{end}" in every)
    return next(scales, {}) if layer != name else {}


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What is another where a file was written or replaced; None if there is none."""
    with suppress(OSError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino
    return None
