"""Parts of the page that its own scripts draw: gradio carries their values, they make them what is seen."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import gradio as gr
from PIL.Image import Image

HERE = Path(__file__).parent
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "preprocess": False}
AT_ONCE = QUIET | {"queue": False}  # past gradio's queue, where every open page's relay holds a place


def file_of(name: str) -> Path:
    """A page's own file, in whichever of the folders it lies."""
    (file,) = HERE.rglob(name)
    return file


def live(name: str, *events: str, value: Any = None) -> gr.HTML:
    """A part drawn by `darkroom.<name>` from `value`. Its template never changes and holds no value: gradio would
    run it.

    gradio finds the names of the part's own events by looking for them, quoted, in `js_on_load`.
    """
    names = ", ".join(f"'{event}'" for event in events)
    return gr.HTML(
        value,
        html_template=file_of(f"{name}.html").read_text("utf-8"),
        js_on_load=f"darkroom.{name}(element, props, watch, trigger, upload) /* {names} */",
        apply_default_css=False,
        elem_id=name,
    )


def data_uri(picture: Image, kind: str, **options: Any) -> str:
    """A picture inside a live part's value; `kind` and `options` as `Image.save` takes them."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(file.getvalue()).decode()
