"""What all pages share: the desk, and the form that a picture's settings fill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ui.desk.desk import DRAWN, Desk
from ui.live import QUIET


@dataclass(frozen=True)
class Studio:
    """`fields` are the form's components by name, `styles` the list beside them."""

    page: gr.Blocks
    desk: Desk
    fields: dict[str, Component]
    styles: Component

    @property
    def undoable(self) -> list[Component]:
        """What takes back that a picture's settings were used; what the page's own script draws stays as it is."""
        return [field for name, field in self.fields.items() if name not in DRAWN]

    def uses(self, event: Callable[..., Any], settings: Callable[..., Any], **options: Any) -> None:
        """`event` fills the form with what `settings` returns: a value for each of its fields."""
        event(None, self.undoable, None, js="darkroom.keepForm", **QUIET)  # before it is filled, next
        event(None, None, self.styles, js="() => [[]]", **QUIET)  # the picture's prompt has its styles in it
        event(settings, None, list(self.fields.values()), **QUIET | options)
