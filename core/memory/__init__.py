"""What fits: the machine, the plan of a run, the models that are kept, and where their parts wait.

It knows sizes and modules: nothing of where a model comes from, or of what a run does with it.
"""

from core.memory.cache import Key, Loaded, ModelCache
from core.memory.machine import BYTES, Machine, PeakMeter, attention_kernel, inspect, resident
from core.memory.planning import (
    FIGURES,
    READ_AS,
    TILE,
    TRANSFORMER_VALUES,
    UNET_VALUES_BELOW,
    Footprint,
    MemoryPlan,
    RunMemory,
    is_out_of_memory,
    plan,
)

__all__ = [
    "BYTES",
    "FIGURES",
    "READ_AS",
    "TILE",
    "TRANSFORMER_VALUES",
    "UNET_VALUES_BELOW",
    "Footprint",
    "Key",
    "Loaded",
    "Machine",
    "MemoryPlan",
    "ModelCache",
    "PeakMeter",
    "RunMemory",
    "attention_kernel",
    "inspect",
    "is_out_of_memory",
    "plan",
    "resident",
]
