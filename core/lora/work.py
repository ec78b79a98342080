"""The door to what needs torch: a LoRA's factors, and their merging into a model."""

from core.lora.delta import Factors, LoraFile, Misfit
from core.lora.merging import LoraReport, Merged, Merger
from core.lora.names import layers

__all__ = ["Factors", "LoraFile", "LoraReport", "Merged", "Merger", "Misfit", "layers"]
