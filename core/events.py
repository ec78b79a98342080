"""What a run tells while it goes on: any number of `Loading`, then `Step`s, at last one `Finished`;
`Notice`s in between where something is worth saying."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from core.lora.work import LoraReport
    from core.request import GenerationRequest

HASH_OF = "_hash:"  # "controlnet_hash:<name>" in made_with is the hash of that file
LORA_HASH = f"lora{HASH_OF}"


@dataclass(frozen=True)
class Loading:
    """`what` is being made ready, in words for people: "Pocket"."""

    what: str


@dataclass(frozen=True)
class Step:
    """Denoising step `index` of `total` is done (1 … total; second-order samplers count each evaluation).

    `preview` is x0 of the batch's first picture, RGB: one pixel a latent, or by a tiny decoder up to 512 pixels wide.
    """

    index: int
    total: int
    preview: Image | None


@dataclass(frozen=True)
class Enlarging:
    """Part `index` of `total` (1 … total) of a picture goes through an upscaler's network."""

    index: int
    total: int


@dataclass(frozen=True)
class Notice:
    """Something went otherwise than planned, in words for people: "decoded again in tiles"."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The pictures, and the request as resolved: the seed and the model's own values are filled in.

    `made_with` names what else shaped the bits (model hash, versions, device, threads), for an honest replay.
    `loras` says of each LoRA that was merged how much of it the model had a place for, `notes` what of the request
    was not drawn as it is written.
    """

    images: list[Image]
    request: GenerationRequest
    made_with: dict[str, str] = field(default_factory=dict)
    loras: tuple[LoraReport, ...] = ()
    notes: tuple[str, ...] = ()


Event = Loading | Step | Enlarging | Notice | Finished
