"""The page This machine: memory, models to get, the way out.

It shows and frees what the engine has; it makes no picture.
"""

from ui.machine.machine import add_machine

__all__ = [
    "add_machine",
]
