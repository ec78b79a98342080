"""The door to what needs torch: chunks of tokens through a text encoder."""

from core.prompts.encoding import encode, last_but, weigh, weigh_only

__all__ = ["encode", "last_but", "weigh", "weigh_only"]
