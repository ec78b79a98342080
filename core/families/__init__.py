"""The families of models: each a row of facts, and a file with what its components are told and how they are asked.

It knows prompts and requests, and neither where a model comes from nor the loop that runs it. A new family is one
file that keeps the contract (contract.py) and one row of FAMILIES.
"""

from core.families.latents import LatentFormat, pixels_a_latent, shift_of
from core.families.table import BY_CONTEXT_WIDTH, FAMILIES, Family

__all__ = ["BY_CONTEXT_WIDTH", "FAMILIES", "Family", "LatentFormat", "pixels_a_latent", "shift_of"]
