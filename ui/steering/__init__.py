"""The ControlNet tab: its units, and the map that each would make.

It writes the form's own list of units; who reads it is none of its concern.
"""

from ui.steering.units import build_steering, wire_steering

__all__ = [
    "build_steering",
    "wire_steering",
]
