"""What a call of one of the page's events may say: checked against what the event declares, before gradio sees it.

gradio hands what it was sent to handlers, and keeps it; whatever dict has a path in it is a file to it, and whatever
looks like a URL something to fetch. So a call is written anew from what was checked, and gradio gets that.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.components import Component
from gradio.components.api_component import Api
from pydantic import Field, TypeAdapter, ValidationError

from core.errors import NotFound, RequestError
from core.request import Parameters
from ui.sent import Sent
from ui.server.uploads import uploaded

DEEPEST = 16  # objects and lists in one another; a request has four
WORDS = {"string_type": "text", "bool_type": "true or false", "list_type": "a list", "dict_type": "an object"}
"""What is allowed, by pydantic's word for what was wrong; all other kinds are numbers."""

Body = dict[str, Any]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]  # of a session or an event


class PageCall(Parameters):
    """What the page and gradio_client send: an event by its number."""

    data: list[Any] = Field(title="Inputs")
    fn_index: int | None = Field(None, title="Function")
    session_hash: Token | None = Field(None, title="Session")
    event_data: Any = None
    trigger_id: int | None = Field(None, title="Trigger")


class NamedCall(Parameters):
    """What programs send to an endpoint by its name."""

    data: list[Any] = Field(title="Inputs")
    session_hash: Token | None = Field(None, title="Session")


class Cancelling(Parameters):
    session_hash: Token = Field(title="Session")
    fn_index: int = Field(title="Function")
    event_id: Token = Field(title="Event")


class Resetting(Parameters):
    event_id: Token = Field(title="Event")


@dataclass(frozen=True)
class Input:
    """What one input of an event may hold."""

    label: str
    kind: TypeAdapter[Any]

    @classmethod
    def of(cls, part: Component) -> Input:
        return cls(str(part.label or ""), TypeAdapter(_kind(part), config={"strict": True}))

    def check(self, value: Any, field: str) -> Any:
        """`value` as gradio gets it. Raises RequestError."""
        label = self.label or field
        try:
            return cleaned(self.kind.validate_python(value), field, label)
        except ValidationError as error:
            use = WORDS.get(error.errors()[0]["type"], "a number")
            raise RequestError(field, value, use, label) from None


def _kind(part: Component) -> Any:
    """The type of what a browser sends for a component. Raises TypeError for one that is not declared here."""
    match part:
        case gr.Dropdown(multiselect=True):
            return list[str] | None
        case gr.Textbox() | gr.Dropdown() | gr.Radio() | gr.ColorPicker():
            return str | None
        case gr.Slider() | gr.Number():
            return (
                Annotated[int | float, Field(ge=-(2**63), lt=2**64)] | None
            )  # beyond, JSON has no number for gradio
        case gr.Checkbox():
            return bool | None
        case gr.HTML():
            return dict[str, Any] | None
        case Api():  # the request's own check is stricter than any here
            return Any
    raise TypeError(f"What a {type(part).__name__} may send is not declared.")


