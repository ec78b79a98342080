"""The page This machine: what it has, what is loaded, and how the last run's memory came out."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import DarkroomError
from core.families import FAMILIES
from core.jobs import free_space
from core.library import Checkpoint
from core.memory import Machine, attention_kernel
from core.sizes import in_words
from ui.desk import Desk
from ui.facts import Facts
from ui.live import AT_ONCE, live


def build_memory() -> gr.HTML:
    return live("memory", "release", value={})  # gradio calls whatever is named "unload" when a page is closed


def wire_memory(tab: gr.Tab, memory: gr.HTML, desk: Desk) -> None:
    room = Room(desk)
    tab.select(room.look, None, memory, **AT_ONCE)
    memory.release(room.unload, None, memory, **AT_ONCE)


class Room:
    """What the page's events do."""

    def __init__(self, desk: Desk) -> None:
        self._engine = desk.engine

    def look(self) -> dict[str, Any]:
        """The machine now. What others made and loaded is told on this machine alone."""
        engine, is_local = self._engine, self._engine.settings.mode == "local"
        disk = [("Disk", f"{in_words(free_space(engine.settings.data))} free")] if is_local else []
        return {
            "device": _device(engine.machine()) + disk,
            "models": [
                _model(known, engine.library.model_hash(known))
                for known in engine.library.checkpoints()
                if not known.problem
            ],
            "loaded": [
                (part.name, f"{in_words(part.size)} · {part.dtype} · {part.device}") for part in engine.loaded()
            ]
            if is_local
            else [],
            "run": self._last_run() if is_local else [],
            "unload": is_local,
        }

    def unload(self) -> dict[str, Any]:
        if self._engine.settings.mode != "local":
            raise DarkroomError("Models are unloaded only by who sits at this machine.")
        self._engine.unload()
        return self.look()

    def _last_run(self) -> Facts:
        run = self._engine.last_run
        if run is None:
            return []
        width, height = run.size
        measured = "cannot be measured here" if run.measured is None else in_words(run.measured)
        libraries = ", with libraries that a first run loads" if run.measured and run.with_libraries else ""
        return [
            ("Model", run.checkpoint),
            ("Size", f"{width} × {height}"),
            ("Way", run.plan.way.words),
            ("Foretold peak", in_words(run.plan.needs)),
            ("Measured peak", measured + libraries),
        ]


def _device(machine: Machine) -> Facts:
    memory = f"{in_words(machine.memory_total)}, {in_words(machine.memory_free)} free"
    ram = [("RAM", f"{in_words(machine.ram_free)} free")] if machine.has_memory_of_its_own else []
    return [
        ("Device", machine.name),
        ("Memory", memory),
        *ram,
        ("Threads", str(machine.threads)),
        ("Numbers", machine.dtype),
        ("Attention", attention_kernel(machine.device)),
    ]


def _model(known: Checkpoint, digest: str | None) -> tuple[str, str]:
    size = in_words(known.size_bytes)
    return known.title, f"{FAMILIES[known.family].title} · {size} · {digest or 'hash after its first picture'}"
