"""Single-file checkpoints in the original layouts, made from diffusers' components: the inverse of its conversion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
MID = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.": "attn.",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def unet(model: Any) -> State:
    heads = DIFFUSERS_TO_LDM_MAPPING["unet"]
    names = {**heads["layers"], **(heads["addition_embed_type"] if model.config.addition_embed_type else {})}
    crosses = [kind.startswith("Cross") for kind in model.config.up_block_types]
    return _named(model, names, crosses)


def controlnet(model: Any) -> State:
    names = dict(DIFFUSERS_TO_LDM_MAPPING["controlnet"]["layers"])
    for key in model.state_dict():
        if match := re.match(r"controlnet_cond_embedding\.blocks\.(\d+)\.(.*)", key):
            names[key] = f"input_hint_block.{2 * int(match[1]) + 2}.{match[2]}"
        elif match := re.match(r"controlnet_down_blocks\.(\d+)\.(.*)", key):
            names[key] = f"zero_convs.{match[1]}.0.{match[2]}"
        elif key.startswith("controlnet_mid_block."):
            names[key] = key.replace("controlnet_mid_block.", "middle_block_out.0.")
    return _named(model, names, [])


def _named(model: Any, names: dict[str, str], crosses: list[bool]) -> State:
    """A way down and up: what `names` does not have goes by its place. `crosses`: of the blocks on the way up."""
    layers = model.config.layers_per_block

    def name(key: str) -> str:
        if key in names:
            return str(names[key])
        if match := re.match(r"mid_block\.(\w+\.\d)\.(.*)", key):
            return f"middle_block.{MID[match[1]]}.{_swap(match[2], RESNET if 'resnets' in key else {})}"
        way, i, kind, j, rest = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", key).groups()
        first = int(i) * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{first + layers}.{2 if crosses[int(i)] else 1}.{rest}"
        block = f"input_blocks.{first + int(j) + 1}" if way == "down" else f"output_blocks.{first + int(j)}"
        return f"{block}.{int(kind == 'attentions')}.{_swap(rest, RESNET if kind == 'resnets' else {})}"

    return {name(key): tensor for key, tensor in model.state_dict().items()}


def vae(model: Any) -> State:
    heads, levels = DIFFUSERS_TO_LDM_MAPPING["vae"], len(model.config.block_out_channels)
    result = {}
    for key, tensor in model.state_dict().items():
        name = heads.get(key)
        if not name:
            name = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", key)
            name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
            name = re.sub(r"up_blocks\.(\d)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
            name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
            name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
            if "attentions" in name:
                name = _swap(name.replace("mid_block.attentions.0", "mid.attn_1"), ATTENTION)
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
            name = name.replace("conv_shortcut", "nin_shortcut")
        result[name] = tensor
    return result


def clip(model: Any) -> State:
    return {f"text_model.{key}": tensor for key, tensor in model.state_dict().items()}


def open_clip(model: Any) -> State:
    state = {key.removeprefix("text_model."): tensor for key, tensor in model.state_dict().items()}
    result = {}
    for key, tensor in state.items():
        if key == "text_projection.weight":
            result["text_projection"] = tensor.T
        elif match := re.match(r"(.*)self_attn\.q_proj\.(weight|bias)", key):
            joined = torch.cat([state[f"{match[1]}self_attn.{k}_proj.{match[2]}"] for k in "qkv"])
            result[_swap(match[1], OPEN_CLIP) + f"attn.in_proj_{match[2]}"] = joined
        elif not re.search(r"self_attn\.[kv]_proj", key):
            result[_swap(key, OPEN_CLIP)] = tensor
    return result


def _swap(text: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        text = text.replace(ours, theirs)
    return text


def transformer(model: Any) -> State:
    """Of a Stable Diffusion 3. Queries, keys and values lie in one matrix there."""
    state, last = model.state_dict(), model.config.num_layers - 1
    result = {}
    for key, tensor in state.items():
        name = _swap(key, MMDIT_HEADS)
        if match := re.match(r"transformer_blocks\.(\d+)\.(.*)", key):
            name = _mmdit_block(match[1], match[2])
        if key.startswith("norm_out.") or key.startswith(f"transformer_blocks.{last}.norm1_context."):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if match := re.match(r"(.*)\.(to_q|add_q_proj)\.(weight|bias)$", key):
            parts = [state[key.replace("to_q", f"to_{k}").replace("add_q", f"add_{k}")] for k in "qkv"]
            result[name] = torch.cat(parts)
        elif not re.search(r"\.(to_[kv]|add_[kv]_proj)\.", key):
            result[name] = tensor
    return result


def _mmdit_block(number: str, rest: str) -> str:
    side = "context_block" if re.search(r"context|add", rest) else "x_block"
    return f"joint_blocks.{number}.{side}.{_swap(rest, MMDIT_BLOCK)}"


MMDIT_HEADS = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
MMDIT_BLOCK = {
    "attn.to_q.": "attn.qkv.",
    "attn2.to_q.": "attn2.qkv.",
    "attn.add_q_proj.": "attn.qkv.",
    "norm_added_q": "ln_q",
    "norm_added_k": "ln_k",
    "norm_q": "ln_q",
    "norm_k": "ln_k",
    "to_out.0": "proj",
    "to_add_out": "proj",
    "norm1_context.linear": "adaLN_modulation.1",
    "norm1.linear": "adaLN_modulation.1",
    "ff_context.net.0.proj": "mlp.fc1",
    "ff_context.net.2": "mlp.fc2",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}


def _plain(model: Any) -> State:
    return dict(model.state_dict())


def _without_projection(model: Any) -> State:
    return {key: tensor for key, tensor in model.state_dict().items() if key != "text_projection.weight"}


def _without_copy(model: Any) -> State:
    return {key: tensor for key, tensor in model.state_dict().items() if key != "encoder.embed_tokens.weight"}


ENCODERS = {
    "refiner": {"text_encoder_2": ("conditioner.embedders.0.model.", open_clip)},
    "sd3": {
        "text_encoder": ("text_encoders.clip_l.transformer.", _without_projection),
        "text_encoder_2": ("text_encoders.clip_g.transformer.", _plain),
        "text_encoder_3": ("text_encoders.t5xxl.transformer.", _without_copy),
    },
    "sd1": {"text_encoder": ("cond_stage_model.transformer.", clip)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", open_clip)},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", clip),
        "text_encoder_2": ("conditioner.embedders.1.model.", open_clip),
    },
}


def state_dict(pipeline: Any, family: str) -> State:
    """All of a pipeline's weights as its family's original files name them."""
    denoiser = ("transformer", transformer) if family == "sd3" else ("unet", unet)
    rows = {
        denoiser[0]: ("model.diffusion_model.", denoiser[1]),
        "vae": ("first_stage_model.", vae),
        **ENCODERS[family],
    }
    return {
        prefix + key: tensor
        for name, (prefix, rename) in rows.items()
        for key, tensor in rename(getattr(pipeline, name)).items()
    }


def save(pipeline: Any, family: str, path: Path, dtype: torch.dtype = torch.float32, **metadata: str) -> None:
    state = {key: tensor.to(dtype).contiguous() for key, tensor in state_dict(pipeline, family).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata)
