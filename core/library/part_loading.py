"""The loading of one part of a model."""

from __future__ import annotations

import importlib
from typing import Any

from safetensors import SafetensorError

from core.errors import CheckpointError
from core.library.parts import CLASSES, Part
from core.library.vocabulary import SHIPPED
from core.library.weights import Changed
from core.memory import is_out_of_memory


def load_part(part: Part, device: str, dtype: str) -> Any:
    """One component, ready to run. Raises CheckpointError if its files are damaged, do not fit its config or change
    while they are read.
    """
    label, what = part.called
    try:
        if part.weights is None:
            return _tokenizer(part)
        import torch

        from core.library.single_file import load_component

        model = load_component(part, CLASSES[part.class_name], device, getattr(torch, dtype))
        return model.requires_grad_(False).eval()
    except Changed:
        raise CheckpointError(f"{label}: {what} changed on disk while it was read; try again.") from None
    except (CheckpointError, OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{label}: {what} is damaged or does not fit its config.") from error


def _tokenizer(part: Part) -> Any:
    if part.source:
        return SHIPPED[part.class_name][1](**part.source.config)
    library = importlib.import_module(CLASSES[part.class_name])
    return getattr(library, part.class_name).from_pretrained(part.folder, local_files_only=True)
