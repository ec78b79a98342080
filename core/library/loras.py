"""The LoRAs on disk: what they are, told from headers alone."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from core.errors import CheckpointError, LoraError, RequestError
from core.families import BY_CONTEXT_WIDTH, FAMILIES
from core.library.checkpoints import Checkpoint
from core.library.embeddings import Embedding
from core.library.folders import Folders, models_in
from core.library.headers import MALFORMED, SAFETENSORS, read_metadata, read_shapes, refuse
from core.library.names import meant
from core.library.shapes import Shapes
from core.library.sidecars import MOST_WORDS, TEXT_LIMIT, beside, listed
from core.lora import Place, read_key
from core.memory import Key
from core.request import Lora
from core.storage import storage, write_file

ENDING = ".safetensors"
MOST_TENSORS = 20_000  # the richest LoRAs of XL have about 8,000
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{k}" for port in ("COM", "LPT") for k in range(10))}  # on Windows
BASES = (
    (r"flux[-_]?1", "flux"),
    (r"xl", "sdxl"),
    (r"sd_?v?3|stable-diffusion-v?3", "sd3"),
    (r"sd_?v?2|stable-diffusion-v?2", "sd2"),
    (r"sd_?v?1|stable-diffusion-v?1", "sd1"),
)
"""What `ss_base_model_version` and `modelspec.architecture` say for a family, in the order of asking."""
TRANSFORMERS = (
    (r"(double|single|single_transformer)_blocks_", "flux"),
    (r"joint_blocks_", "sd3"),
    (r"transformer_blocks_", None),
)
"""What a transformer's layers begin with, and the family if that tells it."""
KINDS = (
    (r"\.(a|b)[12](\.weight)?$", "GLoRA"),
    (r"\.boft_", "BOFT"),
    (r"\.oft_", "OFT"),
    (r"\.(ia3_l|on_input)", "IA³"),
    (r"\.vera_", "VeRA"),
    (r"\.(qkv_proj|mlp(_context)?_fc[12])\.lora_|\.(wscales|smooth)$", "nunchaku's own, packed for its kernels"),
)
"""A pattern of keys for each kind of file whose changes are no sum, or that we cannot undo."""
ELSEWHERE = (
    *((pattern, f"it is of a kind ({kind}) that Darkroom cannot merge") for pattern, kind in KINDS),
    (
        r"double_blocks|single_blocks|joint_blocks|^transformer\.",
        "it is made for a transformer, in a form that Darkroom does not know",
    ),
    (r"^(model\.diffusion_model|first_stage_model)\.", "it is a whole model, which belongs into models/checkpoints"),
    (r"^(emb_params|clip_[lg]|string_to_param.*)$", "it is an embedding, which belongs into models/embeddings"),
    (r"^(control_model|controlnet)", "it is a ControlNet, which belongs into models/controlnet"),
)
"""What is often put into the folder and cannot be used: a pattern of its keys, and what to say."""
BUNDLED = re.compile(r"bundle_emb\.(?P<word>.+?)\.(?P<own>string_to_param\.\*|[^.]+)")


@dataclass(frozen=True)
class LoraInfo:
    """A file of models/loras. `name` is its path in there without the ending; one with a `problem` cannot be used.
    `title` and `base` are its maker's words for it and for the model that it was made for.

    `width` is that of the text embeddings it was trained with, `family` a key of FAMILIES; None where nothing tells.
    `changes` is how many numbers of a model it changes, `bundled` the embeddings that it brings.
    """

    name: str
    path: Path = field(repr=False)
    key: Key = field(repr=False)
    format: str = ""
    family: str | None = None
    width: int | None = None
    rank: int | None = None
    changes: int = 0
    words: tuple[str, ...] = ()
    alias: str = ""
    title: str = ""
    base: str = ""
    notes: str = ""
    preview: Path | None = field(default=None, repr=False)
    problem: str | None = None
    origin: str = ""
    bundled: tuple[Embedding, ...] = field(default=(), repr=False)

    @property
    def size_bytes(self) -> int:
        return self.key.size

    def why_not(self, checkpoint: Checkpoint) -> str | None:
        """Why it cannot be merged into a model, as far as its header tells."""
        if self.problem:
            return self.problem
        if self.family not in (None, checkpoint.family):
            return f"it is made for {FAMILIES[str(self.family)].title}, {checkpoint.title} is another family"
        if self.width not in (None, checkpoint.context_width):
            width = checkpoint.context_width
            return f"it is made for text embeddings {self.width} wide, those of {checkpoint.title} are {width}"
        return None


