"""Text encoders as files of their own in models/text_encoders, as ComfyUI and Forge keep them: clip_l, clip_g, t5xxl.

Transformers alone draw with them (checkpoints.py). Which is which is told from the tensors, not from names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import CheckpointError
from core.library.folders import Folders, models_in
from core.library.headers import MALFORMED, count_parameters, read_shapes, without_prefix
from core.library.layouts import Layout, Piece
from core.library.parts import T5, Part, Source, shipped_tokenizer
from core.library.shapes import Shapes, clip_config, t5_config

CLIP_WORDS = "text_model.embeddings.token_embedding.weight"
T5_WORDS = "shared.weight"
KINDS = {CLIP_WORDS: (clip_config, "hidden_size"), T5_WORDS: (t5_config, "d_model")}
"""By the end of a key that only they have: the config, and what that calls the width."""


@dataclass(frozen=True)
class TextEncoder:
    """A file of models/text_encoders; one with a `problem` cannot be used.

    Its keys begin with `prefix`; `width` is that of its embeddings.
    """

    path: Path
    problem: str | None = None
    is_t5: bool = False
    width: int = 0
    prefix: str = ""
    shapes: Shapes = field(default_factory=dict, repr=False)

    def part(self, piece: Piece) -> Part:
        """Loaded as one class it is another model than as the other."""
        source = Source(self.prefix, {**piece.config(self.shapes), **piece.facts})
        named = self.path / piece.class_name / piece.published_as
        return Part(piece.name, named, piece.class_name, self.path, count_parameters(self.shapes), source)


def scan(where: Folders) -> tuple[TextEncoder, ...]:
    return tuple(_described(path) for path in models_in(where).values())


def fitting(layout: Layout, denoiser: Mapping[str, Any], known: Sequence[TextEncoder]) -> tuple[Part, ...]:
    """The layout's encoders that are among `known`, with their tokenizers, for the config of a transformer.

    It reads T5's embeddings as they are, and the gist of all CLIPs beside one another, the narrower first.
    """
    usable = [each for each in known if not each.problem]
    t5s = [each for each in usable if each.is_t5 and each.width == denoiser.get("joint_attention_dim")]
    clips = sorted((each for each in usable if not each.is_t5), key=lambda each: each.width)
    kinds = [piece for piece in layout.text_encoders if piece.class_name != T5]
    rows = itertools.combinations(clips, len(kinds))
    gist = denoiser.get("pooled_projection_dim")
    row = next((row for row in rows if sum(each.width for each in row) == gist), ())
    others = (piece for piece in layout.text_encoders if piece not in kinds)
    chosen = [*zip(kinds, row, strict=False), *zip(others, t5s, strict=False)]
    tokenizers = (shipped_tokenizer(piece.name, piece.class_name, piece.pad_token) for piece, _ in chosen)
    return *tokenizers, *(encoder.part(piece) for piece, encoder in chosen)


def _described(path: Path) -> TextEncoder:
    try:
        shapes = read_shapes(path)
        words, key = next((words, key) for words in KINDS for key in shapes if key.endswith(words))
        prefix, own = without_prefix(shapes, key.removesuffix(words))
        config, width = KINDS[words]
        return TextEncoder(path, None, words == T5_WORDS, config(own)[width], prefix, own)
    except CheckpointError as error:
        return TextEncoder(path, str(error))
    except MALFORMED:
        return TextEncoder(path, "it is no text encoder that Darkroom knows")
