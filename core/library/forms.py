"""How weights of few bits lie in files: the forms that are undone exactly, and all others, refused by name.

A number of 8 bits, or a whole one, is a weight only together with what stands beside it: read alone it gives noise.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.errors import CheckpointError

SCALES = {".scale_weight": 1.0, ".weight_scale": 1.0, ".SCB": 1 / 127}
"""How the scale is called beside "….weight", and its unit: ComfyUI's, and the largest value of a row, as bitsandbytes
keeps it with its int8.
"""
WHOLE = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")
NARROW = ("I8", "U8", "I16", "U16")
NO_WEIGHTS = r"(comfy_quant|weight_format|alpha|position_ids|_index|_mask)$"
FORMS = (
    (r"bitsandbytes__(nf4|fp4)|\.(absmax|quant_map|nested_absmax)$", "bitsandbytes' 4 bits"),
    (r"\.weight_scale_2$", "4 bits (NVFP4)"),
    (r"\.(wscales|wtscale|smooth_factor|smooth_orig)$", "nunchaku's SVDQuant"),
    (r"\.qzeros$", "GPTQ or AWQ"),
    (r"\.weight\._", "quanto's"),
    (r"\.weight_scale_inv$", "8 bits with a scale for each block"),
)
"""A pattern of keys for each form that we know by name and do not undo."""
UNDONE = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")  # of ComfyUI's
HARMLESS = ("format", "full_precision_matrix_mult", "per_row", "per_channel")  # of what ComfyUI says of a layer
MOST_SAID = 2**12  # bytes that it says of one

Header = Mapping[str, Mapping[str, Any]]


def check_forms(path: Path, start: int, header: Header) -> None:
    """Raises CheckpointError for a file whose tensors are not what they seem; its data begin at byte `start`."""
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    for pattern, form in FORMS:
        if any(re.search(pattern, name) for name in tensors):
            raise _refused(f"are {form}")
    for said in (*_said_in(header.get("__metadata__") or {}), *_said_beside(path, start, tensors)):
        _check_said(said)
    beside = _beside(tensors)
    for name, entry in tensors.items():
        if entry["dtype"] == "I8" or entry["dtype"].startswith("F8_"):
            _check_scale(name, tensors, beside)
        if _is_whole(name, entry["dtype"]) and not (entry["dtype"] == "I8" and _scale(name, tensors)):
            raise _refused(f"are whole numbers without a scale that it knows ({_shown(name)})")


def check_config(config: Mapping[str, Any]) -> None:
    """The same for what a diffusers folder's config says. bitsandbytes' 8 bits are undone as their tensors tell."""
    said = config.get("quantization_config")
    if said and not (isinstance(said, dict) and said.get("load_in_8bit")):
        known = said if isinstance(said, dict) else {}
        words = (known.get("quant_method"), known.get("bnb_4bit_quant_type"))
        raise _refused(f"are quantized ({' '.join(_shown(str(word)) for word in words if word) or 'unnamed'})")


def _refused(how: str) -> CheckpointError:
    return CheckpointError(f"its weights {how}, a form that Darkroom does not read; get the same model in 16 bits")


def _is_whole(name: str, dtype: str) -> bool:
    """Whether a tensor is one of whole numbers that stands for weights."""
    suspect = dtype in NARROW or name.endswith(("weight", "bias", "_data"))
    return dtype in WHOLE and suspect and not re.search(NO_WEIGHTS, name)


def _scale(name: str, tensors: Header) -> str | None:
    layer = name.removesuffix(".weight")
    return next((f"{layer}{end}" for end in SCALES if f"{layer}{end}" in tensors), None) if layer != name else None


def _check_scale(name: str, tensors: Header, beside: Mapping[str, set[str]]) -> None:
    """A known scale is one number for all, or one for each row; beside weights of 8 bits there is no unknown one."""
    layer = name.removesuffix(".weight")
    known = {end.removeprefix(".") for end in SCALES} | {"scale_input", "input_scale"}
    odd = [end for end in sorted(beside.get(layer, set()) - known) if re.search(r"scale|zero|absmax|offset", end)]
    if odd and layer != name:
        raise _refused(f"have a scale that it does not know ({_shown(f'{layer}.{odd[0]}')})")
    if scale := _scale(name, tensors):
        shape, rows = tensors[scale]["shape"], tensors[name]["shape"][:1]
        if math.prod(shape) != 1 and (shape[:1] != rows or math.prod(shape) != rows[0]):
            raise _refused("have 8 bits with a scale for each block")
        if not re.fullmatch(r"B?F(16|32|64)", tensors[scale]["dtype"]):
            raise _refused("have scales that are no plain numbers")


def _beside(tensors: Header) -> dict[str, set[str]]:
    """The ends of names by what stands before them."""
    found: dict[str, set[str]] = {}
    for name in tensors:
        layer, _, end = name.rpartition(".")
        found.setdefault(layer, set()).add(end)
    return found


# What ComfyUI says of a layer


def _said_in(metadata: Mapping[str, Any]) -> Iterator[Any]:
    with suppress(ValueError, LookupError, RecursionError, AttributeError, TypeError):
        yield from json.loads(metadata["_quantization_metadata"])["layers"].values()


def _said_beside(path: Path, start: int, tensors: Header) -> Iterator[Any]:
    names = [name for name in tensors if name.endswith(".comfy_quant")]
    if not names:
        return
    with path.open("rb") as file:
        for name in names:
            first, end = tensors[name]["data_offsets"]
            file.seek(start + first)
            try:
                yield json.loads(file.read(min(end - first, MOST_SAID)))
            except (ValueError, RecursionError):
                raise _refused("have a form that they do not name") from None


def _check_said(said: Any) -> None:
    if not isinstance(said, dict) or said.get("format") not in UNDONE:
        told = said.get("format") if isinstance(said, dict) else said
        raise _refused(f"are {_shown(str(told))}")
    if more := [str(key) for key, value in said.items() if value and key not in HARMLESS]:
        raise _refused(f"are {said['format']} with {_shown(more[0])}")


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in text[-80:])