class LoraShelf:
    """The LoRAs of some folders as last looked at. A file that has not changed is not read again."""

    def __init__(self, where: Folders) -> None:
        self._read: dict[Key, LoraInfo] = {}
        self.look(where)

    def __iter__(self) -> Iterator[LoraInfo]:
        return iter(self._infos)

    def look(self, where: Folders) -> None:
        """Look through `where`, from now on."""
        self._where = where
        files = {_named(name): path for name, path in reversed(models_in(where, whole=False).items())}
        read = [self._read.get(_key(path)) or _describe(name, path) for name, path in files.items()]
        self._read = {info.key: info for info in read}
        self._infos = tuple(sorted(map(_beside, read), key=lambda info: info.name.lower()))

    def add(self, file: Path, name: str) -> LoraInfo:
        """Copy `file` into the first folder, under a name like `name`; nothing is overwritten.

        Raises LoraError if it is no LoRA.
        """
        given = _describe(name, file)
        if given.problem:
            raise LoraError(f"LoRA: the file cannot be used: {given.problem}.")
        folder = self._where if isinstance(self._where, Path) else self._where[0]
        stem = _safe(name)
        number = next(k for k in count(1) if not _path(folder, stem, k).exists())
        target = _path(folder, stem, number)
        with storage():
            folder.mkdir(parents=True, exist_ok=True)
            write_file(target, file.read_bytes(), 0o666)  # as any other model: other programs may share the folder
        self.look(self._where)
        return self.find(target.name.removesuffix(ENDING))

    def find(self, name: str) -> LoraInfo:
        """By its name, see names.py, else by what its maker called it, where only one is so called.

        Raises RequestError.
        """
        found = self.meant(name)
        if len(found) == 1:
            return found[0]
        known = [info.name for info in found or self if not info.problem]
        shown = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
        raise RequestError("loras", name, f"one of {shown}" if known else "none, as there is no LoRA", "LoRA")

    def only(self, name: str) -> str | None:
        """The one LoRA that a name may mean."""
        found = self.meant(name)
        return found[0].name if len(found) == 1 else None

    def meant(self, name: str) -> list[LoraInfo]:
        """All that a name may mean."""
        by_name = {info.name: info for info in self}
        found = [by_name[each] for each in meant(name, by_name)]
        return found or [info for info in self if info.alias and info.alias == name]

    def resolve(self, loras: Iterable[Lora], checkpoint: Checkpoint) -> tuple[Lora, ...]:
        """`loras` by their full names. Raises LoraError for one that cannot be merged into `checkpoint`."""
        resolved = []
        for lora in loras:
            info = self.find(lora.name)
            if reason := info.why_not(checkpoint):
                raise LoraError(f"LoRA: {info.name} cannot be used: {reason}.")
            resolved.append(lora if lora.name == info.name else lora.replace(name=info.name))
        return tuple(resolved)


def _safe(name: str) -> str:
    """A file's name, without ending, that every system takes: a stranger's letters, nothing of his path."""
    stem = re.sub(rf"{re.escape(ENDING)}$", "", name.replace("\\", "/").rpartition("/")[2], flags=re.IGNORECASE)
    stem = re.sub(r"[^\w .()-]+", "_", stem)[:100].strip(" .")
    return f"lora {stem}".strip() if not stem or stem.upper().split(".")[0] in RESERVED else stem


def _path(folder: Path, stem: str, number: int) -> Path:
    return folder / (f"{stem}{ENDING}" if number == 1 else f"{stem} ({number}){ENDING}")


def _named(name: str) -> str:
    """Without the ending of what is not refused for it."""
    return next((name[: -len(each)] for each in SAFETENSORS if name.lower().endswith(each)), name)


def _key(path: Path) -> Key:
    """Raises LoraError for a file that is gone."""
    try:
        stat = path.stat()
    except OSError:
        raise LoraError(f"LoRA: the file of {path.stem} is no longer there; look for models again.") from None
    return Key(path, stat.st_size, stat.st_mtime_ns)


def renewed(info: LoraInfo) -> LoraInfo:
    """`info` with its file's present key. Raises LoraError if it is gone."""
    return replace(info, key=_key(info.path))


# From the header alone


def _describe(name: str, path: Path) -> LoraInfo:
    info = LoraInfo(name, path, _key(path))
    try:
        shapes = read_shapes(path)
        if len(shapes) > MOST_TENSORS:
            raise CheckpointError(f"it has {len(shapes):,} tensors; no LoRA has more than {MOST_TENSORS:,}")
        return _described(info, shapes, read_metadata(path))
    except CheckpointError as error:
        return replace(info, problem=str(error))
    except MALFORMED:
        return replace(info, problem="its header makes no sense")


