"""Pictures that visitors send: where they lie on this machine, and what is read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL.Image import Image

from core.errors import RequestError
from core.images import read_mask, read_picture
from core.settings import Limits


def uploaded(value: Any, field: str, label: str) -> Path:
    """Where an uploaded file lies. Whatever else a caller names, no other file of this machine is opened."""
    path = value.get("path") if isinstance(value, dict) else None
    folder = Path(get_upload_folder()).resolve()
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise RequestError(field, "this value", "a picture sent as a file (gradio_client's handle_file)", label)
    if not Path(path).is_file():
        raise RequestError(field, "a file that is gone", "a picture that is sent again", label)
    return Path(path)


def read_upload(value: Any, limits: Limits, field: str, label: str) -> Image | None:
    """The picture of an uploaded file as JSON describes it, a mask for the field "mask"; None for none."""
    if value is None:
        return None
    reader = read_mask if field == "mask" else read_picture
    return reader(uploaded(value, field, label), max_pixels=limits.max_pixels, field=field, label=label)
