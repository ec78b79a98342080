"""Components out of a single-file checkpoint. diffusers' own functions rename the tensors."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

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
from safetensors import safe_open

from core.library.esrgan_names import esrgan_names
from core.library.shapes import DIFFUSERS_VAE

if TYPE_CHECKING:
    from core.library.parts import Part

State = dict[str, Any]
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""In VAEs that were saved before diffusers 0.18."""
OLD_ATTENTION = rf"(?<=\.attentions\.0\.)({'|'.join(ATTENTION)})(?=\.)"
SCALES = (".scale_weight", ".weight_scale")


def _text_encoder(model: Any, state: State, prefix: str) -> State:
    if any(key.startswith(f"{prefix}transformer.resblocks.") for key in state):
        renamed = convert_open_clip_checkpoint(model, state, prefix=prefix)
    else:
        renamed = _without(prefix, state)
    if hasattr(model, "text_projection"):  # which CLIP L leaves out in files of Stable Diffusion 3
        width, like = model.config.projection_dim, next(iter(renamed.values()))
        renamed.setdefault("text_projection.weight", torch.eye(width).to(like))
    if hasattr(model, "text_model"):
        return dict(renamed)
    return {key.removeprefix("text_model."): tensor for key, tensor in renamed.items()}


def _t5(_: Any, state: State, prefix: str) -> State:
    own = _without(prefix, state)
    return {"encoder.embed_tokens.weight": own["shared.weight"], **own}


def _esrgan(_: Any, state: State, prefix: str) -> State:
    own = _without(prefix, state)
    return {name: own[key] for key, name in esrgan_names(own).items()}


def _without(prefix: str, state: State) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items()}


def _vae(model: Any, state: State, prefix: str) -> State:
    own = _without(prefix, state)
    if DIFFUSERS_VAE in own:
        return {re.sub(OLD_ATTENTION, lambda old: ATTENTION[old[0]], key): tensor for key, tensor in own.items()}
    return dict(convert_ldm_vae_checkpoint(own, config=model.config))


CONVERT: dict[str, Callable[[Any, State, str], State]] = {
    "UNet2DConditionModel": lambda model, state, _: convert_ldm_unet_checkpoint(state, config=model.config),
    "SD3Transformer2DModel": lambda model, state, _: convert_sd3_transformer_checkpoint_to_diffusers(state),
    "FluxTransformer2DModel": lambda model, state, _: convert_flux_transformer_checkpoint_to_diffusers(state),
    "ControlNetModel": lambda model, state, _: convert_controlnet_checkpoint(state, model.config),
    **dict.fromkeys(
        ("ControlNetUnionModel", "SD3ControlNetModel", "FluxControlNetModel"), lambda model, state, _: state
    ),
    "AutoencoderKL": _vae,
    "RRDBNet": _esrgan,
    "CLIPTextModel": _text_encoder,
    "CLIPTextModelWithProjection": _text_encoder,
    "T5EncoderModel": _t5,
}
"""(empty model, its part of the file, prefix of the keys) -> the state dict under the model's own names."""


def load_component(part: Part, library: str, device: str, dtype: torch.dtype) -> Any:
    """The model of `part`, its weights as `dtype` on `device`. Raises ValueError if they are not those it has."""
    assert part.source and part.weights
    model = _empty(part, library)
    state = CONVERT[part.class_name](model, _read(part, device, dtype), part.source.prefix)
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    bad = [key for key, shape in wanted.items() if key not in state or state[key].shape != shape]
    if bad:
        raise ValueError(f"{len(bad)} tensors are missing or of another shape, {bad[0]} the first")
    model.load_state_dict({key: state[key] for key in wanted}, assign=True)
    if library == "transformers":
        model.tie_weights()
        _widen(model, dtype)
    return model.to(device)  # its buffers


def _widen(model: Any, dtype: torch.dtype) -> None:
    """T5's second layers overflow in float16, which transformers' own loading knows, too."""
    if dtype == torch.float16:
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in (model._keep_in_fp32_modules or ()):
                module.float()


def _empty(part: Part, library: str) -> Any:
    """The model without memory for its parameters."""
    assert part.source
    model_class = getattr(importlib.import_module(library), part.class_name)
    with init_empty_weights():
        if library == "transformers":
            return model_class(model_class.config_class(**part.source.config))
        return model_class.from_config(dict(part.source.config))


def _read(part: Part, device: str, dtype: torch.dtype) -> State:
    """The part's tensors. Read, not mapped: a file that is replaced later does no harm, and no page counts twice."""
    assert part.source
    with safe_open(part.weights, framework="pt", device="cpu", backend="pread") as file:
        names = [name for name in file.keys() if name.startswith(part.source.prefix)]  # noqa: SIM118 - no mapping
        return {name: _value(file, name, names).to(device, dtype) for name in names if not name.endswith(SCALES)}


def _value(file: Any, name: str, names: Collection[str]) -> Any:
    """A tensor, times the scale that ComfyUI keeps beside weights in 8 bits."""
    tensor = file.get_tensor(name)
    scale = next((scale for end in SCALES if (scale := f"{name.removesuffix('.weight')}{end}") in names), None)
    return tensor if scale is None else tensor.float() * file.get_tensor(scale).float()
