"""Get models, on the page This machine: the catalogue, and the one download that goes on."""

from __future__ import annotations

from typing import Any

import gradio as gr
from pydantic import Field

from core.hub import OFFLINE, Hub
from core.request import Name
from core.sizes import in_words
from ui.desk import Desk
from ui.live import AT_ONCE, live
from ui.sent import Sent


def build_hub() -> gr.HTML:
    return live("hub", "fetch", "halt", "follow", value={})


def wire_hub(tab: gr.Tab, hub: gr.HTML, desk: Desk) -> None:
    counter = Counter(Hub(desk.engine.settings), desk.engine.settings.offline)
    tab.select(counter.look, None, hub, **AT_ONCE)
    hub.fetch(counter.fetch, None, hub, **AT_ONCE)
    hub.halt(counter.halt, None, hub, **AT_ONCE)
    hub.follow(counter.look, None, hub, **AT_ONCE)


class Offered(Sent):
    name: Name = Field(title="Model")


class Counter:
    """What the section's events do."""

    def __init__(self, hub: Hub, offline: bool) -> None:
        self._hub, self._offline = hub, offline

    def look(self) -> dict[str, Any]:
        """Nothing, where the hub is not for who looks; `offline` says why nothing can be had, if so."""
        if not self._hub.is_allowed:
            return {}
        return {
            "models": [self._row(name) for name in self._hub.catalogue],
            "offline": OFFLINE if self._offline else "",
        }

    def fetch(self, asked: Offered) -> dict[str, Any]:
        self._hub.start(asked.name)
        return self.look()

    def halt(self) -> dict[str, Any]:
        self._hub.stop()
        return self.look()

    def _row(self, name: str) -> dict[str, Any]:
        known, last = self._hub.catalogue[name], self._hub.last
        mine = last if last and last.name == name else None
        share = mine.done / mine.size if mine and mine.size else 0
        return {
            "name": name,
            "facts": f"{known.family} · {KINDS[known.kind]} · about {known.size} · {known.licence}",
            "use": known.use,
            "has": self._hub.has(name),
            "state": mine.state if mine else None,
            "share": round(share, 3),
            "words": _words(mine.done, mine.size, mine.problem) if mine else "",
        }


KINDS = {
    "checkpoints": "model",
    "controlnet": "ControlNet",
    "loras": "LoRA",
    "preprocessors": "preprocessor",
    "previews": "previews",
    "vae": "VAE",
}


def _words(done: int, size: int, problem: str | None) -> str:
    return problem or (f"{in_words(done)} of {in_words(size)}" if size else "Asking the hub …")
