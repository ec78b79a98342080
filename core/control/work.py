"""The door to what needs torch: a ControlNet at work."""

from core.control.unit import ControlUnit

__all__ = ["ControlUnit"]
