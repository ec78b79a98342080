"""The History page, the large view and the comparison of two pictures.

It asks the history for a visitor's own; the form it only fills.
"""

from ui.history.compare import add_compare
from ui.history.gallery import add_history

__all__ = [
    "add_compare",
    "add_history",
]
