"""The door to what needs OpenCV: the canvas of a run, with its mask and region."""

from core.pictures.canvas import Canvas, check_pictures, extend_to, fit_mask

__all__ = ["Canvas", "check_pictures", "extend_to", "fit_mask"]
