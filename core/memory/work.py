"""The door to what needs torch: parts put where a plan has them, and weights in 8 bits."""

from core.memory.placing import Placed, empty_caches, placed
from core.memory.rounding import keep_in_8_bits

__all__ = ["Placed", "empty_caches", "keep_in_8_bits", "placed"]
