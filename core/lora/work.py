"""The door to what needs torch: a LoRA's factors, and their merging into a model."""

from core.lora.delta import Factors, LoraFile, Misfit
from core.lora.merging import LoraReport, Merged, Merger

__all__ = ["Factors", "LoraFile", "LoraReport", "Merged", "Merger", "Misfit"]
