"""Preprocessors, as a table: what each is called, its thresholds with their ranges, and the networks that it is for.

Most are made by filters, the same bits every time; those named after learned detectors elsewhere say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """A number that a preprocessor takes, in the field's own words."""

    label: str
    default: float
    lowest: float
    highest: float
    step: float = 1


@dataclass(frozen=True)
class Preprocessor:
    """`function` of core/control/filters.py makes the map from an RGB picture and the thresholds in their order; with
    a `network`, of core/control/learned.py. `suits` are parts of the names of ControlNets that were trained on such
    maps; `control_type` is what a Union takes the map for.
    """

    label: str
    help: str
    function: str
    thresholds: tuple[Threshold, ...] = ()
    suits: tuple[str, ...] = ()
    control_type: str | None = None
    network: str | None = None


CONTROL_TYPES = ("pose", "depth", "soft edges", "lines", "normals", "areas", "tile", "repaint")
"""What maps show, in the order in which ControlNet Union (xinsir's, and its ProMax) was trained on them."""
FLUX_TYPES = {"lines": 0, "tile": 1, "depth": 2, "pose": 4}
"""The same for FLUX's Unions (InstantX's, Shakker's), by their numbers; what else they know has no name here."""


def suited(network: str) -> str:
    """The preprocessor for a network, told from its name; "none" where it does not tell."""
    words = network.lower()
    return next((name for name, row in PREPROCESSORS.items() if any(part in words for part in row.suits)), "none")


PREPROCESSORS: Mapping[str, Preprocessor] = {
    "none": Preprocessor("None", "The picture is a control map already", "none"),
    "canny": Preprocessor(
        "Canny",
        "Thin edges",
        "canny",
        (Threshold("Low threshold", 100, 1, 255), Threshold("High threshold", 200, 1, 255)),
        ("canny",),
        "lines",
    ),
    "scribble": Preprocessor(
        "Scribble (filter)",
        "Thick lines, by a difference of Gaussians",
        "scribble",
        (Threshold("Threshold", 32, 1, 64),),
        ("scribble", "sketch"),
        "soft edges",
    ),
    "softedge": Preprocessor(
        "Soft edge (filter)",
        "Soft outlines, by gradients; not HED",
        "soft_edge",
        (Threshold("Softness", 2.0, 0.5, 16.0, 0.5),),
        ("softedge", "soft-edge", "hed"),
        "soft edges",
    ),
    "lineart": Preprocessor(
        "Lineart (filter)",
        "Dark lines of a drawing, made white on black",
        "lineart",
        (Threshold("Width of lines", 6.0, 0.5, 32.0, 0.5), Threshold("Faintest line", 8, 0, 16)),
        ("lineart", "line-art"),
        "lines",
    ),
    "blur": Preprocessor(
        "Blur", "Colours without details", "blur", (Threshold("Radius", 9.0, 0.5, 64.0, 0.5),), ("blur",), "tile"
    ),
    "tile": Preprocessor(
        "Tile",
        "Fewer pixels, as large",
        "tile",
        (Threshold("Times smaller", 2.0, 1.0, 16.0, 0.5),),
        ("tile",),
        "tile",
    ),
    "colour": Preprocessor(
        "Colour grid", "Squares of one colour", "colour_grid", (Threshold("Pixels a square", 64, 8, 256),), ("color",)
    ),
    "invert": Preprocessor("Invert", "A drawing of dark lines, made white on black", "invert", control_type="lines"),
    "threshold": Preprocessor("Threshold", "Black and white", "threshold", (Threshold("Level", 127, 0, 255),)),
    "segments": Preprocessor(
        "Colour areas (k-means)",
        "Areas of like colour; it knows no things",
        "segments",
        (Threshold("Colours", 8, 2, 32),),
        ("seg",),
        "areas",
    ),
    "depth": Preprocessor(
        "Depth (learned)", "How near everything is, by Depth Anything", "depth", (), ("depth",), "depth", "depth"
    ),
    "normals": Preprocessor(
        "Normals from depth (learned)",
        "Which way surfaces face, from the depth that Depth Anything sees",
        "normals",
        (Threshold("Background", 0.1, 0, 1, 0.05), Threshold("Relief", 1.0, 0.1, 10, 0.1)),
        ("normal",),
        "normals",
        "depth",
    ),
    "pose": Preprocessor(
        "Pose (learned)",
        "The skeleton of one person who fills the picture, by ViTPose, drawn as OpenPose does",
        "pose",
        (Threshold("Least sure", 0.3, 0, 1, 0.05),),
        ("pose",),
        "pose",
        "pose",
    ),
}
