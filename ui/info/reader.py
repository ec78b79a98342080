"""The PNG info page: what a picture says about its making, used for the next one or made once more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import DarkroomError, RequestError
from core.jobs import JobState, Status
from core.library import AtHand
from core.pictures import TOOLS, PictureInfo, compare, read_picture, read_text, said_hashes
from core.settings import Settings
from ui.desk import Desk, Studio
from ui.facts import facts, own_facts
from ui.live import AT_ONCE, QUIET, live
from ui.sent import OfFile
from ui.server import owner_of, uploaded

TEXT_SHOWN = 100_000  # characters of a text that is shown whole
Answer = dict[str, Any]


def add_info(_: gr.Tab, __: Settings) -> Callable[[Studio], None]:
    info = live("info", "read", "replay", "use")

    def wire(studio: Studio) -> None:
        reader = Reader(studio.desk)
        info.read(reader.read, None, info, **AT_ONCE, trigger_mode="multiple")
        studio.uses(info.use, reader.use, concurrency_limit=None)  # of what is queued, warnings are shown
        info.replay(reader.replay, None, info, **QUIET, concurrency_limit=None, trigger_mode="multiple")

    return wire


class Reader:
    """What the page's events do. Each carries the `path` of a dropped file, and the answer names it again."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def read(self, asked: OfFile, request: gr.Request) -> Answer:
        answer: Answer = {"path": asked.path}
        try:
            info = self._info(asked, request)
        except DarkroomError as error:
            return answer | {"problem": str(error)}
        return answer | {
            "source": TOOLS.get(info.source or ""),
            "prompt": info.fields.get("prompt", ""),
            "negative": info.fields.get("negative_prompt", ""),
            "facts": own_facts(info.request, info.index) if info.request else facts(info.fields),
            "missing": str(self._at_hand(info)),
            "unknown": [(key, text[:TEXT_SHOWN]) for key, text in info.unknown.items()],
            "made_with": list(info.made_with.items()),
            "text": info.text[:TEXT_SHOWN],
            "replay": info.request is not None,
        }

    def use(self, asked: OfFile, request: gr.Request) -> list[Any]:
        """Values of the form's fields: the picture's where it has valid ones, else what stands there."""
        return self._desk.filled(self._at_hand(self._info(asked, request)))

    async def replay(self, asked: OfFile, request: gr.Request) -> AsyncIterator[Answer]:
        """Make the whole batch again and compare this picture. First tells that it runs, then how it came out."""
        answer: Answer = {"path": asked.path}
        try:
            info = await asyncio.to_thread(self._info, asked, request)
            if info.request is None:
                use = "a picture by Darkroom; if it began from others, those must be in your history"
                raise RequestError("image", "this file", use, "Picture")
            job = await asyncio.to_thread(self._desk.submit, info.request, request)
            yield answer | {"verdict": "Making it again. The film on the Create page shows it develop.", "busy": True}
            async for state in self._desk.queue.attach(job.id, owner_of(request)):
                job = state
            verdict = await asyncio.to_thread(self._compare, asked, info, job)
            yield answer | {"verdict": verdict}
        except DarkroomError as error:
            yield answer | {"verdict": str(error)}

    def _compare(self, asked: OfFile, info: PictureInfo, job: JobState) -> str:
        if job.status is not Status.DONE:
            raise DarkroomError(job.error or f"It was {job.status.value} before it could be compared.")
        again = self._desk.history.picture(job.pictures[info.index], job.owner).read()
        most = self._desk.engine.settings.limits.max_pixels
        pictures = read_picture(_path(asked), max_pixels=most), read_picture(again, max_pixels=most)
        return str(compare(pictures, (info.made_with, read_text(again).made_with)))

    def _info(self, asked: OfFile, request: gr.Request) -> PictureInfo:
        """What the file says. The pictures that it began from are found if they are in the visitor's own history."""
        return read_text(_path(asked), lambda fingerprint: self._desk.history.input(fingerprint, owner_of(request)))

    def _at_hand(self, info: PictureInfo) -> AtHand:
        """The picture's settings as this machine can draw them."""
        told = said_hashes(info)
        return self._desk.engine.library.at_hand(_own_fields(info), told.hashes, told.others)


def _path(asked: OfFile) -> Path:
    return uploaded({"path": asked.path}, "image", "Picture")


def _own_fields(info: PictureInfo) -> dict[str, Any]:
    """The fields of this one picture, all of them for one of ours; of a batch it has a seed of its own."""
    fields = dict(info.request or info.fields)
    if info.source == "darkroom" and "seed" in fields:
        fields["seed"] += info.index
    return fields
