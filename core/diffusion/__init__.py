"""The loop and what surrounds it: prompts over the steps, first latents, passes, decoding, previews.

It is given loaded models: it knows nothing of files, of the memory's plan, or of who waits for the picture.
"""

from core.diffusion.prompting import PromptCache, Prompts

__all__ = ["PromptCache", "Prompts"]
