"""How the models that ship with Darkroom were made."""