def cleaned(value: Any, field: str, label: str, deep: int = 0) -> Any:
    """`value`, each file in it reduced to its path. Raises RequestError for a file that is no upload, for a number
    that is none, for broken Unicode, and for what is nested without end.
    """
    if deep > DEEPEST:
        raise RequestError(field, "what is nested so deeply", f"at most {DEEPEST} levels", label)
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(field, value, "a finite number", label)
    if isinstance(value, str) and not _is_whole(value):
        raise RequestError(field, value, "text without broken Unicode", label)
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return {"path": str(uploaded(value, field, label)), "meta": {"_type": "gradio.FileData"}}
    if isinstance(value, dict):
        return {key: cleaned(inner, field, label, deep + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [cleaned(inner, field, label, deep + 1) for inner in value]
    return value


def _is_whole(text: str) -> bool:
    """Whether `text` can be said again: JSON may name the half of a character, which no answer can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Endpoint:
    """One event of the page: its inputs by name, and the model of its data, if it has any."""

    id: int
    inputs: Mapping[str, Input]
    sent: type[Sent] | None

    @classmethod
    def of(cls, fn: BlockFunction) -> Endpoint:
        """Raises TypeError for an event whose data, or one of whose inputs, has no strict type."""
        hints = get_type_hints(fn.fn).values()
        sent = next((hint for hint in hints if inspect.isclass(hint) and issubclass(hint, Sent)), None)
        if fn.collects_event_data and not sent:
            raise TypeError(f"{fn.api_name} takes an event's data without a strict model; see ui/sent.py.")
        return cls(fn._id, dict(zip(_names(fn), map(Input.of, fn.inputs), strict=True)), sent)

    def inputs_of(self, data: Sequence[Any]) -> list[Any]:
        """The values of all inputs, in order. Raises RequestError."""
        if len(data) != len(self.inputs):
            raise RequestError("data", f"{len(data)} inputs", f"{len(self.inputs)} for this function", "Inputs")
        return [part.check(value, name) for (name, part), value in zip(self.inputs.items(), data, strict=True)]

    def event_data_of(self, data: Any) -> Body | None:
        """The event's data, nothing for one that takes none. Raises RequestError."""
        if self.sent is None:
            cleaned(data, "event_data", "Event")
            return None
        fields = self.sent(None, data).model_dump(exclude_unset=True)
        if "path" in fields:
            uploaded(fields, "path", "File")
        return {name: cleaned(value, name, name.capitalize()) for name, value in fields.items()}


def _names(fn: BlockFunction) -> list[str]:
    """The inputs' names: those of the function's parameters, where each has one."""
    given = inspect.signature(fn.fn).parameters.values()
    names = [each.name for each in given if each.kind is each.POSITIONAL_OR_KEYWORD and each.annotation is Any]
    return names if len(names) == len(fn.inputs) else [f"data[{k}]" for k in range(len(fn.inputs))]


class Calls:
    """All events of a page, by number, the public ones by name: a visitor's body -> the body that gradio gets.

    Each method raises RequestError for a body that says what it may not, NotFound for an event that is none.
    """

    def __init__(self, fns: Iterable[BlockFunction]) -> None:
        known = [(fn, Endpoint.of(fn)) for fn in fns if fn.fn]  # without: the page's script alone
        self._by_id = {endpoint.id: endpoint for _, endpoint in known}
        self._by_name = {str(fn.api_name): endpoint for fn, endpoint in known if fn.api_visibility == "public"}

    def by_number(self, body: Body, name: str = "") -> Body:
        """An event that joins the queue, or is answered at once."""
        call = PageCall(**body)
        endpoint = self._named(name) if call.fn_index is None else self._by_id.get(call.fn_index)
        if endpoint is None:
            raise NotFound("There is no such function.")
        return {
            "data": endpoint.inputs_of(call.data),
            "fn_index": endpoint.id,
            "session_hash": call.session_hash,
            "event_data": endpoint.event_data_of(call.event_data),
        }

    def by_name(self, body: Body, name: str) -> Body:
        call = NamedCall(**body)
        return {"data": self._named(name).inputs_of(call.data), "session_hash": call.session_hash}

    def by_fields(self, body: Body, name: str) -> Body:
        """Inputs by their own names; gradio knows their defaults."""
        inputs = self._named(name).inputs
        for field in body:
            if field not in inputs:
                raise RequestError(field, field, "one of " + ", ".join(inputs), "Unknown field")
        return {field: inputs[field].check(value, field) for field, value in body.items()}

    def cancel(self, body: Body) -> Body:
        return Cancelling(**body).model_dump()

    def reset(self, body: Body) -> Body:
        return Resetting(**body).model_dump()

    def _named(self, name: str) -> Endpoint:
        if name not in self._by_name:
            raise NotFound("There is no such endpoint.")
        return self._by_name[name]
