"""The door to what needs torch: a request's passes through the loop, and what they work with."""

from core.diffusion.decoding import vae_as
from core.diffusion.passes import Passes
from core.diffusion.preview import Previewer
from core.diffusion.start import Company, Refining

__all__ = ["Company", "Passes", "Previewer", "Refining", "vae_as"]
