"""Pictures that visitors send: where they lie on this machine, and what is read from them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

from gradio.utils import get_upload_folder
from PIL.Image import Image

from core.errors import RequestError
from core.pictures import read_mask, read_picture
from core.request import Control, GenerationRequest, allowed, bounds, reject
from core.settings import Limits

KEEP_SECONDS = 600.0
LEAST_BYTES = 2**16  # that a file counts, so that a million empty ones are none to go through
MOST_CONTROLS: int = bounds(GenerationRequest.model_fields["controls"])["max_length"]


def uploaded(value: Any, field: str, label: str) -> Path:
    """Where an uploaded file lies. Whatever else a caller names, no other file of this machine is opened."""
    path = value.get("path") if isinstance(value, dict) else None
    folder = Path(get_upload_folder()).resolve()
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise RequestError(field, "this value", "a picture sent as a file (gradio_client's handle_file)", label)
    if not Path(path).is_file():
        raise RequestError(field, "a file that is gone", "a picture that is sent again", label)
    return Path(path)


def make_way(most: float) -> bool:
    """Whether the folder of uploads holds less than `most` bytes, once the oldest have made way.

    Those of the last KEEP_SECONDS stay: they may be on somebody's canvas, or just coming in.
    """
    folder, files = Path(get_upload_folder()), []
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # gradio clears up, too
            stat = file.stat()
            if S_ISREG(stat.st_mode):
                files.append((stat.st_mtime, max(stat.st_size, LEAST_BYTES), file))
    held = sum(size for _, size, _ in files)
    for changed, size, file in sorted(files):
        if held < most or time.time() - changed < KEEP_SECONDS:
            break
        file.unlink(missing_ok=True)
        held -= size
        with suppress(OSError):  # there is more in it
            if file.parent != folder:
                file.parent.rmdir()
    return held < most


def read_upload(value: Any, limits: Limits, field: str, label: str) -> Image | None:
    """The picture of an uploaded file as JSON describes it, a mask for the field "mask"; None for none."""
    if value is None:
        return None
    reader = read_mask if field == "mask" else read_picture
    return reader(uploaded(value, field, label), max_pixels=limits.max_pixels, field=field, label=label)


def read_controls(units: Any, limits: Limits) -> Any:
    """ControlNet units as JSON has them, their pictures read; what is no list of objects the request refuses."""
    if not isinstance(units, list):
        return units
    if len(units) > MOST_CONTROLS:
        raise reject("controls", units, allowed(GenerationRequest.model_fields["controls"]))
    return [_with_picture(unit, k, limits) if isinstance(unit, dict) else unit for k, unit in enumerate(units)]


def _with_picture(unit: dict[str, Any], index: int, limits: Limits) -> dict[str, Any]:
    field, label = f"controls[{index}].image", f"ControlNet {index + 1}: {Control.model_fields['image'].title}"
    if unit.get("image") == "":  # a unit of the page that waits for its own picture
        raise RequestError(field, None, "a picture that you drop, paste or choose, or the source picture", label)
    return unit | {"image": read_upload(unit.get("image"), limits, field, label)}
