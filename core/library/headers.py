"""Files of models as they lie on disk: what their headers say, and what is refused unopened."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from core.library.forms import check_config, check_forms
from core.library.shapes import Shapes

HEADER_LIMIT = 100 * 2**20  # safetensors' own bound
CONFIG_LIMIT = 2**16  # characters
SAFETENSORS = (".safetensors", ".sft")
GGUF = ".gguf"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
USUAL_NAMES = re.compile(r"(diffusion_pytorch_)?model(\.fp16)?(-\d{5}-of-\d{5})?(\.fp16)?\.safetensors")
"""What diffusers and transformers call a component's weights."""
MALFORMED = (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration)
"""What reading files raises whose headers and configs are not what they should be."""
OWN_HASHES = ("sshs_model_hash", "sshs_legacy_hash")
NOT_SAFETENSORS = {
    b"PK": "it is a pickle with the ending .safetensors, which is never loaded; convert it",
    b"\x80": "it is a pickle with the ending .safetensors, which is never loaded; convert it",
    b"version ": "it is a Git LFS pointer; download the file itself",
    b"<": "it is a web page saved under this name; download the file itself",
}
"""What files begin with that are something else than their name says."""


def weights_in(folder: Path) -> Path:
    """A component's safetensors file, or the first of its shards: that which the libraries would load, though others
    lie beside it (weights without EMA), and of full precision where there is half as well.
    """
    files = sorted(folder.glob("*.safetensors"), key=_how_unusual)
    if not files and any(folder.glob("*.bin")):
        raise CheckpointError(
            f"its {folder.name} is a pickle (.bin), which is never loaded; convert it to safetensors"
        )
    if not files:
        raise CheckpointError(f"its {folder.name} has no weights")
    if (folder / "config.json").is_file():
        try:
            check_config(read_json(folder / "config.json"))
        except CheckpointError as error:
            raise CheckpointError(f"{folder.name}: {error}") from None
    return files[0]


def _how_unusual(weights: Path) -> tuple[bool, bool, str]:
    return not USUAL_NAMES.fullmatch(weights.name), ".fp16" in weights.name, weights.name


def shards(weights: Path) -> list[Path]:
    """All files of which `weights` is one: model-00001-of-00002.safetensors has another.

    Raises CheckpointError if one is missing.
    """
    numbered = re.search(r"-\d{5}-of-(\d{5})", weights.name)
    if not numbered:
        return [weights]
    before, after = weights.name[: numbered.start()], weights.name[numbered.end() :]
    names = (f"{before}-{k + 1:05}-of-{numbered[1]}{after}" for k in range(int(numbered[1])))
    files = [weights.with_name(name) for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(f"its {weights.parent.name} is not complete: {missing[0]} is missing")
    return files


def read_all_shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    """As `read_shapes`, of all shards."""
    return {name: shape for file in shards(weights) for name, shape in read_shapes(file).items()}


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a file of weights.

    Raises CheckpointError if it is damaged, a pickle, or of weights in a form that we do not undo.
    """
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            "it is a pickle, which is never loaded; convert it to .safetensors, for example with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True)['state_dict'], NEW_FILE)"
        )
    if path.suffix.lower() == GGUF:
        raise CheckpointError("it is a GGUF file, which Darkroom does not read; get the same model as .safetensors")
    header, start = _header(path)
    check_forms(path, start, header)
    return {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}


def read_metadata(path: Path) -> dict[str, Any]:
    """What the maker of a safetensors file wrote into it. Raises as above."""
    metadata = _header(path)[0].get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def own_hashes(path: Path) -> list[str]:
    """What kohya wrote into a LoRA as its hash, of the tensors alone; A1111 has it so in pictures."""
    with suppress(CheckpointError, OSError):
        return [told for key in OWN_HASHES if isinstance(told := read_metadata(path).get(key), str)]
    return []


def read_parameterization(config: Path) -> str:
    """What a model predicts as a config of the original code has it, which lies beside its file as NAME.yaml: "v",
    "eps" or, where there is none or it does not say, "".
    """
    with suppress(OSError), config.open(encoding="utf-8", errors="replace") as file:
        if said := re.search(r"parameterization:\s*[\"']?(v|eps)\b", file.read(CONFIG_LIMIT)):
            return said[1]
    return ""


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the data begin. Format: 8 bytes little-endian length, that much JSON, then the data (https://github.com/huggingface/safetensors)."""
    with path.open("rb") as file:
        start = file.read(8)
        whose = f"its {path.parent.name}" if (path.parent / "config.json").exists() else "it"  # a component, or alone
        other = next((text for magic, text in NOT_SAFETENSORS.items() if start.startswith(magic)), None)
        damaged = CheckpointError(other or f"{whose} is damaged or not fully copied")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT + 1
        if length > HEADER_LIMIT:
            raise damaged
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            ends = (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
            end = max(ends, default=0)
        except (*MALFORMED, RecursionError):
            raise damaged from None
    if path.stat().st_size != 8 + length + end:
        raise damaged
    return header, 8 + length


def refuse(reasons: Iterable[tuple[str, str]], keys: Iterable[str]) -> None:
    """Raises CheckpointError with the first reason whose pattern is found in one of a file's keys."""
    for pattern, reason in reasons:
        if any(re.search(pattern, key) for key in keys):
            raise CheckpointError(reason)


def count_parameters(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def without_prefix(shapes: Shapes, prefix: str) -> tuple[str, Shapes]:
    """A component's tensors by their own names, and what its keys begin with in this file: `prefix` or nothing."""
    if not any(key.startswith(prefix) for key in shapes):
        return "", shapes
    return prefix, {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent.name}/{path.name} is missing") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path.parent.name}/{path.name} is not JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.parent.name}/{path.name} is not a JSON object")
    return content
