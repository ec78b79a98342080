"""Two pictures with a slider between them: any two of the history, or a result and what it began from."""

from __future__ import annotations

import gradio as gr

from ui.live import QUIET, live


def add_compare() -> None:
    """Add the dialog to the page being built; scripts open it by `darkroom.beside`."""
    pair = gr.ImageSlider(
        label="Two pictures", show_label=False, interactive=False, buttons=[], max_height=4096, elem_id="pair"
    )
    dialog = live("compare", "pair", "place")
    dialog.pair(None, None, pair, js="darkroom.pair", **QUIET)
    dialog.place(None, None, pair, js="darkroom.place", **QUIET)
