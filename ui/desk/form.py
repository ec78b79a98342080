"""The form's raw values -> requests, and a request's values -> the form's.

The page's events run with `preprocess=False`, so each component's value arrives as JSON has it. What a field needs
beyond that is a row of READERS; what it shows otherwise than the request holds it, a row of WRITERS. Beside the
request's own fields the form has a few that only say how others are meant: EXTRAS.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gradio as gr
from PIL.Image import Image

from core.errors import RequestError
from core.request import PICTURES, SECOND_PROMPTS, GenerationRequest, Hires, Lora, Outpaint, fingerprint, reject
from core.settings import Limits
from ui.controls import KEEP_SIZE
from ui.server import read_controls, read_upload

Form = Mapping[str, Any]
SIDES = {side: f"outpaint.{side}" for side in Outpaint.model_fields}
HIRES = {part: f"hires.{part}" for part in Hires.model_fields}
MASKING = ("mask_invert", "mask_grow", "mask_feather", "mask_content", "mask_colour")
EDITING = (*PICTURES, "strength", "resize_mode", *MASKING, "padding_mask_crop", "outpaint")
"""The request's fields that are for pictures that begin from a picture."""
COMMON = ("checkpoint", "sampler", "steps", "guidance_scale", "width", "height", "batch_size", "clip_skip", "hires")
MODELS_COMPANY = ("vae", "refiner", "refiner_start", "distilled_guidance")
REMEMBERED = (*COMMON, *MODELS_COMPANY, *HIRES.values(), "strength", "mask_feather", "mask_grow")
"""What a browser keeps from one visit to the next."""
EASEL = ("resize_mode", "redraw", "padding_mask_crop", "mask_invert", "mask_content", "mask_colour", *SIDES.values())
"""What it keeps as long as the picture on the easel, which a reload brings back."""
EXTRAS = ("task", "redraw", "kept", *SIDES.values(), *HIRES.values())


def read_form(values: Form, limits: Limits) -> list[GenerationRequest]:
    """The requests in a form's raw values: one, or for image to image one for each of its pictures.

    `image` and `mask` are paths of uploaded files, one a line. Raises RequestError.
    """
    given = {name: READERS[name](value) if name in READERS else value for name, value in values.items()}
    if "controls" in given:
        given["controls"] = read_controls(given["controls"], limits)
    common = {name: value for name, value in given.items() if name not in (*EDITING, *EXTRAS)}
    common["hires"] = {part: given[name] for part, name in HIRES.items()} if given.get("hires") else None
    task = given.get("task") or "text"
    if task == "text":  # whatever the other tabs hold
        return [GenerationRequest(**common)]
    keeps_size = given["resize_mode"] == KEEP_SIZE
    size = {"width": None, "height": None} if keeps_size else {"resize_mode": given["resize_mode"]}
    common |= {"strength": given["strength"]} | size
    images = _pictures("image", given["image"], limits)
    if not images:
        raise reject("image", None, "a picture that you drop, paste or choose on the canvas")
    if task == "image":
        return [GenerationRequest(**common, image=image) for image in images]
    return [GenerationRequest(**common, image=images[0], **_masked(given, limits))]


def check_editing(values: Form) -> None:
    """Raises RequestError for a value of the EDITING fields that no picture could begin with."""
    _outpaint(values)
    own = {name: value for name, value in values.items() if name in EDITING and value != KEEP_SIZE}
    GenerationRequest(**{name: READERS[name](value) if name in READERS else value for name, value in own.items()})


def _masked(given: Form, limits: Limits) -> dict[str, Any]:
    """What inpainting takes beside the picture."""
    outpaint = _outpaint(given)
    masks = _pictures("mask", given["mask"], limits)
    if not masks and outpaint is None:
        raise reject("mask", None, "the brush on what should change, or extend the picture")
    padding = given["padding_mask_crop"] if given["redraw"] == "masked" else None
    options = {name: given[name] for name in MASKING}
    return options | {"mask": masks[0] if masks else None, "outpaint": outpaint, "padding_mask_crop": padding}


def _outpaint(values: Form) -> Outpaint | None:
    sides = {side: values.get(name, 0) for side, name in SIDES.items()}
    return Outpaint(**sides) if any(sides.values()) else None


def _pictures(field: str, paths: Sequence[str], limits: Limits) -> list[Image | None]:
    """Uploaded pictures; more than could wait as jobs are not even read."""
    if len(paths) > limits.jobs_per_owner:
        raise reject(field, f"{len(paths):,} pictures", f"at most {limits.jobs_per_owner} at once on this server")
    label = GenerationRequest.model_fields[field].title or field
    return [read_upload({"path": path}, limits, field, label) for path in paths]


