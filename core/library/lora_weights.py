"""The tensors of a LoRA's file, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from core.errors import CheckpointError, LoraError
from core.library.hashes import hash_files
from core.library.headers import read_json, read_metadata
from core.library.loras import BUNDLED, LoraInfo
from core.library.weights import Changed, opened
from core.lora import PARTS, Place, read_key
from core.lora.work import Factors, LoraFile, Misfit

ADAPTER = "adapter_model.safetensors"  # what peft calls its files


def read_lora(info: LoraInfo) -> LoraFile:
    """Its tensors, checked: finite, complete, of a rank and alpha that make sense. Raises LoraError."""
    try:
        with opened([info.path]) as stored:  # its hash and what its header says are of what is merged
            tensors = {key: each.to() for key, each in stored.items()}
            digest, metadata = hash_files([info.path]), read_metadata(info.path)
    except Changed:
        raise LoraError(f"LoRA: {info.name} changed on disk while it was read; try again.") from None
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError, CheckpointError):
        raise _unusable(info, "it is damaged, or no longer there") from None
    read = {key: found for key in tensors if (found := read_key(key))}
    try:
        factors = _grouped(tensors, read, _peft_config(metadata) or _adapter_config(info.path))
    except Misfit as error:
        raise _unusable(info, str(error)) from None
    unknown = (key for key in tensors.keys() - read.keys() if not BUNDLED.fullmatch(key))
    return LoraFile(info.name, digest, factors, tuple(sorted(unknown)))


def _unusable(info: LoraInfo, reason: str) -> LoraError:
    return LoraError(f"LoRA: {info.name} cannot be used: {reason}.")


def _grouped(
    tensors: Mapping[str, Any], read: Mapping[str, tuple[Place, str]], config: Mapping[str, Any]
) -> dict[Place, Factors]:
    """The tensors by the place they are for. Raises Misfit for what no trainer writes."""
    named: dict[Place, dict[str, Any]] = {}
    for key, (place, factor) in read.items():
        tensor = tensors[key]
        if not (tensor.is_floating_point() or factor == "alpha") or not tensor.double().isfinite().all():
            raise Misfit(f"{place} holds values that are not finite numbers")
        named.setdefault(place, {})[factor] = tensor
    groups = {}
    for place, own in named.items():
        alpha = own.pop("alpha", None)
        groups[place] = Factors(own, None if alpha is None else float(alpha.flatten()[:1].sum()))
        try:
            if alpha is None and config:
                groups[place] = Factors(own, _peft_alpha(config, place, groups[place].rank))
            _ = groups[place].scale
        except Misfit as error:
            raise Misfit(f"{place} {error}") from None
    return groups


def _peft_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """peft's own settings, which diffusers writes into a file's header."""
    with suppress(ValueError, RecursionError):
        config = json.loads(metadata.get("lora_adapter_metadata") or "{}")
        return config if isinstance(config, dict) else {}
    return {}


def _adapter_config(path: Path) -> dict[str, Any]:
    """The same as peft itself writes them, beside its file, whatever part that is for."""
    with suppress(CheckpointError, OSError):
        given = read_json(path.with_name("adapter_config.json")) if path.name == ADAPTER else {}
        return {f"{part}.{name}": value for part in PARTS for name, value in given.items()}
    return {}


def _peft_alpha(config: Mapping[str, Any], place: Place, rank: int | None) -> float | None:
    """`alpha_pattern` names layers by the end of their names."""
    part = "transformer" if place.part == "unet" and "transformer.lora_alpha" in config else place.part
    alpha = config.get(f"{part}.lora_alpha")
    patterns = config.get(f"{part}.alpha_pattern")
    for end, own in patterns.items() if isinstance(patterns, dict) else ():
        if f"_{place.layer}".endswith("_" + end.replace(".", "_")):
            alpha = own
    if not isinstance(alpha, int | float) or rank is None:
        return None
    return alpha * math.sqrt(rank) if config.get(f"{part}.use_rslora") else float(alpha)
