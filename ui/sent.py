"""What the page's own events carry, each in a strict model of its own.

An event's data is whatever a browser sent. A handler names its model as the type of a parameter; gradio makes it from
the data, as it makes any gr.EventData, and the gate in front of gradio has made one before (ui/server/calls.py).
"""

from __future__ import annotations

from typing import Annotated, Any

import gradio as gr
from pydantic import Field

from core.errors import RequestError
from core.request import Parameters, Text

Id = Annotated[Text, Field(min_length=1, max_length=100)]
Serial = Annotated[int, Field(ge=0, le=2**53, title="Serial")]  # by which a script knows the answer to a question
Path = Annotated[Text, Field(min_length=1, max_length=4096, title="File")]  # of an upload


class Sent(Parameters, gr.EventData):  # type: ignore[misc]
    """An event's data. Raises RequestError for anything but an object of exactly these fields."""

    def __init__(self, target: object, data: Any, /) -> None:
        if not isinstance(data, dict):
            raise RequestError("event_data", data, "an object of " + ", ".join(type(self).model_fields), "Event")
        super().__init__(**data)


class OfJob(Sent):
    job: Id = Field(title="Job")


class OfPicture(OfJob):
    """A job's picture; none while the canvas shows a job that has none."""

    picture: Id | None = Field(None, title="Picture")


class OfFile(Sent):
    path: Path
