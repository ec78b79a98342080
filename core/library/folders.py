"""Where models lie: Darkroom's own folder, and those of other tools, which are read and never written to.

One scanner looks through all of them, for every kind of file. Whose a folder is, is told by the names in it; where a
tool keeps what is a row of TOOLS.
"""

from __future__ import annotations

import itertools
import logging
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from core.library.headers import GGUF, PICKLES, SAFETENSORS

OF_MODELS = ("model_index.json", "config.json", "unet", "transformer")  # a folder of diffusers has one of these
WEIGHTS = (*SAFETENSORS, *PICKLES, GGUF)
KINDS = (
    "checkpoints",
    "controlnet",
    "loras",
    "embeddings",
    "vae",
    "text_encoders",
    "upscalers",
    "previews",
    "preprocessors",
)
INSIDE = (".", "models", "Data/Models")  # where below a tool's own folder its models may lie
EXTRA_PATHS = "extra_model_paths.yaml"  # ComfyUI's list of further folders
EXTRA_LIMIT = 2**18  # bytes of it
ORIGIN_LIMIT = 40  # characters
READ_ONLY = (
    "the models folder is another tool's, which is never written to; start with a folder of Darkroom's own first: "
    "--models OWN --models THEIRS."
)
Folders = Path | Sequence[Path]
"""A folder, or several: what is called alike in two of them is the first one's."""


@dataclass(frozen=True)
class Tool:
    """Where a tool keeps each kind, from its folder of models on."""

    title: str
    places: Mapping[str, tuple[str, ...]]


_BASES = ("any", "sd-1", "sd-2", "sd-3", "sdxl", "sdxl-refiner", "flux")  # InvokeAI sorts by family first


def _by_base(*types: str) -> tuple[str, ...]:
    return tuple(f"{base}/{each}" for base, each in itertools.product(_BASES, types))


OWN = Tool("", {kind: (kind,) for kind in KINDS})
TOOLS = (
    OWN,
    Tool(
        "A1111 or Forge",
        {
            "checkpoints": ("Stable-diffusion",),
            "controlnet": ("ControlNet", "../extensions/sd-webui-controlnet/models"),
            "loras": ("Lora", "LyCORIS"),
            "embeddings": ("../embeddings", "embeddings"),
            "vae": ("VAE",),
            "text_encoders": ("text_encoder",),
            "upscalers": ("ESRGAN", "RealESRGAN"),
        },
    ),
    Tool(
        "ComfyUI",
        {
            "checkpoints": ("checkpoints", "diffusion_models", "unet"),
            "controlnet": ("controlnet",),
            "loras": ("loras",),
            "embeddings": ("embeddings",),
            "vae": ("vae",),
            "text_encoders": ("text_encoders", "clip"),
            "upscalers": ("upscale_models",),
        },
    ),
    Tool(
        "InvokeAI",
        {
            "checkpoints": _by_base("main"),
            "controlnet": _by_base("controlnet"),
            "loras": _by_base("lora"),
            "embeddings": _by_base("embedding"),
            "vae": _by_base("vae"),
            "upscalers": _by_base("spandrel_image_to_image"),
        },
    ),
    Tool(
        "Stability Matrix",
        {
            "checkpoints": ("StableDiffusion", "DiffusionModels", "Unet"),
            "controlnet": ("ControlNet",),
            "loras": ("Lora", "LyCORIS"),
            "embeddings": ("Embeddings", "TextualInversion"),
            "vae": ("VAE",),
            "text_encoders": ("TextEncoders", "CLIP"),
            "upscalers": ("ESRGAN", "RealESRGAN"),
        },
    ),
    Tool(
        "SwarmUI",
        {
            "checkpoints": ("Stable-Diffusion", "diffusion_models"),
            "controlnet": ("controlnet",),
            "loras": ("Lora",),
            "embeddings": ("Embeddings",),
            "vae": ("VAE",),
            "text_encoders": ("text_encoders", "clip"),
            "upscalers": ("upscale_models",),
        },
    ),
)
COMFY_KINDS = {
    name: kind for tool in TOOLS if tool.title == "ComfyUI" for kind, names in tool.places.items() for name in names
}
"""What ComfyUI's list of further folders calls each kind."""


@dataclass(frozen=True)
class Place:
    """A folder of one kind, and whose it is: nothing for Darkroom's own."""

    kind: str
    folder: Path
    origin: str = ""


@dataclass(frozen=True)
class Shelves:
    """The places of all kinds below the folders that were given, in their order."""

    places: tuple[Place, ...]

    def folders(self, kind: str) -> tuple[Path, ...]:
        return tuple(place.folder for place in self.places if place.kind == kind)

    def origins(self, kind: str) -> dict[Path, str]:
        """Of the places of a kind that are not Darkroom's."""
        return {place.folder: place.origin for place in self.places if place.kind == kind and place.origin}

    def is_own(self, kind: str) -> bool:
        """Whether the first place of a kind is Darkroom's, which alone is written to."""
        return next((not place.origin for place in self.places if place.kind == kind), False)


