"""Weights of few bits: undone exactly where the form is known, refused by name in the list where it is not."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from core.errors import CheckpointError
from core.library import networks, text_encoders
from core.library.checkpoints import scan
from core.library.embeddings import scan as scan_embeddings
from core.library.headers import MALFORMED, read_shapes
from core.library.loras import LoraShelf
from core.library.part_loading import load_part
from core.library.parts import sole_part
from tests import ldm, loras, tiny
from tests.library.test_single_file import pipeline

START = "model.diffusion_model."
LAYER = f"{START}input_blocks.1.1.transformer_blocks.0.attn1.to_q"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """A single file's tensors, whose matrices are whole numbers times a scale for each row: 8 bits lose nothing."""
    torch.manual_seed(0)
    found = {key: tensor.clone() for key, tensor in ldm.state_dict(pipeline("sd1"), "sd1").items()}
    for key in matrices(found):
        numbers = torch.randint(-127, 128, found[key].shape)
        numbers[:, 0] = 127
        found[key] = numbers * 2.0 ** -torch.randint(7, 12, (len(numbers), 1))
    return found


def matrices(state: State) -> list[str]:
    return [key for key in state if key.startswith(START) and key.endswith(".weight") and state[key].ndim == 2]


def quantized(state: State, write: Any) -> State:
    """`write` gives the tensors that stand for a matrix, by what comes after its layer's name."""
    changed = dict(state)
    for key in matrices(state):
        del changed[key]
        changed |= {f"{key.removesuffix('.weight')}.{end}": each for end, each in write(state[key]).items()}
    return {key: tensor.contiguous() for key, tensor in changed.items()}


def said(**words: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps(words).encode()), dtype=torch.uint8)


def whole(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (tensor / scale).round().to(torch.int8)


def rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.abs().amax(1, keepdim=True) / 127


def scaled(tensor: torch.Tensor) -> State:
    return {"weight": whole(tensor, rows(tensor)), "weight_scale": rows(tensor)}


def flat(tensor: torch.Tensor) -> State:
    return {"weight": whole(tensor, rows(tensor)), "weight_scale": rows(tensor).flatten()}


def of_comfyui(tensor: torch.Tensor) -> State:
    return {**scaled(tensor), "comfy_quant": said(format="int8_tensorwise", full_precision_matrix_mult=True)}


def of_bitsandbytes(tensor: torch.Tensor) -> State:
    most = tensor.abs().amax(1)
    return {"weight": whole(tensor, rows(tensor)), "SCB": most, "weight_format": torch.tensor(0, dtype=torch.uint8)}


def flat_fp8(tensor: torch.Tensor) -> State:
    return {"weight": torch.ones(tensor.shape).to(torch.float8_e4m3fn), "scale_weight": tensor[:, 0].clone()}


@pytest.mark.parametrize(
    "write", [scaled, flat, of_comfyui, of_bitsandbytes, flat_fp8], ids=lambda write: write.__name__
)
def test_a_known_form_is_the_float_file(tmp_path, state, write):
    for name, tensors in (("float", state), ("bits", quantized(state, write))):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / f"{name}.safetensors")
    bits, floats = (next(part for part in found.parts if part.name == "unet") for found in scan(tmp_path))
    ours, theirs = (load_part(part, "cpu", "float32").state_dict() for part in (bits, floats))
    for key, tensor in theirs.items():
        if write is flat_fp8 and tensor.ndim == 2 and key.endswith(".weight"):
            tensor = tensor[:, :1].expand(tensor.shape)
        torch.testing.assert_close(ours[key], tensor, rtol=1e-6, atol=0)


