"""Darkroom's engine: `Engine().generate(GenerationRequest(prompt="…"))` yields events and at last pictures."""

from core.engine import Engine
from core.events import Enlarging, Event, Finished, Loading, Notice, Step
from core.request import Control, GenerationRequest, Hires, Lora, Outpaint
from core.settings import Settings

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
