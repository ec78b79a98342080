"""LoRA files with random weights, as trainers write them: what tests merge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CLIP = ("q_proj", "k_proj", "v_proj", "out_proj")
Shapes = dict[str, tuple[int, ...]]


def weights(network: Any, ends: tuple[str, ...]) -> Shapes:
    """The shapes of a network's weights, by path, of the layers whose path ends so."""
    return {
        path: tuple(module.weight.shape)
        for path, module in network.named_modules()
        if path.endswith(ends) and getattr(module, "weight", None) is not None
    }


def kohya(prefix: str, path: str) -> str:
    """kohya's name of a layer; text encoders have text_model in it, whatever transformers does."""
    if prefix.startswith("lora_te") and not path.startswith("text_"):
        path = f"text_model.{path}"
    return f"{prefix}_{path.replace('.', '_')}"


def factors(shape: tuple[int, ...], rank: int = 4, size: float = 0.3) -> tuple[Tensor, Tensor]:
    """down and up for a weight: as convolutions where it is one."""
    inputs, outputs, kernel = shape[1], shape[0], shape[2:]
    down = torch.randn(rank, inputs, *kernel) * size
    up = torch.randn(outputs, rank, *(1 for _ in kernel)) * size
    return down, up


def lora(shapes: Mapping[str, Shapes], seed: int = 0, alpha: float | None = 2.0, rank: int = 4) -> dict[str, Tensor]:
    """A kohya LoRA for layers by prefix: {"lora_unet": {path: shape}}."""
    torch.manual_seed(seed)
    state = {}
    for prefix, layers in shapes.items():
        for path, shape in layers.items():
            down, up = factors(shape, rank)
            state[f"{kohya(prefix, path)}.lora_down.weight"] = down
            state[f"{kohya(prefix, path)}.lora_up.weight"] = up
            if alpha is not None:
                state[f"{kohya(prefix, path)}.alpha"] = torch.tensor(alpha)
    return state


def of(pipeline: Any, ends: tuple[str, ...] = ATTENTION, text: tuple[str, ...] = CLIP) -> dict[str, Shapes]:
    """The layers of a pipeline that a usual LoRA changes, by kohya's prefixes."""
    found = {"lora_unet": weights(pipeline.unet, ends)}
    second = getattr(pipeline, "text_encoder_2", None)
    found["lora_te1" if second else "lora_te"] = weights(pipeline.text_encoder, text)
    if second:
        found["lora_te2"] = weights(second, text)
    return found


def write(path: Path, state: Mapping[str, Tensor], **metadata: Any) -> Path:
    """Metadata that is not text is written as JSON, as trainers do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, texts)
    return path