REFUSED = {
    "no scale": (lambda t: {"weight": whole(t, rows(t))}, "whole numbers without a scale that it knows"),
    "16 bits": (lambda t: {"weight": t.to(torch.int16)}, "whole numbers without a scale"),
    "64 bits": (lambda t: {"weight": t.to(torch.int64)}, "whole numbers without a scale"),
    "bytes": (
        lambda t: {**scaled(t), "weight": whole(t, rows(t)).view(torch.uint8)},
        "whole numbers without a scale",
    ),
    "unknown scale": (lambda t: {"weight": whole(t, rows(t)), "scale": rows(t)}, "a scale that it does not know"),
    "zero point": (lambda t: {**scaled(t), "zero_point": rows(t)}, "a scale that it does not know"),
    "fp8 with an unknown one": (
        lambda t: {"weight": t.to(torch.float8_e4m3fn), "qscale": rows(t)},
        "a scale that it does not know",
    ),
    "blocks": (
        lambda t: {"weight": whole(t, rows(t)), "weight_scale": torch.ones(len(t), 2)},
        "8 bits with a scale for each block",
    ),
    "rotated": (
        lambda t: {**scaled(t), "comfy_quant": said(format="int8_tensorwise", convrot=True, convrot_groupsize=64)},
        "are int8_tensorwise with convrot",
    ),
    "4 bits": (lambda t: {**scaled(t), "comfy_quant": said(format="nvfp4")}, "are nvfp4"),
    "NVFP4": (lambda t: {**scaled(t), "weight_scale_2": torch.ones(1)}, "are 4 bits (NVFP4)"),
    "unsaid": (lambda t: {**scaled(t), "comfy_quant": torch.tensor([1, 2], dtype=torch.uint8)}, "do not name"),
    "nf4": (lambda t: {"weight": whole(t, rows(t)), "weight.absmax": t[0].clone()}, "bitsandbytes' 4 bits"),
    "quanto": (lambda t: {"weight._data": whole(t, rows(t)), "weight._scale": rows(t)}, "are quanto's"),
    "nunchaku": (lambda t: {"qweight": whole(t, rows(t)), "wscales": rows(t)}, "nunchaku's SVDQuant"),
    "GPTQ": (lambda t: {"qweight": t.to(torch.int32), "qzeros": t.to(torch.int32)}, "GPTQ or AWQ"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_an_unknown_form_is_refused_by_name(tmp_path, state, form):
    write, words = REFUSED[form]
    save_file(quantized(state, write), tmp_path / "it.safetensors")
    (found,) = scan(tmp_path)
    assert words in str(found.problem) and "get the same model in 16 bits" in str(found.problem)


def test_a_header_that_names_a_rotation_is_refused(tmp_path, state):
    layers = {LAYER: {"format": "int8_tensorwise", "convrot": True}}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(quantized(state, scaled), tmp_path / "it.safetensors", metadata)
    assert "int8_tensorwise with convrot" in str(scan(tmp_path)[0].problem)


def test_counts_are_no_weights(tmp_path, state):
    """position_ids, the training's counters and such are in most files that people have."""
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    counts = {positions: torch.arange(77)[None], "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    tensors = {**state, **counts, "global_step": torch.tensor(9)}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "it.safetensors")
    (found,) = scan(tmp_path)
    assert found.problem is None
    for part in found.parts:
        load_part(part, "cpu", "float32")


def test_every_kind_of_file_is_refused_alike(tmp_path):
    odd = torch.ones(2, 4, dtype=torch.int8)
    loras.write(tmp_path / "loras" / "it.safetensors", {"lora_unet_a.lora_down.weight": odd})
    loras.write(tmp_path / "words" / "it.safetensors", {"emb_params": odd})
    loras.write(tmp_path / "nets" / "it.safetensors", {"controlnet_cond_embedding.conv_in.weight": odd})
    loras.write(tmp_path / "texts" / "it.safetensors", {"text_model.embeddings.token_embedding.weight": odd})
    found = [
        *LoraShelf(tmp_path / "loras"),
        *scan_embeddings(tmp_path / "words"),
        *networks.scan(tmp_path / "nets"),
        *text_encoders.scan(tmp_path / "texts"),
    ]
    assert ["whole numbers without a scale" in str(each.problem) for each in found] == [True] * 4


# folders of diffusers


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "(bitsandbytes nf4)"),
        ({"quant_method": "torchao"}, "(torchao)"),
        ({"quant_method": "gguf\n"}, "(gguf�)"),
        ("x", "(unnamed)"),
    ],
)
@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_quantized_folder_is_refused_by_name(tmp_path, part, config, words):
    tiny.sd().save_pretrained(tmp_path / "mine")
    path = tmp_path / "mine" / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
    problem = str(scan(tmp_path)[0].problem)
    assert problem.startswith(f"{part}: its weights are quantized {words}")


@pytest.mark.parametrize("class_name", ["AutoencoderKL", "CLIPTextModel"])
def test_bitsandbytes_8_bits_in_a_folder_are_undone(tmp_path, class_name):
    model = AutoencoderKL() if class_name == "AutoencoderKL" else tiny.sd().text_encoder
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    eight = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": eight}))
    part = sole_part("x", tmp_path, (class_name,))
    state = load_file(part.weights)
    wide = [key for key, tensor in state.items() if key.endswith(".weight") and tensor.ndim == 2]
    expected = dict(state)
    for key in wide:
        most = state[key].abs().amax(1).clamp_min(1e-3)
        state[key] = whole(state[key], most[:, None] / 127)
        state[f"{key.removesuffix('.weight')}.SCB"] = most
        expected[key] = state[key].float() * most[:, None] / 127
    save_file(state, part.weights, {"format": "pt"})
    loaded = load_part(part, "cpu", "float32").state_dict()
    assert wide
    for key in wide:
        torch.testing.assert_close(loaded[key], expected[key], rtol=1e-6, atol=0)


# what nobody should have made

VALUES = st.recursive(st.none() | st.booleans() | st.integers(-2, 9) | st.text(max_size=5), st.lists, max_leaves=4)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["I8", "F8_E4M3", "F16", "U8", "I64"]) | VALUES,
        "shape": st.lists(st.integers(0, 3), max_size=2) | VALUES,
        "data_offsets": st.just([0, 0]) | VALUES,
    }
)
NAMES = st.sampled_from([f"a.{end}" for end in ("weight", "SCB", "weight_scale", "comfy_quant", "zero")]) | st.text()
SAID = st.dictionaries(st.just("_quantization_metadata") | st.text(), st.text() | st.builds(json.dumps, VALUES))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(NAMES, ENTRIES, max_size=4), SAID | VALUES)
def test_no_header_makes_anything_but_what_scans_catch(tmp_path, entries, metadata):
    text = json.dumps(entries | {"__metadata__": metadata}).encode()
    path = Path(tmp_path / "it.safetensors")
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    for read in (read_shapes, lambda path: [*scan(path.parent), *LoraShelf(path.parent)]):
        try:
            read(path)
        except (CheckpointError, *MALFORMED):
            assert read is read_shapes
