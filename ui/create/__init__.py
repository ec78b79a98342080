"""The Create page: the bar, the settings column, the stage, and which of their events does what.

It puts the rooms of the column together; what an event means is the desk's.
"""

from ui.create.column import build_bar, build_column, build_stage
from ui.create.wiring import wire_form, wire_stage

__all__ = [
    "build_bar",
    "build_column",
    "build_stage",
    "wire_form",
    "wire_stage",
]
