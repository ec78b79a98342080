"""The PNG info page: what a picture says about its making, used for the next one or made once more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from core.errors import DarkroomError, RequestError
from core.jobs import JobState, Status
from core.library import AtHand
from core.pictures import PictureInfo, compare, read_picture, read_text, said_hashes
from ui.facts import facts, own_facts
from ui.live import AT_ONCE, QUIET, live
from ui.run import Desk, told
from ui.server import owner_of
from ui.uploads import uploaded

SOURCES = {"darkroom": "Darkroom", "a1111": "A1111", "comfyui": "ComfyUI", "invokeai": "InvokeAI"}
TEXT_SHOWN = 100_000  # characters of a text that is shown whole
Answer = dict[str, Any]


def build_info() -> gr.HTML:
    return live("info", "read", "replay", "use")


def wire_info(info: gr.HTML, reader: Reader, filled: list[Component]) -> None:
    info.read(reader.read, None, info, **AT_ONCE, trigger_mode="multiple")
    info.use(
        reader.use, filled[:-1], filled, **QUIET, concurrency_limit=None
    )  # of what is queued, warnings are shown
    info.replay(reader.replay, None, info, **QUIET, concurrency_limit=None, trigger_mode="multiple")


class Reader:
    """What the page's events do. Each carries the `path` of a dropped file, and the answer names it again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def read(self, event: gr.EventData, request: gr.Request) -> Answer:
        answer: Answer = {"path": event._data.get("path")}
        try:
            info = self._info(event, request)
        except DarkroomError as error:
            return answer | {"problem": str(error)}
        return answer | {
            "source": SOURCES.get(info.source or ""),
            "prompt": info.fields.get("prompt", ""),
            "negative": info.fields.get("negative_prompt", ""),
            "facts": own_facts(info.request, info.index) if info.request else facts(info.fields),
            "missing": str(self._at_hand(info)),
            "unknown": [(key, text[:TEXT_SHOWN]) for key, text in info.unknown.items()],
            "made_with": list(info.made_with.items()),
            "text": info.text[:TEXT_SHOWN],
            "replay": info.request is not None,
        }

    def use(self, event: gr.EventData, request: gr.Request, *before: Any) -> list[Any]:
        """Values of the form's fields: the picture's where it has valid ones, else what stands there; and as
        `Desk.use_settings` what stood there before.
        """
        with told():
            info = self._info(event, request)
        return self._desk.filled(self._at_hand(info), before)

    async def replay(self, event: gr.EventData, request: gr.Request) -> AsyncIterator[Answer]:
        """Make the whole batch again and compare this picture. First tells that it runs, then how it came out."""
        answer: Answer = {"path": event._data.get("path")}
        try:
            info = await asyncio.to_thread(self._info, event, request)
            if info.request is None:
                use = "a picture by Darkroom; if it began from others, those must be in your history"
                raise RequestError("image", "this file", use, "Picture")
            job = await asyncio.to_thread(self._desk.submit, info.request, request)
            yield answer | {"verdict": "Making it again. The film on the Create page shows it develop.", "busy": True}
            async for state in self._desk.queue.attach(job.id, owner_of(request)):
                job = state
            verdict = await asyncio.to_thread(self._compare, event, info, job)
            yield answer | {"verdict": verdict}
        except DarkroomError as error:
            yield answer | {"verdict": str(error)}

    def _compare(self, event: gr.EventData, info: PictureInfo, job: JobState) -> str:
        if job.status is not Status.DONE:
            raise DarkroomError(job.error or f"It was {job.status.value} before it could be compared.")
        again = self._desk.history.picture(job.pictures[info.index], job.owner).read()
        most = self._desk.engine.settings.limits.max_pixels
        pictures = read_picture(_path(event), max_pixels=most), read_picture(again, max_pixels=most)
        return str(compare(pictures, (info.made_with, read_text(again).made_with)))

    def _info(self, event: gr.EventData, request: gr.Request) -> PictureInfo:
        """What the file says. The pictures that it began from are found if they are in the visitor's own history."""
        return read_text(_path(event), lambda fingerprint: self._desk.history.input(fingerprint, owner_of(request)))

    def _at_hand(self, info: PictureInfo) -> AtHand:
        """The picture's settings as this machine can draw them."""
        told = said_hashes(info)
        return self._desk.engine.library.at_hand(_own_fields(info), told.hashes, told.embeddings)


def _path(event: gr.EventData) -> Path:
    return uploaded({"path": event._data.get("path")}, "image", "Picture")


def _own_fields(info: PictureInfo) -> dict[str, Any]:
    """The fields of this one picture, all of them for one of ours; of a batch it has a seed of its own."""
    fields = dict(info.request or info.fields)
    if info.source == "darkroom" and "seed" in fields:
        fields["seed"] += info.index
    return fields
