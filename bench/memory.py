"""What fits where: the plan's arithmetic for the published models, as the docs' table."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import OutOfMemory
from core.memory import FIGURES, TRANSFORMER_VALUES, UNET_VALUES_BELOW, Footprint, Machine, plan
from core.request import GenerationRequest
from core.sizes import GB, in_words

CARDS = (4, 6, 8, 12, 24)  # GB
WITHOUT_CARD = (8, 16)  # GB of RAM
TAKEN = 0.6  # GB of a card that the desktop and CUDA itself take, or of the RAM the desktop; estimated
RAM = 32  # GB beside the card


@dataclass(frozen=True)
class Model:
    """Parameters as counted on the published shapes; text encoders: CLIP L, OpenCLIP bigG from XL on, and T5 XXL."""

    title: str
    side: int
    footprint: Footprint


MODELS = (
    Model("SD 1.5, 512 × 512", 512, Footprint((123_060_480,), 859_520_964, 83_653_863, 320, 128)),
    Model(
        "SDXL, 1024 × 1024",
        1024,
        Footprint((123_060_480, 694_659_840), 2_567_463_684, 83_653_863, 320, 128, UNET_VALUES_BELOW, wide_vae=True),
    ),
    Model(
        "SD 3.5 medium, 1024 × 1024",
        1024,
        Footprint(
            (123_650_304, 694_659_840, 4_762_310_656), 2_469_663_936, 83_819_683, 1536, 128, TRANSFORMER_VALUES
        ),
    ),
)


def main(pairs: int) -> None:
    """`pairs` is not used: this is arithmetic."""
    print(table())
    print()
    for figure in FIGURES:
        print(f"{figure.value:g} {figure.what}: {figure.source}")


def table() -> str:
    machines = {f"{size} GB": card(size) for size in CARDS}
    machines |= {f"no GPU, {size} GB": without_card(size) for size in WITHOUT_CARD}
    rows = ["| | " + " | ".join(machines) + " |", "|---" * (1 + len(machines)) + "|"]
    rows += [
        f"| {model.title} | " + " | ".join(_cell(model, each) for each in machines.values()) + " |"
        for model in MODELS
    ]
    return "\n".join(rows)


def card(size: int) -> Machine:
    """A card of so many GB, idle."""
    return Machine("cuda:0", "GPU", 8, size * GB, int((size - TAKEN) * GB), "bfloat16", ram_free=RAM * GB)


def without_card(size: int) -> Machine:
    """A machine with so many GB of RAM, idle."""
    free = int((size - TAKEN) * GB)
    return Machine("cpu", "CPU", 8, size * GB, free, ram_free=free)


def _cell(model: Model, machine: Machine) -> str:
    request = GenerationRequest(width=model.side, height=model.side, guidance_scale=7.0, seed=0)
    try:
        chosen = plan(machine, model.footprint, request)
    except OutOfMemory:
        return "does not fit"
    return f"{in_words(chosen.needs)}: {chosen.way.words}"
