"""What is asked for: every parameter of a picture, declared once, with the tables and presets that name its values.

It knows what a request says, not whether this machine has what it names: no file of a model, no device, no loop.
"""

from core.request.generation import (
    SECOND_PROMPTS,
    SEED_LIMIT,
    SMALLEST_SIDE,
    GenerationRequest,
    MaskContent,
    Pass,
    Task,
    first_step,
    reject,
)
from core.request.parameters import PICTURES, Name, Parameters, Text, allowed, bounds, fingerprint
from core.request.preprocessors import CONTROL_TYPES, FLUX_TYPES, PREPROCESSORS, Preprocessor, suited
from core.request.presets import PresetLibrary, Presets, Size
from core.request.tags import closed, rename_tags, short, tag, take_tags, without_comments, without_tags, words_of
from core.request.units import LANCZOS, LATENT, UPSCALERS, Control, Hires, Lora, Outpaint, ResizeMode

__all__ = [
    "CONTROL_TYPES",
    "FLUX_TYPES",
    "LANCZOS",
    "LATENT",
    "PICTURES",
    "PREPROCESSORS",
    "SECOND_PROMPTS",
    "SEED_LIMIT",
    "SMALLEST_SIDE",
    "UPSCALERS",
    "Control",
    "GenerationRequest",
    "Hires",
    "Lora",
    "MaskContent",
    "Name",
    "Outpaint",
    "Parameters",
    "Pass",
    "Preprocessor",
    "PresetLibrary",
    "Presets",
    "ResizeMode",
    "Size",
    "Task",
    "Text",
    "allowed",
    "bounds",
    "closed",
    "fingerprint",
    "first_step",
    "reject",
    "rename_tags",
    "short",
    "suited",
    "tag",
    "take_tags",
    "without_comments",
    "without_tags",
    "words_of",
]
