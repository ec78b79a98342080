"""Darkroom's engine: `Engine().generate(GenerationRequest(prompt="…"))` yields events and at last pictures."""

from core.engine import Engine
from core.events import Event, Finished, Loading, Notice, Step
from core.request import GenerationRequest
from core.settings import Settings
from core.units import Control, Hires, Lora, Outpaint

__all__ = [
    "Control",
    "Engine",
    "Enlarging",
    "Event",
    "Finished",
    "GenerationRequest",
    "Hires",
    "Loading",
    "Lora",
    "Notice",
    "Outpaint",
    "Settings",
    "Step",
]
