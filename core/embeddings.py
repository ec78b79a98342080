"""Textual inversion: a word of the prompt that stands for trained vectors, by a file's name in models/embeddings.

Files are told from their headers: `emb_params` has the vectors of SD's text encoder, `clip_l` and `clip_g` those of
the two of XL. A name whose vectors are as wide as another family's is a word like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.cache import Key
from core.checkpoints import Checkpoint
from core.errors import CheckpointError, RequestError
from core.headers import MALFORMED, read_shapes
from core.request import GenerationRequest
from core.tokens import Words, names_pattern

if TYPE_CHECKING:
    from torch import Tensor

KEYS = {1: ("emb_params",), 2: ("clip_l", "clip_g")}  # by the number of a model's text encoders
PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
MOST_VECTORS = 75  # what a chunk of CLIP's holds


@dataclass(frozen=True)
class Embedding:
    """`shapes` by the file's keys."""

    name: str
    path: Path = field(repr=False)
    key: Key = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(hash=False)

    @property
    def vectors(self) -> int:
        return next(iter(self.shapes.values()))[0]

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether its vectors are those of a model's text encoders, as far as their widths tell."""
        keys = KEYS.get(checkpoint.text_encoders, ())
        shapes = [self.shapes.get(key, ()) for key in keys]
        if (
            not keys
            or len(self.shapes) != len(keys)
            or not all(len(s) == 2 and 0 < s[0] <= MOST_VECTORS for s in shapes)
        ):
            return False
        return sum(width for _, width in shapes) == checkpoint.context_width


def scan(folder: Path) -> tuple[Embedding, ...]:
    """Every embedding in `folder` that can be read, those in its folders too."""
    found = (_describe(path) for path in sorted(folder.rglob("*.safetensors")) if not path.name.startswith("."))
    return tuple(embedding for embedding in found if embedding)


def _describe(path: Path) -> Embedding | None:
    try:
        shapes = read_shapes(path)
        stat = path.stat()
    except (CheckpointError, *MALFORMED):
        return None
    return Embedding(path.stem, path, Key(path, stat.st_size, stat.st_mtime_ns), shapes)


def named_in(text: str, embeddings: Iterable[Embedding], checkpoint: Checkpoint) -> tuple[Embedding, ...]:
    """Those that fit the model and whose names stand in the text, in any case."""
    known = {embedding.name.lower(): embedding for embedding in embeddings if embedding.fits(checkpoint)}
    names = {name.lower(): None for name in names_pattern(known).findall(text)} if known else {}
    return tuple(known[name] for name in names)


def all_prompts(request: GenerationRequest) -> str:
    return "\n".join(getattr(request, name) or "" for name in PROMPTS)


def lengths(embeddings: Iterable[Embedding]) -> Mapping[str, Any]:
    """Something of each word's length in the place of its vectors, for counting."""
    return {embedding.name.lower(): range(embedding.vectors) for embedding in embeddings}


def read(embeddings: Iterable[Embedding], encoders: int) -> tuple[Words, ...]:
    """The words of each text encoder, float32, on the CPU. Raises RequestError for a file that is spoilt or gone."""
    words: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(encoders))
    for embedding in embeddings:
        tensors = _tensors(embedding)
        for own, key in zip(words, KEYS[encoders], strict=True):
            own[embedding.name.lower()] = tensors[key]
    return words


def _tensors(embedding: Embedding) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = {key: tensor.float() for key, tensor in load(embedding.path.read_bytes()).items()}
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError
        if {key: tuple(tensor.shape) for key, tensor in tensors.items()} != dict(embedding.shapes):
            raise ValueError
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError):
        instead = "another word; the embedding of that name is damaged or gone"
        raise RequestError("prompt", embedding.name, instead, "Prompt") from None
    return tensors
