"""Textual inversion: a word of the prompt that stands for trained vectors, by a file's name in models/embeddings.

Files are told from their headers: the one tensor of a file, whatever its key, has the vectors of SD's text encoder,
`clip_l` and `clip_g` those of the two of XL. A name whose vectors are as wide as another family's is a word like any
other; a file that cannot be read at all is refused where its name is used.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from core.errors import CheckpointError, RequestError
from core.library.checkpoints import Checkpoint
from core.library.folders import Folders, models_in
from core.library.headers import MALFORMED, PICKLES, read_shapes
from core.library.weights import Changed, opened
from core.memory import Key
from core.prompts import Words, names_pattern, word
from core.request import GenerationRequest, reject

if TYPE_CHECKING:
    from torch import Tensor

XL_KEYS = ("clip_l", "clip_g")
PROMPTS = ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2")
PICKLE = (
    "it is a pickle, which is never loaded; convert it with safetensors.torch.save_file({'emb_params': "
    "torch.load(FILE, weights_only=True)['string_to_param']['*']}, NEW_FILE)"
)
MOST_VECTORS = 75  # what a chunk of CLIP's holds


@dataclass(frozen=True)
class Embedding:
    """`shapes` by the file's keys; one with a `problem` has none and fits no model.

    `folder` is where in models/embeddings it lies ("XL/deep"), `prefix` what its keys begin with in a LoRA's file.
    """

    name: str
    path: Path = field(repr=False)
    key: Key = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(hash=False)
    problem: str | None = None
    folder: str = ""
    prefix: str = ""

    @property
    def reference(self) -> str:
        """What stands for it after "embedding:", and for no other: its path in models/embeddings."""
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def keys_of_words(self) -> tuple[str, str]:
        """How a prompt names it, as one word."""
        return word(self.name), word(f"embedding:{self.reference}")

    @property
    def vectors(self) -> int:
        shape = next(iter(self.shapes.values()))
        return shape[0] if len(shape) > 1 else 1

    def keys(self, encoders: int) -> tuple[str, ...]:
        """Of the vectors of each of so many text encoders; nothing if there are not so many."""
        keys = tuple(self.shapes) if len(self.shapes) == 1 else XL_KEYS
        return keys if len(keys) == encoders and self.shapes.keys() == set(keys) else ()

    def fits(self, checkpoint: Checkpoint) -> bool:
        """Whether its vectors are those of a model's text encoders, as far as their widths tell."""
        shapes = [self.shapes[key] for key in self.keys(checkpoint.text_encoders)]
        if not shapes or not all(len(shape) in (1, 2) for shape in shapes) or not 0 < self.vectors <= MOST_VECTORS:
            return False
        return sum(shape[-1] for shape in shapes) == checkpoint.context_width


def scan(where: Folders) -> tuple[Embedding, ...]:
    """Every embedding in `where`, those in its folders too; a pickle only where its name has no other file."""
    found = [_describe(name, path) for name, path in models_in(where, whole=False).items()]
    read = {word(embedding.name) for embedding in found if not embedding.problem}
    return tuple(each for each in found if not each.problem or word(each.name) not in read)


def _describe(file: str, path: Path) -> Embedding:
    name, folder = PurePosixPath(file).stem, PurePosixPath(file).parent.as_posix().removeprefix(".")
    try:
        stat = path.stat()
        return Embedding(name, path, Key(path, stat.st_size, stat.st_mtime_ns), read_shapes(path), folder=folder)
    except CheckpointError as error:
        problem = PICKLE if path.suffix.lower() in PICKLES else str(error)
    except MALFORMED:
        problem = "its header makes no sense"
    return Embedding(name, path, Key(path, 0, 0), {}, problem, folder)


def named_in(text: str, embeddings: Iterable[Embedding], checkpoint: Checkpoint) -> tuple[Embedding, ...]:
    """Those that fit the model and whose names stand in the text, in any case."""
    return named(text, (embedding for embedding in embeddings if embedding.fits(checkpoint)))


def named(text: str, embeddings: Iterable[Embedding]) -> tuple[Embedding, ...]:
    known = {key: embedding for embedding in embeddings for key in embedding.keys_of_words}
    plain = re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
    names = {word(name): None for name in names_pattern(known).findall(plain)} if known else {}
    return tuple(dict.fromkeys(known[name] for name in names))


def check(request: GenerationRequest, embeddings: Collection[Embedding]) -> None:
    """Raises RequestError for a prompt that names a file which cannot be read."""
    for name in PROMPTS:
        for bad in named(getattr(request, name) or "", (each for each in embeddings if each.problem)):
            raise reject(name, bad.name, f"another word; the embedding of that name cannot be read: {bad.problem}")


def all_prompts(request: GenerationRequest) -> str:
    return "\n".join(getattr(request, name) or "" for name in PROMPTS)


def lengths(embeddings: Iterable[Embedding]) -> Mapping[str, Any]:
    """Something of each word's length in the place of its vectors, for counting."""
    return {key: range(each.vectors) for each in embeddings for key in each.keys_of_words}


def read_words(embeddings: Iterable[Embedding], encoders: int) -> tuple[Words, ...]:
    """The words of each text encoder, float32, on the CPU.

    Raises RequestError for a file that is spoilt or gone, CheckpointError for one that changes meanwhile.
    """
    words: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(encoders))
    for embedding in embeddings:
        tensors = _tensors(embedding)
        for own, key in zip(words, embedding.keys(encoders), strict=True):
            own |= dict.fromkeys(embedding.keys_of_words, tensors[key].reshape(embedding.vectors, -1))
    return words


def _tensors(embedding: Embedding) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError

    start = embedding.prefix
    try:
        with opened([embedding.path]) as stored:
            own = {key.removeprefix(start): each for key, each in stored.items() if key.startswith(start)}
            tensors = {key: each.to(dtype=torch.float32) for key, each in own.items()}
        if not all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError
        if {key: tuple(tensor.shape) for key, tensor in tensors.items()} != dict(embedding.shapes):
            raise ValueError
    except Changed:
        raise CheckpointError(f"Embedding: {embedding.name} changed on disk while it was read; try again.") from None
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError):
        instead = "another word; the embedding of that name is damaged or gone"
        raise RequestError("prompt", embedding.name, instead, "Prompt") from None
    return tensors
