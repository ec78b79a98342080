"""By which hashes a picture tells the files that it names, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.events import HASH_OF
from core.pictures.dialects.found import parse_object
from core.pictures.metadata import PictureInfo

HASH = re.compile(r"(?:\w+:)?([0-9a-fA-F]{8,128})")  # InvokeAI names its kind first
PAIR = re.compile(r"\s*(?P<name>[^,]+?): *(?P<hash>[0-9a-fA-F]{8,128})\s*(?:,|$)")
OF_FIELDS = {
    "checkpoint": ("Model hash", "model hash", "model_hash", "model"),
    "refiner": ("Refiner hash", "refiner hash", "refiner_hash", "refiner"),
    "vae": ("VAE hash", "vae hash", "vae_hash", "vae"),
}
"""What tools call the hash of the file that a field names; the last is A1111's in its "Hashes"."""
EMBEDDINGS = ("embed:", f"embedding{HASH_OF}")
LORAS = ("lora:", f"lora{HASH_OF}")
CONTROLNET = re.compile(r"ControlNet \d+")  # A1111's units, which a request has only with their pictures
NETWORK = re.compile(r"\bModel: (?!None)([^,]+?)(?: \[[0-9a-f]+\])?(?:,|$)", re.IGNORECASE)
MOST = 1_000  # hashes of one picture


@dataclass(frozen=True)
class Said:
    """`hashes` of files by the names that the picture has for them; `others` are kinds and names, see missing.py in
    core/library, of files that no field of a request holds: embeddings', and networks' without their pictures.
    """

    hashes: Mapping[str, str]
    others: tuple[tuple[str, str], ...] = ()


def said_hashes(info: PictureInfo) -> Said:
    told = dict(list(_told(info))[:MOST])
    named = {
        info.fields[field]: told[key] for field, keys in OF_FIELDS.items() if (key := _key(field, keys, info, told))
    }
    embeddings = _of(EMBEDDINGS, told) | _pairs(info.unknown.get("TI hashes", ""))
    loras = _of(LORAS, told) | _pairs(info.unknown.get("Lora hashes", ""))
    others = (*(("embedding", name) for name in embeddings), *(("controlnet", name) for name in _networks(info)))
    return Said({**embeddings, **loras, **named}, others)


def _networks(info: PictureInfo) -> Iterator[str]:
    units = (text[: 2**16] for key, text in info.unknown.items() if CONTROLNET.fullmatch(key))
    yield from (found[1] for unit in units if (found := NETWORK.search(unit)))


def _key(field: str, keys: tuple[str, ...], info: PictureInfo, told: Mapping[str, str]) -> str | None:
    return next((key for key in keys if key in told), None) if info.fields.get(field) else None


def _told(info: PictureInfo) -> Iterator[tuple[str, str]]:
    """Every value of the picture's that is a hash, by its key."""
    within: Mapping[str, Any] = parse_object(info.unknown.get("Hashes", "")) or {}
    for key, value in (*within.items(), *info.unknown.items(), *info.made_with.items()):
        if isinstance(value, str) and (found := HASH.fullmatch(value.strip())):
            yield key, found[1]


def _of(prefixes: tuple[str, ...], told: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(each): told[key] for key in told for each in prefixes if key.startswith(each)}


def _pairs(text: str) -> dict[str, str]:
    return {found["name"]: found["hash"] for found in list(PAIR.finditer(text[: 2**16]))[:MOST]}
