"""Networks out of their files, whatever those are: folders, shards, single files.

The libraries' own functions rename the tensors; they open no file themselves.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)

from core.library.esrgan_names import esrgan_names
from core.library.forms import check_config
from core.library.headers import read_json
from core.library.parts import Part
from core.library.shapes import DIFFUSERS_VAE
from core.library.weights import Stored, opened

os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"  # transformers reads four tensors at once else, and holds them in RAM
State = dict[str, Any]
QUANTIZED = "quantization_config"


def _text_encoder(config: Any, state: State, prefix: str) -> State:
    if any(key.startswith(f"{prefix}transformer.resblocks.") for key in state):
        return dict(convert_open_clip_checkpoint(SimpleNamespace(config=config), state, prefix=prefix))
    return _without(prefix, state)


def _projecting(config: Any, state: State, prefix: str) -> State:
    """CLIP L leaves its projection out in files of Stable Diffusion 3."""
    renamed = _text_encoder(config, state, prefix)
    return {"text_projection.weight": torch.eye(config.projection_dim), **renamed}


def _esrgan(_: Any, state: State, prefix: str) -> State:
    own = _without(prefix, state)
    return {name: own[key] for key, name in esrgan_names(own).items()}


def _without(prefix: str, state: State) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def _vae(config: Any, state: State, prefix: str) -> State:
    own = _without(prefix, state)
    return own if DIFFUSERS_VAE in own else dict(convert_ldm_vae_checkpoint(own, config=config))


CONVERT: Mapping[str, Callable[[Any, State, str], State]] = {
    "UNet2DConditionModel": lambda config, state, _: convert_ldm_unet_checkpoint(state, config=config),
    "SD3Transformer2DModel": lambda _, state, __: convert_sd3_transformer_checkpoint_to_diffusers(state),
    "FluxTransformer2DModel": lambda _, state, __: convert_flux_transformer_checkpoint_to_diffusers(state),
    "ControlNetModel": lambda config, state, _: convert_controlnet_checkpoint(state, config),
    "AutoencoderKL": _vae,
    "RRDBNet": _esrgan,
    "CLIPTextModel": _text_encoder,
    "CLIPTextModelWithProjection": _projecting,
}
"""(config, its part of a single file, prefix of the keys) -> the state dict under the model's own names. Classes that
are not here have those names in every file.
"""


def load_component(part: Part, library: str, device: str, dtype: torch.dtype) -> Any:
    """The model of `part`, its weights as `dtype` on `device`.

    Raises ValueError or RuntimeError if they are not those it has, Changed if a file changed while it was read.
    """
    if not part.source:
        check_config(read_json(part.folder / "config.json"))
    load = _of_transformers if library == "transformers" else _of_diffusers
    with opened(part.files) as stored:
        model = load(part, library, stored, device, dtype)
    return model.to(device)  # its buffers


def network(part: Part, library: str) -> Any:
    """The model of `part` without memory for its parameters."""
    model_class, config = _class_and_config(part, library)
    with init_empty_weights():
        return model_class(config) if library == "transformers" else model_class.from_config(config)


def _class_and_config(part: Part, library: str) -> tuple[Any, Any]:
    """The class, and what it is made from: its weights are plain here, whatever a folder's config says of them."""
    model_class: Any = getattr(importlib.import_module(library), part.class_name)
    if library != "transformers":
        given = part.source.config if part.source else model_class.load_config(part.folder, local_files_only=True)
        return model_class, {name: value for name, value in given.items() if name != QUANTIZED}
    kind = model_class.config_class
    config = kind(**part.source.config) if part.source else kind.from_pretrained(part.folder, local_files_only=True)
    vars(config).pop(QUANTIZED, None)
    return model_class, config


def _of_transformers(part: Part, library: str, stored: dict[str, Stored], device: str, dtype: torch.dtype) -> Any:
    """It brings each tensor to the device, and leaves wide what overflows in float16: T5's second layers."""
    model_class, config = _class_and_config(part, library)
    model, info = model_class.from_pretrained(
        None,
        config=config,
        state_dict=_renamed(part, config, stored, "cpu", dtype),
        device_map={"": device},
        dtype=dtype,
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise ValueError(f"{len(info['missing_keys'])} tensors are missing")
    return model


def _of_diffusers(part: Part, library: str, stored: dict[str, Stored], device: str, dtype: torch.dtype) -> Any:
    model = network(part, library)
    state = model._fix_state_dict_keys_on_load(_renamed(part, model.config, stored, device, dtype))
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    bad = [key for key, shape in wanted.items() if key not in state or state[key].shape != shape]
    if bad:
        raise ValueError(f"{len(bad)} tensors are missing or of another shape, {bad[0]} the first")
    largest_first = sorted(wanted, key=lambda key: -wanted[key].numel())  # what is cast exists twice for a moment
    model.load_state_dict({key: state[key].to(device, dtype) for key in largest_first}, assign=True)
    return model


def _renamed(part: Part, config: Any, stored: dict[str, Stored], device: str, dtype: torch.dtype) -> State:
    """The part's tensors by the names that the model's library knows; read only where they are made of others."""
    if not part.source:
        return dict(stored)
    own = {name: each for name, each in stored.items() if name.startswith(part.source.prefix)}
    if part.class_name not in CONVERT:
        return _without(part.source.prefix, own)
    return CONVERT[part.class_name](
        config, {name: each.to(device, dtype) for name, each in own.items()}, part.source.prefix
    )
