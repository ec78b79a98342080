"""The History page: every picture of a visitor's, found again, looked at, compared, downloaded, deleted.

The script in history.js keeps what is shown and chosen. It asks ("search", "favourite", "remove"), each time
with a serial number, and the answers become the gallery's value.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import gradio as gr
from pydantic import Field

from core.engine import Engine
from core.errors import DarkroomError, NotFound, RequestError
from core.jobs import Filters, History, PictureRow
from core.request import Text
from core.settings import Settings
from core.sizes import in_words
from ui.desk import TASKS, Studio
from ui.facts import own_facts
from ui.live import AT_ONCE, QUIET, live
from ui.sent import Id, Sent, Serial
from ui.server import owner_of

PAGE_LENGTH = 60  # pictures
MOST_AT_ONCE = 1000  # pictures deleted by one request
Answer = dict[str, Any]
Change = Callable[[list[str], str], None]  # of pictures, by their owner


def add_history(_: gr.Tab, __: Settings) -> Callable[[Studio], None]:
    """`use`, `again` and `upscale` carry {job, picture}, as those of the Create page's stage do."""
    grid = live("gallery", "search", "favourite", "remove", "use", "again", "upscale")

    def wire(studio: Studio) -> None:
        desk, shelf = studio.desk, Shelf(studio.desk.engine, studio.desk.history)
        studio.page.load(shelf.tell_notices, **QUIET)
        several = AT_ONCE | {"trigger_mode": "multiple"}
        for event, answer in (
            (grid.search, shelf.search),
            (grid.favourite, shelf.favourite),
            (grid.remove, shelf.remove),
        ):
            event(answer, None, grid, **several)
        studio.uses(grid.use, desk.use_settings, **several)
        grid.again(desk.new_seed, **several)
        grid.upscale(desk.upscale, **several)

    return wire


class Search(Sent):
    serial: Serial
    text: Text = Field("", max_length=1000, title="Search")
    task: Literal["", "text", "image", "inpaint"] = Field("", title="Task")
    checkpoint: Text = Field("", max_length=300, title="Model")
    favourites: bool = Field(False, title="Favourites")
    before: Annotated[int, Field(ge=0, le=2**53)] | None = Field(None, title="Before")


class Chosen(Sent):
    serial: Serial
    ids: list[Id] = Field(max_length=MOST_AT_ONCE, title="Pictures")


class Marked(Chosen):
    on: bool = Field(title="Favourite")


class Shelf:
    """What the gallery's events do. A failure is part of the answer, and the page says it."""

    def __init__(self, engine: Engine, history: History) -> None:
        self._engine, self._history = engine, history
        self._told: set[str] = set()

    def tell_notices(self, request: gr.Request) -> None:
        """What the history found at the server's start, once for each visitor."""
        if self._history.notices and owner_of(request) not in self._told:
            self._told.add(owner_of(request))
            for notice in self._history.notices:
                gr.Info(html.escape(notice, quote=False), duration=None)

    def search(self, asked: Search, request: gr.Request) -> Answer:
        """A page of pictures, newest first, beginning `before` a number of an earlier answer."""
        answer: Answer = {"kind": "page", "serial": asked.serial, "before": asked.before}
        filters = Filters(
            text=asked.text,
            task=asked.task or None,
            checkpoint=asked.checkpoint or None,
            favourites=asked.favourites,
            before=asked.before,
        )
        try:
            rows = self._history.search(owner_of(request), filters, limit=PAGE_LENGTH + 1)
        except DarkroomError as error:
            return answer | {"problem": str(error)}
        more = len(rows) > PAGE_LENGTH
        choices = {"checkpoint": self._titles(), "task": list(TASKS.items())}
        answer["room"] = _room(self._engine.settings.limits.disk_per_owner)
        return answer | {"rows": [_frame(row) for row in rows[:PAGE_LENGTH]], "more": more, "choices": choices}

    def favourite(self, asked: Marked, request: gr.Request) -> Answer:
        """Mark pictures as favourites, or as none, and say which."""

        def mark(ids: list[str], owner: str) -> None:
            for id in ids:
                self._history.favourite(id, owner, asked.on)

        return self._change(asked, request, mark) | {"kind": "favourite", "on": asked.on}

    def remove(self, asked: Chosen, request: gr.Request) -> Answer:
        """Delete pictures for good, and say which."""
        return self._change(asked, request, self._history.delete) | {"kind": "removed"}

    def _change(self, asked: Chosen, request: gr.Request, change: Change) -> Answer:
        """Change the pictures that are asked for. One that is gone already, by another tab, is no failure."""
        owner = owner_of(request)
        answer: Answer = {"serial": asked.serial, "ids": asked.ids}
        try:
            change([id for id in asked.ids if self._is_there(id, owner)], owner)
        except DarkroomError as error:
            return answer | {"ids": [], "problem": str(error)}
        return answer

    def _is_there(self, id: str, owner: str) -> bool:
        try:
            self._history.picture(id, owner)
        except NotFound:
            return False
        return True

    def _titles(self) -> list[tuple[str, str]]:
        return [(known.name, known.title) for known in self._engine.library.checkpoints()]


def _room(most: float) -> str:
    """What a visitor should know of the host's limit, if there is one."""
    if most == math.inf:
        return ""
    return (
        f"Up to {in_words(most)} are kept for you here. The oldest pictures make room for new ones, favourites never."
    )


def _frame(row: PictureRow) -> Answer:
    """One picture as the page's script draws it; its text is only ever set as text, never as HTML."""
    frame: Answer = {
        "id": row.id,
        "job": row.job,
        "number": row.number,
        "favourite": row.favourite,
        "width": row.width,
        "height": row.height,
        "created": row.created,
    }
    try:
        request = row.request
    except RequestError:  # from a version that allowed what this one does not
        return frame | {"prompt": "", "negative": "", "facts": [], "source": False, "maps": 0}
    return frame | {
        "prompt": request.prompt,
        "negative": request.negative_prompt,
        "facts": own_facts(request, row.index),
        "source": request.image is not None and request.outpaint is None,
        "maps": len(request.controls),
    }
