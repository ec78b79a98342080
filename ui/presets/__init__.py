"""Styles and settings on the Create page, and the dialog that keeps one's own.

They fill the form and go around its prompts; they make no picture.
"""

from ui.presets.cabinet import Cabinet, PresetRows, build_presets, wire_presets

__all__ = [
    "Cabinet",
    "PresetRows",
    "build_presets",
    "wire_presets",
]
