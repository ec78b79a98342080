"""The door to what a run loads: parts of models, put together."""

from core.library.loading import Loader
from core.library.lora_weights import read_lora

__all__ = ["Loader", "read_lora"]
