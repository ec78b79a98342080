"""The PNG info page: what a picture says about its making.

It reads uploads and makes one picture again; the form it only fills.
"""

from ui.info.reader import add_info

__all__ = [
    "add_info",
]
