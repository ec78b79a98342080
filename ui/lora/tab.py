"""The LoRA tab: what is in models/loras, and which of it is on. The request's own list is a hidden field of the form;
the tab's script (lora.js) reads and writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency
from PIL import Image
from pydantic import Field

from core.engine import Engine
from core.errors import DarkroomError
from core.families import FAMILIES
from core.library import LoraInfo
from core.pictures import read_picture
from core.request import Lora, Name, bounds
from core.sizes import in_words
from ui.live import AT_ONCE, QUIET, data_uri, live
from ui.sent import OfFile
from ui.server import uploaded

PREVIEW_SIDE = 88  # pixels, for 44 on the page
Answer = dict[str, Any]


def build_lora() -> gr.HTML:
    return live("lora", "keep", "follow", value={"loras": []})


def wire_lora(
    page: gr.Blocks, tab: gr.HTML, desk: LoraDesk, around: tuple[Mapping[str, Component], gr.Tab, Dependency]
) -> None:
    """`around`: the form's fields, the tab's own head, and the event after which the models were looked for again."""
    fields, head, rescanned = around
    model = fields["checkpoint"]
    gr.on([page.load, model.change, head.select], desk.show, model, tab, **AT_ONCE, trigger_mode="multiple")
    rescanned.then(desk.show, model, tab, **AT_ONCE)
    tab.keep(desk.add, model, tab, **AT_ONCE)
    gr.on([page.load, fields["loras"].change], None, fields["loras"], None, js="darkroom.switched", **QUIET)


class Kept(OfFile):
    name: Name = Field(title="LoRA")


class LoraDesk:
    """What the tab's events do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._may_add = engine.settings.mode == "local"
        self._previews: dict[tuple[Path, int], str | None] = {}

    def show(self, checkpoint: str | None) -> Answer:
        """The LoRAs as last looked at, and for a model's name which of them fit it."""
        field = Lora.model_fields["weight"]
        usual: dict[str, Any] = field.json_schema_extra  # type: ignore[assignment]
        return {
            "loras": [self._row(info, checkpoint) for info in self._engine.library.loras()],
            "mayAdd": self._may_add,
            "limits": [*bounds(field).values(), usual["step"]],
            "usual": usual["usual"],
        }

    def add(self, checkpoint: str | None, asked: Kept) -> Answer:
        """Keep an uploaded file. The answer names what it is called now, or what was wrong with it."""
        try:
            if not self._may_add:
                raise DarkroomError("LoRAs are added on the machine that Darkroom runs on.")
            added = self._engine.library.add_lora(uploaded({"path": asked.path}, "loras", "LoRA"), asked.name)
            return self.show(checkpoint) | {"added": added.name}
        except DarkroomError as error:
            return self.show(checkpoint) | {"problem": str(error)}

    def _row(self, info: LoraInfo, name: str | None) -> Answer:
        checkpoint = next((known for known in self._engine.library.checkpoints() if known.name == name), None)
        report = self._engine.lora_report(info.name)
        return {
            "name": info.name,
            "facts": " · ".join(_facts(info)),
            "words": info.words,
            "notes": info.notes,
            "preview": self._preview(info.preview),
            "problem": info.problem,
            "misfit": checkpoint and not info.problem and info.why_not(checkpoint),
            "left": list(report.unmatched[:5]) if report else [],
            "report": report
            and f"{sum(report.matched.values())} layers merged, {len(report.unmatched)} have no place",
        }

    def _preview(self, path: Path | None) -> str | None:
        """A small picture as a data URI, made once."""
        if path is None:
            return None
        try:
            key = (path, path.stat().st_mtime_ns)
            if key not in self._previews:
                self._previews[key] = _small(path, self._engine.settings.limits.max_pixels)
            return self._previews[key]
        except OSError:
            return None


def _facts(info: LoraInfo) -> list[str]:
    family = FAMILIES[info.family].title.replace("Stable Diffusion", "SD") if info.family else None
    rank = f"rank {info.rank}" if info.rank else None
    return [fact for fact in (info.format, family, rank, in_words(info.size_bytes)) if fact]


def _small(path: Path, max_pixels: int) -> str | None:
    try:
        picture = read_picture(path, max_pixels=max_pixels, field="loras", label="LoRA")
    except DarkroomError:
        return None
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BICUBIC)
    return data_uri(picture.convert("RGB"), "WEBP", quality=75)
