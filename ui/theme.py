"""gradio's theme, drawn with the page's own colours, which stand once: as variables in style.css."""

from __future__ import annotations

import gradio as gr

_COLOURS = {
    "body_background_fill": "var(--panel)",
    "body_text_color": "var(--text)",
    "body_text_color_subdued": "var(--muted)",
    "background_fill_primary": "var(--raised)",
    "background_fill_secondary": "var(--panel)",
    "border_color_primary": "var(--line)",
    "border_color_accent": "var(--safe)",
    "color_accent_soft": "var(--raised)",
    "block_background_fill": "transparent",
    "block_border_width": "0px",
    "block_title_text_color": "var(--muted)",
    "block_label_text_color": "var(--muted)",
    "block_label_background_fill": "transparent",
    "block_info_text_color": "var(--muted)",
    "block_shadow": "none",
    "panel_background_fill": "transparent",
    "panel_border_width": "0px",
    "input_background_fill": "var(--raised)",
    "input_background_fill_focus": "var(--raised)",
    "input_border_color": "var(--line)",
    "input_border_color_focus": "var(--edge)",
    "input_placeholder_color": "var(--muted)",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "slider_color": "var(--safe)",
    "link_text_color": "var(--text)",
    "button_secondary_background_fill": "var(--raised)",
    "button_secondary_background_fill_hover": "var(--hover)",
    "button_secondary_border_color": "var(--line)",
    "button_secondary_text_color": "var(--text)",
    "button_secondary_shadow": "none",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_text_color": "var(--muted)",
    "error_background_fill": "var(--raised)",
    "error_border_color": "var(--edge)",
    "error_text_color": "var(--text)",
    "error_icon_color": "var(--muted)",
    "loader_color": "var(--safe)",
}
_SHAPES = {
    "block_padding": "0px",
    "block_radius": "0px",
    "block_title_text_size": "12.5px",
    "block_title_text_weight": "400",
    "block_info_text_size": "12px",
    "body_text_size": "13px",
    "input_text_size": "13px",
    "input_radius": "6px",
    "input_padding": "0 10px",
    "layout_gap": "0px",
    "form_gap_width": "0px",
    "button_large_radius": "8px",
    "button_large_text_size": "13px",
    "button_transition": "none",
}


def make_theme() -> gr.themes.Base:
    theme = gr.themes.Base(font=["Geist", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    dark = {f"{name}_dark": value for name, value in _COLOURS.items() if hasattr(theme, f"{name}_dark")}
    return theme.set(**_COLOURS, **dark, **_SHAPES)
