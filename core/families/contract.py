"""What a loaded model is to the loop, whatever its family: `Model`, and what passes between the two.

A family's class keeps this contract. What several share is in functions (shared.py, unets.py, transformers.py), so
that none of them is another one with exceptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from core.prompts import MOST_CHUNKS, Wording, Words
from core.request import Control, GenerationRequest

Texts = tuple[Wording, ...]
"""What each text encoder reads of one prompt."""
Conditioning = Mapping[str, Any]
"""What the model that predicts is told beside the latents, as its keyword arguments."""
Residuals = Sequence[Tensor]
"""What ControlNets add inside the model, level by level; empty when none is at work."""
Steering = Callable[[Conditioning, Tensor, Tensor, float], Residuals]
"""(conditioning, model_input, timestep, weight) -> what a ControlNet adds, having seen its map."""


@dataclass(frozen=True)
class Components:
    """What a checkpoint consists of, loaded: `denoiser` is the U-Net or the transformer that predicts.

    `options` are the pipeline's own, of model_index.json; `words` the textual inversions of each text encoder;
    `device` is where they run, wherever they wait.
    """

    denoiser: Any
    vae: Any
    text_encoders: tuple[Any, ...]
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any]
    options: dict[str, Any]
    words: tuple[Words, ...] = ({}, {})
    device: str = "cpu"


@dataclass(frozen=True)
class EncodedPrompt:
    """embeds: (1, tokens, width); pooled: (1, width) or None where the family has none."""

    embeds: Tensor
    pooled: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return self.embeds.nbytes + (0 if self.pooled is None else self.pooled.nbytes)


@dataclass(frozen=True)
class Facts:
    """What must be known of a model before it is asked anything.

    `knows_masks`: it is given the mask and what is left of the source, beside the latents. `most_chunks`: of a
    prompt's tokens.
    """

    knows_masks: bool = False
    most_chunks: int = MOST_CHUNKS


class Model(Protocol):
    """A loaded model: it encodes prompts, says what its denoiser is told, and predicts."""

    @property
    def parts(self) -> Components: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype:
        """Of latents and of all that the denoiser is told."""

    @property
    def networks(self) -> dict[str, Any]:
        """What LoRAs change, by the names of the folders; what predicts is "unet" to them, whatever it is."""

    @property
    def facts(self) -> Facts: ...
    def count_chunks(self, texts: Texts) -> int:
        """How many chunks of tokens the longest of `texts` fills."""

    def encode_prompt(self, texts: Texts, clip_skip: int, negative: bool = False, chunks: int = 1) -> EncodedPrompt:
        """`clip_skip` counts as A1111 does: 1 is the encoder's last layer. `chunks` is how many there must be."""

    def conditioning(self, prompts: Sequence[EncodedPrompt], request: GenerationRequest) -> Conditioning:
        """For (negative, positive, …) or (positive,), each for every picture.

        The tensors are made anew for each run: attention keeps what it projected from them, see attention.py.
        """

    def steering(self, net: Any, unit: Control, shown: Tensor, count: int) -> Steering:
        """shown: (1, 3, h, w) in 0 … 1, a map for `count` predictions. Residuals: level by level."""

    def predict(
        self, conditioning: Conditioning, model_input: Tensor, timestep: Tensor, residuals: Residuals
    ) -> Tensor: ...


class Assembled:
    """Components, and where and as what they compute: what is the same for every family."""

    def __init__(self, parts: Components) -> None:
        self.parts = parts

    @property
    def device(self) -> torch.device:
        return torch.device(self.parts.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.parts.denoiser.dtype
        return dtype