def _described(info: LoraInfo, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, Any]) -> LoraInfo:
    read = {key: found for key in shapes if (found := read_key(key))}
    refuse(ELSEWHERE if not read else ELSEWHERE[: len(KINDS)], shapes)
    if not read:
        raise CheckpointError("it holds no LoRA that Darkroom knows" if shapes else "it holds no tensors")
    ranks = Counter(_rank(shapes[key]) for key, (_, factor) in read.items() if factor in ("down", "hada_w1_b"))
    width = next((shapes[key][-1] for key, found in read.items() if _reads_text(*found)), None)
    return replace(
        info,
        format=_format({factor for _, factor in read.values()}, shapes, read),
        family=_family(read.values(), width) or _base(metadata),
        width=width,
        rank=ranks.most_common(1)[0][0] if ranks else None,
        changes=_changes(shapes, read),
        words=_words(metadata),
        bundled=tuple(_bundled(info, shapes)),
        alias=str(metadata.get("ss_output_name", "")),
        notes=str(metadata.get("modelspec.description") or metadata.get("ss_training_comment") or "")[:TEXT_LIMIT],
    )


def _bundled(info: LoraInfo, shapes: Shapes) -> Iterator[Embedding]:
    """The embeddings in a LoRA's file, as OneTrainer and A1111's bundles have them."""
    words: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if found := BUNDLED.fullmatch(key):
            words.setdefault(found["word"], {})[found["own"]] = shape
    for word, own in words.items():
        yield Embedding(word, info.path, info.key, own, prefix=f"bundle_emb.{word}.")


def _changes(shapes: Shapes, read: Mapping[str, tuple[Place, str]]) -> int:
    """How large the differences are that its factors make, see core/lora/delta.py. Incomplete ones make none."""
    named: dict[Place, dict[str, tuple[int, ...]]] = {}
    for key, (place, factor) in read.items():
        named.setdefault(place, {})[factor] = shapes[key]
    total = 0
    for own in named.values():
        with suppress(LookupError):
            total += _difference(own)
    return total


def _difference(own: Shapes) -> int:
    if "diff" in own:
        return math.prod(own["diff"])
    if "up" in own:
        return own["up"][0] * math.prod(own["down"][1:]) * math.prod(own.get("mid", ())[2:])
    if "hada_w1_a" in own:
        return _product(own, "hada_w1")
    sides = ("lokr_w1", "lokr_w2")
    return math.prod(math.prod(own[name]) if name in own else _product(own, name) for name in sides)


def _product(own: Shapes, name: str) -> int:
    a, b, core = own[f"{name}_a"], own[f"{name}_b"], own.get(name.replace("_w", "_t"))
    return a[1] * b[1] * math.prod(core[2:]) if core else a[0] * math.prod(b[1:])


def _rank(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 0


def _family(found: Collection[tuple[Place, str]], width: int | None) -> str | None:
    """As the names of layers and the width of the text embeddings tell it."""
    for pattern, family in TRANSFORMERS:
        if any(place.part == "unet" and re.match(pattern, place.layer) for place, _ in found):
            return family
    has_second = any(place.part == "text_encoder_2" for place, _ in found)
    return "sdxl" if has_second else BY_CONTEXT_WIDTH.get(width or 0)


def _reads_text(place: Place, factor: str) -> bool:
    return place.layer.endswith(("attn2_to_k", "attn2_to_v")) and factor in ("down", "hada_w1_b")


def _format(factors: set[str], shapes: Mapping[str, tuple[int, ...]], read: Mapping[str, tuple[Place, str]]) -> str:
    if factors & {"dora_scale", "magnitude"}:
        return "DoRA"
    for sign, title in (("hada_w1_a", "LoHa"), ("lokr_w2", "LoKr"), ("lokr_w2_a", "LoKr"), ("mid", "LoCon")):
        if sign in factors:
            return title
    convolves = any(factor == "down" and math.prod(shapes[key][2:]) > 1 for key, (_, factor) in read.items())
    return "LoCon" if convolves else "LoRA" if "down" in factors else "full difference"


def _base(metadata: Mapping[str, Any]) -> str | None:
    told = f"{metadata.get('modelspec.architecture', '')} {metadata.get('ss_base_model_version', '')}".lower()
    return next((family for pattern, family in BASES if re.search(pattern, told)), None)


def _words(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The maker's trigger phrase, else the captions' most frequent tags, as kohya counts them for each folder."""
    if phrase := str(metadata.get("modelspec.trigger_phrase") or ""):
        return listed(phrase)
    counts: Counter[str] = Counter()
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        for tags in json.loads(metadata.get("ss_tag_frequency") or "{}").values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    return listed(",".join(tag for tag, _ in counts.most_common(MOST_WORDS)))


def _beside(info: LoraInfo) -> LoraInfo:
    """With what lies beside the file, see sidecars.py; its own header says less of what it is used with."""
    told = beside(info.path)
    return replace(
        info,
        words=told.words or info.words,
        notes=told.notes or info.notes,
        title=told.title,
        base=told.base,
        preview=told.preview,
    )
