"""The History page: every picture of a visitor's, found again, looked at, compared, downloaded, deleted.

The script in assets/history.js keeps what is shown and chosen. It asks ("search", "favourite", "remove"), each time
with a serial number, and the answers become the gallery's value.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component

from core.engine import Engine
from core.errors import DarkroomError, NotFound, RequestError
from core.jobs import Filters, History, PictureRow
from core.sizes import in_words
from ui.facts import own_facts
from ui.live import AT_ONCE, QUIET, live
from ui.run import TASKS, Desk
from ui.server import owner_of

PAGE_LENGTH = 60  # pictures
MOST_AT_ONCE = 1000  # pictures deleted by one request
Answer = dict[str, Any]
Change = Callable[[list[str], str], None]  # of pictures, by their owner


def build_gallery() -> gr.HTML:
    """`use`, `again` and `upscale` carry {job, picture}, as those of the Create page's stage do."""
    return live("gallery", "search", "favourite", "remove", "use", "again", "upscale")


def wire_gallery(page: gr.Blocks, grid: gr.HTML, shelf: Shelf, desk: Desk, filled: list[Component]) -> None:
    page.load(shelf.tell_notices, **QUIET)
    several = AT_ONCE | {"trigger_mode": "multiple"}
    for event, answer in (
        (grid.search, shelf.search),
        (grid.favourite, shelf.favourite),
        (grid.remove, shelf.remove),
    ):
        event(answer, None, grid, **several)
    grid.use(desk.use_settings, filled[:-1], filled, **several)
    grid.again(desk.new_seed, **several)
    grid.upscale(desk.upscale, **several)


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

    def search(self, event: gr.EventData, request: gr.Request) -> Answer:
        """A page of pictures, newest first, beginning `before` a number of an earlier answer."""
        asked = event._data
        answer: Answer = {"kind": "page", "serial": asked.get("serial"), "before": asked.get("before")}
        try:
            rows = self._history.search(owner_of(request), _filters(asked), limit=PAGE_LENGTH + 1)
        except DarkroomError as error:
            return answer | {"problem": str(error)}
        more = len(rows) > PAGE_LENGTH
        choices = {"checkpoint": self._titles(), "task": list(TASKS.items())}
        answer["room"] = _room(self._engine.settings.limits.disk_per_owner)
        return answer | {"rows": [_frame(row) for row in rows[:PAGE_LENGTH]], "more": more, "choices": choices}

    def favourite(self, event: gr.EventData, request: gr.Request) -> Answer:
        """Mark pictures as favourites, or as none, and say which."""
        on = event._data.get("on") is True

        def mark(ids: list[str], owner: str) -> None:
            for id in ids:
                self._history.favourite(id, owner, on)

        return self._change(event, request, mark) | {"kind": "favourite", "on": on}

    def remove(self, event: gr.EventData, request: gr.Request) -> Answer:
        """Delete pictures for good, and say which."""
        return self._change(event, request, self._history.delete) | {"kind": "removed"}

    def _change(self, event: gr.EventData, request: gr.Request, change: Change) -> Answer:
        """Change the pictures that are asked for. One that is gone already, by another tab, is no failure."""
        asked, owner = event._data, owner_of(request)
        ids = asked.get("ids")
        answer: Answer = {"serial": asked.get("serial"), "ids": ids}
        try:
            if not isinstance(ids, list) or len(ids) > MOST_AT_ONCE:
                raise RequestError("ids", ids, f"at most {MOST_AT_ONCE:,} pictures at once", "Pictures")
            change([str(id) for id in ids if self._is_there(str(id), owner)], owner)
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


def _filters(asked: dict[str, Any]) -> Filters:
    """From what a browser sent."""
    text, task, before = asked.get("text") or "", asked.get("task") or None, asked.get("before")
    if not isinstance(text, str) or len(text) > 1000:
        raise RequestError("text", text, "at most 1,000 characters", "Search")
    if task not in (None, *TASKS):
        raise RequestError("task", task, "one of " + ", ".join(TASKS), "Task")
    if before is not None and not (isinstance(before, int | float) and math.isfinite(before)):
        raise RequestError("before", before, "a number of a picture", "Before")
    return Filters(
        text=text,
        task=task,
        checkpoint=str(asked["checkpoint"])[:300] if asked.get("checkpoint") else None,
        favourites=asked.get("favourites") is True,
        before=None if before is None else min(max(int(before), 0), 2**53),
    )


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
