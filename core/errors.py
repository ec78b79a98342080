"""Everything that can go wrong, said in words a visitor may read.

DarkroomError
├── RequestError        a value that is not allowed (also a ValueError)
├── CheckpointError     a model that is missing, damaged or of an unknown kind
├── LoraError           a LoRA that is damaged, gone, or made for another model
├── HubError            a model that cannot be downloaded
├── OutOfMemory         the run needs more memory than the machine has
├── EngineBusy          a second run while one is open
├── QueueFull           too many jobs are waiting
├── NotFound            no such job or picture, or it belongs to somebody else
└── StorageError        the data directory cannot be read or written
"""

from __future__ import annotations

from typing import Any


class DarkroomError(Exception):
    """A failure with a message for people: no paths of the host, no stack trace, one sentence or two.

    `field` names the request's field at fault, if it is one field's fault.
    """

    field: str | None = None


class RequestError(DarkroomError, ValueError):
    """A request's field with a value that is not allowed.

    The message reads "Steps: 0 is not allowed; use a whole number from 1 to 150."
    """

    def __init__(self, field: str, value: object, allowed: str, label: str | None = None) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        self.label = label or field
        problem = "missing" if value is None else f"{_short(value)} is not allowed"
        super().__init__(f"{self.label}: {problem}; use {allowed}.")


class CheckpointError(DarkroomError):
    field = "checkpoint"


class LoraError(DarkroomError):
    field = "loras"


class HubError(DarkroomError):
    pass


class OutOfMemory(DarkroomError):
    pass


class EngineBusy(DarkroomError):
    pass


class QueueFull(DarkroomError):
    pass


class NotFound(DarkroomError):
    pass


class StorageError(DarkroomError):
    pass


def _short(value: Any, limit: int = 60) -> str:
    """`value` as it may stand in a message: printable, never longer than `limit` characters."""
    if isinstance(value, int) and value.bit_length() > 4 * limit:
        return f"a number of {value.bit_length()} bits"
    if hasattr(value, "getbands"):  # a Pillow picture; its repr is an address
        return f"a picture of {value.width} × {value.height}"
    if isinstance(value, (list, tuple, dict, set)):  # never rendered: it may be huge, or nested without end
        return f"a {type(value).__name__} of {len(value)}"
    text = value if isinstance(value, str) else repr(value)
    shown = "".join(c if c.isprintable() else "�" for c in text[: limit + 1])
    shown = shown if len(shown) <= limit else shown[: limit - 1] + "…"
    return f"“{shown}”" if isinstance(value, str) else shown
