"""The networks of learned preprocessors on disk: depth and pose, in models/preprocessors/<name>."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import CheckpointError
from core.library.folders import Folders, models_in
from core.library.names import the_one
from core.library.parts import DEPTH, POSE, Part, sole_part
from core.request import PREPROCESSORS, Control

CLASSES = {"depth": DEPTH, "pose": POSE}


def check_detectors(where: Folders, controls: Sequence[Control]) -> None:
    """Raises CheckpointError for a unit whose preprocessor's network is not in `where`, or damaged."""
    for k, unit in enumerate(controls, start=1):
        if PREPROCESSORS[unit.preprocessor].network:
            find_detector(where, unit, f"ControlNet {k}: ")


def find_detector(where: Folders, unit: Control, whose: str = "") -> Part:
    """The network of a unit's preprocessor. Raises CheckpointError, which begins with `whose`."""
    row = PREPROCESSORS[unit.preprocessor]
    assert row.network
    known = models_in(where)
    own = known.get(the_one(row.network, known) or "")
    if own is None or not (own / "config.json").is_file():
        raise CheckpointError(
            f"{whose}{row.label} needs a network that is not here; get it on the page This machine, or put it "
            f"into models/preprocessors/{row.network}."
        )
    try:
        return sole_part("preprocessor", own, CLASSES[row.network])
    except CheckpointError as error:
        raise CheckpointError(f"{whose}The network of {row.label} cannot be used: {error}.") from None