def shelves(folders: Sequence[Path]) -> Shelves:
    """The places in `folders`. The first of these is Darkroom's own, unless the names in it are another tool's."""
    return Shelves(tuple(place for folder in folders for place in _places(folder, folder == folders[0])))


def origin(path: Path, origins: Mapping[Path, str]) -> str:
    """Whose place a file lies in."""
    return next((origins[folder] for folder in path.parents if folder in origins), "")


def _places(folder: Path, may_be_ours: bool) -> Iterator[Place]:
    """What lies below `folder`, as the tool has it of whose names most are there."""
    rooms = [room for inside in INSIDE for room in _below(folder, inside)]
    told = [(folder, OWN), *itertools.product(rooms, TOOLS[may_be_ours:])]  # ours has its kinds right in it
    room, tool = max(told, key=lambda pair: _agreement(*pair))
    title = tool.title or ("" if may_be_ours else folder.name[:ORIGIN_LIMIT])
    for kind, names in tool.places.items():
        for name in names:
            there = _below(room, name) or ([room / name] if tool is OWN else [])  # it may be made later
            yield from (Place(kind, each, title) for each in there)
    if tool is not OWN:
        for beside in (room, room.parent):
            yield from read_extra_paths(beside / EXTRA_PATHS)


def _agreement(room: Path, tool: Tool) -> int:
    return sum(bool(_below(room, name)) for names in tool.places.values() for name in names)


def _below(folder: Path, path: str) -> list[Path]:
    """The folders that are meant by a path from `folder` on, whatever the case of its letters."""
    found = [folder]
    for part in Path(path).parts:
        found = (
            [each.parent for each in found]
            if part == ".."
            else [one for each in found for one in _called(each, part)]
        )
    return [each for each in found if each.is_dir()]


def _called(folder: Path, name: str) -> list[Path]:
    return [path for path in _entries(folder) if path.name.casefold() == name.casefold()]


def _entries(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, links last; nothing of one that is not there or may not be read."""
    with suppress(OSError):  # lost+found, where a disk is mounted here: others' folders are not ours
        seen = [path for path in folder.iterdir() if not path.name.startswith(".")]
        return sorted(seen, key=lambda path: (path.is_symlink(), path.name))
    return []


def models_in(where: Folders, whole: bool = True) -> dict[str, Path]:
    """What may be models, by path from its folder on: files of weights and, if they count as `whole`, diffusers'
    folders, in other folders too.

    Each folder is looked through once, however many links lead to it; names are NFC, as every system but one has it.
    """
    found: dict[str, Path] = {}
    seen: set[tuple[int, int]] = set()
    for folder in [where] if isinstance(where, Path) else where:
        of_this = dict(_models(folder, whole, seen))
        found |= {
            name: of_this[name] for name in sorted(of_this, key=lambda name: name.split("/")) if name not in found
        }
    return found


def _models(folder: Path, whole: bool, seen: set[tuple[int, int]]) -> Iterator[tuple[str, Path]]:
    """Links to folders come last: what they lead to is called by its own place if it is in here itself."""
    near, linked = [("", folder)], list[tuple[str, Path]]()
    while near or linked:
        before, place = (near or linked).pop(0)
        if not _is_new(place, seen):
            continue
        for path in _entries(place):
            name = before + unicodedata.normalize("NFC", path.name)
            if not path.is_dir():
                if path.suffix.lower() in WEIGHTS and path.is_file():
                    yield name, path
            elif not whole or not any((path / part).exists() for part in OF_MODELS):
                (linked if path.is_symlink() else near).append((f"{name}/", path))
            elif _is_new(path, seen):
                yield name, path


def _is_new(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder was not seen before, under any name. Notes that it was now."""
    try:
        stat = folder.stat()
    except OSError:
        return False
    key = (stat.st_dev, stat.st_ino)
    known = key in seen
    seen.add(key)
    return not known


# ComfyUI's list of further folders


def read_extra_paths(file: Path) -> list[Place]:
    """The places that ComfyUI's extra_model_paths.yaml names; none if it is not there, or no such list."""
    try:
        if not file.is_file() or file.stat().st_size > EXTRA_LIMIT:
            return []
        sections = yaml.safe_load(file.read_bytes())
        return [place for name, section in sections.items() for place in _section(str(name), section, file.parent)]
    except (OSError, yaml.YAMLError, ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        logging.getLogger(__name__).warning("%s cannot be read: %s", EXTRA_PATHS, type(error).__name__)
        return []


def _section(name: str, section: Any, beside: Path) -> Iterator[Place]:
    """Each line of each value is a folder, from `base_path` on, which itself goes from the file on."""
    if not isinstance(section, dict):
        return
    base = beside / os.path.expandvars(os.path.expanduser(str(section.get("base_path") or "")))
    for key, lines in section.items():
        kind = COMFY_KINDS.get(str(key))
        for line in str(lines or "").split("\n") if kind else ():
            if kind and line.strip():
                yield Place(kind, Path(os.path.normpath(base / line.strip())), f"ComfyUI, {name}"[:ORIGIN_LIMIT])