def mean_the_same(field: str, one: Any, other: Any) -> bool:
    """Whether two of a field's raw values are read alike, however each is written."""
    read = READERS.get(field, lambda value: value)
    return bool(read(one) == read(other))


def write_form(names: Iterable[str], values: Mapping[str, Any]) -> list[Any]:
    """What the form's components `names` show for a request's `values`; those without one stay as they are.

    The values of a whole request have an `image`, or None: then the easel is told what to begin from, too.
    """
    shown = {name: WRITERS[name](value) if name in WRITERS else value for name, value in values.items()}
    shown = {name: value for name, value in shown.items() if name not in (*PICTURES, "resize_mode", "outpaint")}
    if "padding_mask_crop" in values:
        whole = values["padding_mask_crop"] is None
        shown["redraw"] = "whole" if whole else "masked"
        if whole:
            del shown["padding_mask_crop"]
    if "hires" in values:
        shown |= _second_pass(values["hires"])
    if "image" in values:
        shown |= _source(GenerationRequest(**values))
    if shown.get("width", 0) is None:  # the picture's; the form's own stands by for other tasks
        shown = {name: value for name, value in shown.items() if name not in ("width", "height")}
    return [shown.get(name, gr.skip()) for name in names]


def _second_pass(hires: Hires | None) -> dict[str, Any]:
    """Without one the rows keep what they show."""
    parts = {HIRES[part]: value for part, value in hires or ()}
    return {"hires": hires is not None, **parts} | ({"hires.steps": hires.steps or 0} if hires else {})


def _source(request: GenerationRequest) -> dict[str, Any]:
    """What a request begins from, as the form has it; the easel fetches the pictures by their fingerprints."""
    pictures = {name: fingerprint(picture) for name in PICTURES if (picture := getattr(request, name))}
    source = {"kept": json.dumps({"task": request.task, **pictures})}
    if request.image is None:
        return source
    size = zip(request.image.size, (request.width, request.height), strict=True)
    own = not request.only_masked and all(side is None or 0 <= its_own - side < 8 for its_own, side in size)
    source["resize_mode"] = KEEP_SIZE if own and request.resize_mode == "stretch" else request.resize_mode
    return source | {name: getattr(request.outpaint, side, 0) for side, name in SIDES.items()}


def _seed(text: Any) -> Any:
    """A seed is text, as a browser's numbers are exact to 2^53 only. "-1" draws one, as in A1111; what is no number
    is the request's to refuse.
    """
    text = (text or "").strip()
    if text == "-1":
        return None
    return int(text) if re.fullmatch(r"-?[0-9]{1,30}", text) else text or None


def _paths(text: Any) -> list[str]:
    return str(text).split("\n") if text else []


def _colour(text: Any) -> Any:
    """gradio's colour picker sends rgba(…) once it was used."""
    channels = re.fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+)(?:, *[\d.]+)?\)", str(text))
    return "#" + "".join(f"{min(255, round(float(c))):02x}" for c in channels.groups()) if channels else text


def _list(text: Any) -> Any:
    """A list of the request's, as JSON. What is none is the request's to refuse."""
    try:
        return json.loads(text or "[]")
    except (ValueError, TypeError, RecursionError):
        return text


def read_loras(text: Any) -> tuple[Lora, ...]:
    """Those of the form's field; none if it holds anything else."""
    try:
        return GenerationRequest(loras=_list(text)).loras
    except RequestError:
        return ()


def _json(values: Any) -> str:
    return json.dumps([each.model_dump(mode="json") for each in values])


def _loras(values: Any) -> str:
    """A text weight that follows the weight is left out, as the page's script does."""
    return json.dumps([each.model_dump(exclude_none=True) for each in values])


READERS: Mapping[str, Callable[[Any], Any]] = {
    "seed": _seed,
    "image": _paths,
    "mask": _paths,
    "mask_colour": _colour,
    "hires.steps": lambda steps: steps or None,
    "vae": lambda name: name or None,
    "refiner": lambda name: name or None,
    "controls": _list,
    "loras": _list,
}
WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "seed": lambda seed: "" if seed is None else str(seed),
    **dict.fromkeys(SECOND_PROMPTS, lambda text: text or ""),
    "controls": _json,
    "vae": lambda name: name or "",
    "refiner": lambda name: name or "",
    "loras": _loras,
}
