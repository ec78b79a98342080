"""LoRAs as arithmetic: how their keys name a model's layers, what they add to a weight, and how it is merged.

It knows tensors and layers: nothing of the files, or of which LoRA fits which model.
"""

from core.lora.names import PARTS, Place, read_key

__all__ = ["PARTS", "Place", "read_key"]
