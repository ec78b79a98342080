"""ControlNet: the maps that preprocessors make of a picture, and a network at work in a run.

It knows one unit at a time: nothing of the loop that asks it.
"""

from core.control.detectors import Detectors

__all__ = ["Detectors"]
