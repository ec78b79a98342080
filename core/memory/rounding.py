"""Weights kept in 8 bits, for models that fit into memory no other way."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks import apply_layerwise_casting

STORED = torch.float8_e4m3fn
WHOLE = ("pos_embed",)  # what is looked up is not multiplied


def keep_in_8_bits(model: Any, dtype: torch.dtype) -> None:
    """Round the weights of all layers that multiply, for good; each is `dtype` while it works."""
    apply_layerwise_casting(model, STORED, dtype, skip_modules_pattern=WHOLE)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype != STORED:
            tensor.data = tensor.data.to(dtype)
