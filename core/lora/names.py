"""The names that LoRA files give to a model's layers, and to what they hold for each.

Every trainer writes a key as prefix of the part, name of the layer, suffix of the factor; some leave the prefix out,
where the layer's name tells the part. Layers are named as diffusers names them, with dots or underscores, or as the
original Stable Diffusion code does; so a layer is looked up by its name with underscores, under which it stands in a
table once for each of these ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from core.lora.transformers import Target, original_layers

PARTS = {
    "unet": r"(?:lora_unet|lora_transformer)[_.]|(?:unet|transformer|(?:model\.)?diffusion_model)\.",
    "text_encoder": r"lora_te1?[_.]|(?:text_encoder|(?:text_encoders\.)?clip_[lh](?:\.transformer)?|clip)\.",
    "text_encoder_2": r"lora_te2[_.]|(?:text_encoder_2|(?:text_encoders\.)?clip_g(?:\.transformer)?)\.",
    "text_encoder_3": r"lora_te3[_.]|(?:text_encoder_3|(?:text_encoders\.)?t5xxl(?:\.transformer)?|t5)\.",
}
"""What keys begin with for each part of a model: kohya's, OneTrainer's, diffusers' and ComfyUI's ways. What predicts
is "unet" here, though it be a transformer, as it is in kohya's files.
"""
BARE = {
    "unet": r"(?:down|up|input|output|double|single|joint|(?:single_)?transformer)_blocks|(?:mid|middle)_block"
    r"|(?:time|label|pos)_embed|label_emb|add_embedding|conv_(?:in|norm_out|out)|out_[02]|proj_out|norm_out"
    r"|(?:img|txt|time|vector|guidance)_in|final_layer|(?:context|[txy])_embedder|time_text_embed",
    "text_encoder": r"text_model_|encoder_layers|embeddings_|final_layer_norm|text_projection",
    "text_encoder_3": r"encoder_block|shared",
}
"""What layers begin with where a key names no part: LyCORIS's, peft's own and diffusers' first way."""
SPELLINGS = (
    (r"(^|\.)(?:base_model\.model|_orig_mod|module)\.", r"\1"),  # peft, and torch where it compiles or distributes
    (r"^lycoris_", ""),
    (r"\.lora_(A|B|down|up|mid|magnitude_vector)(?:\.(?!weight$|bias$)[^.]+)?(?:\.weight)?$", r".lora_\1.weight"),
    (r"_lora([12])\.(down|up)\.weight$", r"\1_lora.\2.weight"),  # XLabs: 1 is the picture's side, 2 that of the words
)
"""What is written in several ways, and the one that is read: with an adapter's name, without "weight"."""

FACTORS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector.weight": "magnitude",
    ".diff": "diff",
    ".diff_b": "diff",
    ".w_norm": "diff",
    ".b_norm": "diff",
    **{f".{name}": name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{f".lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
}
"""What keys end in, and which factor of a layer's difference it means."""
OF_BIAS = (".diff_b", ".b_norm")
_PART = re.compile("|".join(f"(?P<{part}>{start})" for part, start in PARTS.items()))
_BARE = re.compile("|".join(f"(?P<{part}>{start})" for part, start in BARE.items()))
_KEY = re.compile(f"(.+?)({'|'.join(map(re.escape, sorted(FACTORS, key=len, reverse=True)))})")

RESNET = {
    "norm1": "in_layers_0",
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "norm2": "out_layers_0",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}
OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks_0_0",
    "time_embedding_linear_1": "time_embed_0",
    "time_embedding_linear_2": "time_embed_2",
    "add_embedding_linear_1": "label_emb_0_0",
    "add_embedding_linear_2": "label_emb_0_2",
    "conv_norm_out": "out_0",
    "conv_out": "out_2",
}
"""diffusers' names and those of the original code, inside a resnet block and outside of all blocks."""


class Place(NamedTuple):
    """A layer's parameter as a file names it: the layer with underscores, "weight" or "bias"."""

    part: str
    layer: str
    parameter: str = "weight"

    def __str__(self) -> str:
        """As it may stand in a message: the layer's name is a stranger's."""
        return "".join(c if c.isprintable() else "�" for c in f"{self.part} {self.layer}"[:100])


def read_key(key: str) -> tuple[Place, str] | None:
    """The place and the factor that a file's key means; None for a key of no LoRA that we know."""
    for theirs, ours in SPELLINGS:
        key = re.sub(theirs, ours, key)
    prefix = _PART.match(key)
    found = _KEY.fullmatch(key, prefix.end() if prefix else 0)
    layer = found[1].replace(".processor.", ".").replace(".", "_") if found else ""
    named = prefix or _BARE.match(layer)
    if found is None or named is None:
        return None
    parameter = "bias" if found[2] in OF_BIAS else "weight"
    return Place(str(named.lastgroup), layer.removeprefix("text_model_"), parameter), FACTORS[found[2]]


def layers(part: str, model: Any) -> dict[str, tuple[Target, ...]]:
    """A model's layers by every name that files have for them; several of them where files join these."""
    modules = {path: module for path, module in model.named_modules() if getattr(module, "weight", None) is not None}
    named = {path.replace(".", "_").removeprefix("text_model_"): path for path in modules}
    short = {name.removesuffix("_0"): path for name, path in named.items() if name.endswith("_to_out_0")}
    single: dict[str, tuple[Target, ...]] = {name: (Target(path),) for name, path in {**short, **named}.items()}
    if part != "unet":
        return single
    if hasattr(model, "transformer_blocks"):
        heights = {path: len(module.weight) for path, module in modules.items()}
        return {**dict(original_layers(named, heights)), **single}
    blocks = dict(_blocks(model))
    return {**{original(name, blocks): (Target(path),) for name, path in named.items()}, **single}


def original(name: str, blocks: dict[str, str]) -> str:
    """The original code's name of the U-Net's layer that diffusers calls `name`."""
    if name in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[name]
    if name in blocks:
        return blocks[name]
    for block in (name[: end.start()] for end in re.finditer("_", name)):
        if block in blocks:
            inside = name[len(block) + 1 :]
            return f"{blocks[block]}_{RESNET.get(inside, inside)}"
    return name


def _blocks(unet: Any) -> Iterator[tuple[str, str]]:
    """diffusers' names of blocks and samplers, and the original code's, which counts them through."""
    count = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            yield f"down_blocks_{i}_resnets_{j}", f"input_blocks_{count}_0"
            yield f"down_blocks_{i}_attentions_{j}", f"input_blocks_{count}_1"
            count += 1
        yield f"down_blocks_{i}_downsamplers_0_conv", f"input_blocks_{count}_0_op"
        count += 1
    for place, inner in enumerate(("resnets_0", "attentions_0", "resnets_1")):
        yield f"mid_block_{inner}", f"middle_block_{place}"
    count = 0
    for i, block in enumerate(unet.up_blocks):
        for j in range(len(block.resnets)):
            yield f"up_blocks_{i}_resnets_{j}", f"output_blocks_{count}_0"
            yield f"up_blocks_{i}_attentions_{j}", f"output_blocks_{count}_1"
            count += 1
        sampler = 2 if hasattr(block, "attentions") else 1
        yield f"up_blocks_{i}_upsamplers_0", f"output_blocks_{count - 1}_{sampler}"
