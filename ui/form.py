"""The form: its raw values -> requests, and a picture's settings -> values of the form.

Raw, because the page's events run with `preprocess=False`: the request itself is the one check. Beside the request's
own fields the form has a few that only say how others are meant; see EXTRAS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from PIL.Image import Image

from core.errors import RequestError
from core.images import read_mask, read_picture
from core.request import PICTURES, GenerationRequest, Outpaint, reject

KEEP_SIZE = "keep"  # the form's own way to resize: width and height are the picture's
SIDES = {side: f"outpaint.{side}" for side in Outpaint.model_fields}
MASKING = ("mask_invert", "mask_grow", "mask_feather", "mask_content", "mask_colour")
EDITING = (*PICTURES, "strength", "resize_mode", *MASKING, "padding_mask_crop", "outpaint")
"""The request's fields that are for pictures that begin from a picture."""
EXTRAS = ("task", "redraw", *SIDES.values())
Form = Mapping[str, Any]


def read_form(values: Form, max_pixels: int) -> list[GenerationRequest]:
    """The requests in a form's raw values: one, or for image to image one for each of its pictures.

    `image` and `mask` are paths of uploaded files, one a line. Raises RequestError.
    """
    given = {name: READERS[name](value) if name in READERS else value for name, value in values.items()}
    common = {name: value for name, value in given.items() if name not in (*EDITING, *EXTRAS)}
    task = given.get("task") or "text"
    if task == "text":  # whatever the other tabs hold
        return [GenerationRequest(**common)]
    keeps_size = given["resize_mode"] == KEEP_SIZE
    common |= {"strength": given["strength"]} | (
        {"width": None, "height": None} if keeps_size else {"resize_mode": given["resize_mode"]}
    )
    images = [_picture("image", path, max_pixels) for path in given["image"]]
    if not images:
        raise reject("image", None, "a picture that you drop, paste or choose on the canvas")
    if task == "image":
        return [GenerationRequest(**common, image=image) for image in images]
    return [GenerationRequest(**common, image=images[0], **_masked(given, max_pixels))]


def _masked(given: Form, max_pixels: int) -> dict[str, Any]:
    """What inpainting takes beside the picture."""
    sides = {side: given[name] for side, name in SIDES.items()}
    outpaint = Outpaint(**sides) if any(sides.values()) else None
    masks = [_picture("mask", path, max_pixels) for path in given["mask"]]
    if not masks and outpaint is None:
        raise reject("mask", None, "the brush on what should change, or extend the picture")
    padding = given["padding_mask_crop"] if given["redraw"] == "masked" else None
    options = {name: given[name] for name in MASKING}
    return options | {"mask": masks[0] if masks else None, "outpaint": outpaint, "padding_mask_crop": padding}


def form_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields as the form shows them. Its pictures stay with the page: they are no values of a form."""
    shown = {name: value for name, value in fields.items() if name not in (*PICTURES, "outpaint", "resize_mode")}
    if "seed" in shown:
        shown["seed"] = str(shown["seed"])
    if "padding_mask_crop" in shown:
        whole = shown["padding_mask_crop"] is None
        shown["redraw"] = "whole" if whole else "masked"
        if whole:
            del shown["padding_mask_crop"]
    return shown


def uploaded(value: Any, field: str, label: str) -> Path:
    """Where an uploaded file lies. Whatever else a caller names, no other file of this machine is opened."""
    path = value.get("path") if isinstance(value, dict) else None
    folder = Path(get_upload_folder()).resolve()
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise RequestError(field, "this value", "a picture sent as a file (gradio_client's handle_file)", label)
    if not Path(path).is_file():
        raise RequestError(field, "a file that is gone", "a picture that is sent again", label)
    return Path(path)


def _picture(field: str, path: str, max_pixels: int) -> Image:
    label = GenerationRequest.model_fields[field].title or field
    read = read_mask if field == "mask" else read_picture
    return read(uploaded({"path": path}, field, label), max_pixels=max_pixels, field=field, label=label)


def _seed(text: Any) -> Any:
    """A number where the text is one; anything but digits is the request's to refuse."""
    seed = (text or "").strip()
    return int(seed) if re.fullmatch(r"-?[0-9]{1,30}", seed) else seed or None


def _paths(text: Any) -> list[str]:
    return str(text).split("\n") if text else []


def _colour(text: Any) -> Any:
    """gradio's colour picker sends rgba(…) once it was used."""
    channels = re.fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+)(?:, *[\d.]+)?\)", str(text))
    return "#" + "".join(f"{min(255, round(float(c))):02x}" for c in channels.groups()) if channels else text


READERS: Mapping[str, Callable[[Any], Any]] = {"seed": _seed, "image": _paths, "mask": _paths, "mask_colour": _colour}
"""What turns a component's raw value into the request's; a browser's numbers are exact to 2^53 only, so a seed is
text."""
