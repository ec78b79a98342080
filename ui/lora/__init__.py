"""The LoRA tab: what there is, what fits the model, what is on.

It writes the form's own list of LoRAs; who reads it is none of its concern.
"""

from ui.lora.tab import LoraDesk, build_lora, wire_lora

__all__ = [
    "LoraDesk",
    "build_lora",
    "wire_lora",
]
