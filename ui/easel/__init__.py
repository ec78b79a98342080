"""The picture that a job begins from: rows of the settings column, and the canvas on which it lies and is masked.

It knows the form's fields; not what is done with them.
"""

from ui.easel.rows import build_editing, build_form_only

__all__ = [
    "build_editing",
    "build_form_only",
]
