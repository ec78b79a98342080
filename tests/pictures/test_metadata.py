"""A picture says how it was made, to us and to other tools, and theirs to us; hostile text comes to nothing."""

from __future__ import annotations

import json
import struct
import time
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

from core.errors import DarkroomError, NotFound, RequestError
from core.library.checkpoints import Checkpoint, named
from core.pictures.metadata import TEXT_LIMIT, PictureInfo, encode_png, read_text
from core.request.generation import GenerationRequest
from core.request.parameters import fingerprint
from core.request.units import Control, Lora
from core.samplers import SAMPLERS

BLANK = Image.new("RGB", (512, 768), "red")
FULL = GenerationRequest(
    prompt="a (red:1.2) fox, “猫”\nsecond line",
    negative_prompt="blurry, Steps: 3",
    checkpoint="base",
    sampler="DPM++ 2M Karras",
    steps=20,
    guidance_scale=7.0,
    width=512,
    height=768,
    seed=2**64 - 3,
    batch_size=2,
    clip_skip=2,
    loras=(Lora(name="ink", weight=0.8),),
)
MADE_WITH = {"model_hash": "6ce0161689", "darkroom": "0.1.0", "lora_hash:ink": "aabbccddee"}


def png(**texts: str) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    file = BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def raw_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """`data` with one more chunk behind its header."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data[:33] + chunk + data[33:]


# Ours


def test_the_file_is_lossless_and_small() -> None:
    image = Image.linear_gradient("L").convert("RGB")
    image.paste("red", (64, 64, 128, 192))
    data = encode_png(image, FULL, 0, {})
    assert np.array_equal(np.asarray(Image.open(BytesIO(data))), np.asarray(image))
    assert len(data) < 256 * 256 * 3 / 10


def test_other_tools_read_a1111s_text() -> None:
    with Image.open(BytesIO(encode_png(BLANK, FULL, 1, MADE_WITH))) as file:
        text = file.info["parameters"]
    assert text == (
        "a (red:1.2) fox, “猫”\nsecond line <lora:ink:0.8>\n"
        "Negative prompt: blurry, Steps: 3\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.0, Seed: 18446744073709551614, "
        "Size: 512x768, Model hash: 6ce0161689, Model: base, Clip skip: 2, "
        'Lora hashes: "ink: aabbccddee", Version: Darkroom 0.1.0'
    )


def test_other_tools_name_models_without_their_files_ending() -> None:
    request = GenerationRequest(checkpoint="XL/xl_1.0.safetensors", refiner="refiner_1.0.safetensors")
    with Image.open(BytesIO(encode_png(BLANK, request, 0, {"refiner_hash": "abcdef0123"}))) as file:
        text = file.info["parameters"]
    assert "Model: xl_1.0, Refiner: refiner_1.0 [abcdef0123], Refiner switch at: 0.8" in text
    known = [Checkpoint("XL_1.0.safetensors", ""), Checkpoint("xl_1.0", ""), Checkpoint("folder", "")]
    for name, there in (("xl_1.0", known[1]), ("folder.safetensors", known[2]), ("Folder", known[2]), ("xl", None)):
        assert named(name, known) == there
    assert named("xl_1.0", known[:1]) == known[0]


def test_a_request_that_names_little_leaves_the_rest_out() -> None:
    with Image.open(BytesIO(encode_png(BLANK, GenerationRequest(checkpoint="a, b: c"), 0, {}))) as file:
        assert file.info["parameters"] == 'Steps: 20, Size: 512x768, Model: "a, b: c", Version: Darkroom'


def test_strength_is_told_where_a_picture_was_changed() -> None:
    request = GenerationRequest(image=BLANK, strength=0.4)
    with Image.open(BytesIO(encode_png(BLANK, request, 0, {}))) as file:
        assert "Denoising strength: 0.4" in file.info["parameters"]


@pytest.mark.parametrize("upscaler", ["Lanczos", "Latent", "swin2sr x4"])
def test_a_second_pass_goes_to_a1111_and_back(upscaler: str) -> None:
    request = GenerationRequest(hires={"scale": 1.5, "upscaler": upscaler, "strength": 0.35, "steps": 12})
    with Image.open(BytesIO(encode_png(BLANK, request, 0, {}))) as file:
        text = file.info["parameters"]
    assert f"Denoising strength: 0.35, Hires upscale: 1.5, Hires steps: 12, Hires upscaler: {upscaler}" in text
    info = read_text(png(parameters=text))
    assert info.fields["hires"] == request.hires and "strength" not in info.fields
    assert not [key for key in info.unknown if key.startswith(("Hires", "Denoising"))]


@pytest.mark.parametrize(
    ("line", "hires"),
    [
        ("Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: Latent (nearest-exact)", ("Latent", 0.5, None)),
        (
            "Denoising strength: 0.5, Hires upscale: 2, Hires steps: 0, Hires upscaler: 4x-UltraSharp",
            ("4x-UltraSharp", 0.5, None),
        ),
        (
            "Denoising strength: 0.5, Hires upscale: 2, Hires upscaler: R-ESRGAN 4x+",
            ("RealESRGAN_x4plus", 0.5, None),
        ),
        ("Denoising strength: 0, Hires upscale: 2, Hires upscaler: Lanczos", None),  # no step would run
        ("Denoising strength: 0.5, Hires upscale: 8, Hires upscaler: Lanczos", None),
        ("Denoising strength: 0.5, Hires resize: 768x768, Hires upscaler: Lanczos", None),
    ],
)
def test_a1111s_second_pass_is_ours_or_is_listed(line: str, hires: tuple[Any, ...] | None) -> None:
    info = read_text(png(parameters=f"a fox\nSteps: 20, {line}, Version: v1.10.1"))
    assert "strength" not in info.fields
    if hires is None:
        assert "hires" not in info.fields and {"Denoising strength", "Hires upscaler"} <= info.unknown.keys()
    else:
        found = info.fields["hires"]
        assert (found.scale, found.upscaler, found.strength, found.steps) == (2, *hires)
        assert info.unknown == {"Version": "v1.10.1"}


@pytest.mark.parametrize("index", [0, 1])
def test_ours_comes_back_exactly(index: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode_png(BLANK, FULL, index, MADE_WITH))
    info = read_text(path)
    assert info.source == "darkroom" and info.unknown == {}
    assert (info.request, info.index, info.made_with) == (FULL, index, MADE_WITH)
    assert GenerationRequest(**info.fields) == FULL
    assert info.text.startswith("a (red:1.2) fox")


def test_pictures_a_request_began_from_are_found_by_their_hash() -> None:
    source, mask, edges = (Image.new("RGB", (8, 8), colour) for colour in ("red", "white", "blue"))
    control = Control(net="canny", image=edges, weight=0.5)
    request = GenerationRequest(prompt="x", image=source, mask=mask, strength=0.5, controls=(control,))
    data = encode_png(BLANK, request, 0, {})
    kept = {fingerprint(image): image for image in (source, mask, edges)}
    found = read_text(data, kept.__getitem__).request
    assert found is not None and found.model_dump_json() == request.model_dump_json()
    assert found.image is not None and found.image.tobytes() == source.tobytes()


def test_without_those_pictures_the_other_fields_still_come() -> None:
    def missing(name: str) -> Image.Image:
        raise NotFound("gone")

    request = GenerationRequest(prompt="x", image=BLANK, strength=0.5, seed=4)
    data = encode_png(BLANK, request, 0, {"threads": "2"})
    for info in (read_text(data), read_text(data, missing)):
        assert info.request is None and info.source == "darkroom" and info.made_with == {"threads": "2"}
        assert info.fields["strength"] == 0.5 and info.fields["seed"] == 4 and "image" not in info.fields
        assert info.unknown == {"image": fingerprint(BLANK)}


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        "{}",
        '{"request": {}, "index": 0}',
        '{"request": {}, "index": 1, "made_with": {}}',
        '{"request": {}, "index": -1, "made_with": {}}',
        '{"request": {}, "index": true, "made_with": {}}',
        "[" * 100_000,
        '{"request": ' + "9" * 5_000 + "}",
    ],
)
def test_a_damaged_record_of_ours_leaves_a1111s_text(record: str) -> None:
    info = read_text(png(darkroom=record, parameters="a fox\nSteps: 5, Seed: 7"))
    assert info.source == "a1111" and info.unknown == {"darkroom": "damaged"}
    assert info.fields["seed"] == 7 and info.request is None


def test_bad_values_in_a_record_of_ours_are_listed() -> None:
    values = {"prompt": "x", "steps": 0, "seed": 1.5, "width": "512", "flux": [1], "guidance_scale": float("nan")}
    info = read_text(png(darkroom=json.dumps({"request": values, "index": 0, "made_with": {"a": 1}})))
    assert info.fields == {"prompt": "x"} and info.made_with == {"a": "1"}
    assert info.unknown == {"steps": "0", "seed": "1.5", "width": "512", "flux": "[1]", "guidance_scale": "NaN"}


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@given(
    st.builds(
        GenerationRequest,
        prompt=texts,
        negative_prompt=texts,
        checkpoint=st.none() | texts.filter(bool),
        sampler=st.none() | st.sampled_from(list(SAMPLERS)),
        steps=st.integers(1, 150),
        guidance_scale=st.none() | st.floats(0, 30),
        width=st.none() | st.integers(8, 512).map(lambda n: n * 8),
        seed=st.none() | st.integers(0, 2**64 - 17),
        batch_size=st.integers(1, 16),
        clip_skip=st.integers(1, 12),
        loras=st.lists(st.builds(Lora, name=texts.filter(bool), weight=st.floats(-2, 2)), max_size=3).map(tuple),
    )
)
def test_every_request_comes_back_exactly(request: GenerationRequest) -> None:
    info = read_text(encode_png(BLANK.resize((8, 8)), request, 0, {"device": "cpu"}))
    assert info.request == request


FILES = texts.filter(lambda name: name.strip() and not set("/\\") & set(name))


@given(prompt=texts, negative=texts, sampler=st.sampled_from(list(SAMPLERS)), checkpoint=FILES)
def test_a1111s_text_of_ours_reads_back(prompt: str, negative: str, sampler: str, checkpoint: str) -> None:
    request = GenerationRequest(
        prompt=prompt, negative_prompt=negative, sampler=sampler, checkpoint=checkpoint, guidance_scale=4.5, seed=9
    )
    with Image.open(BytesIO(encode_png(BLANK, request, 0, {}))) as file:
        info = read_text(png(parameters=file.info["parameters"]))
    assert info.source == "a1111"
    same = {"sampler": sampler, "steps": 20, "guidance_scale": 4.5, "seed": 9, "width": 512, "height": 768}
    assert same.items() <= info.fields.items()
    assert info.fields["checkpoint"].strip() == checkpoint.strip()


# A1111's


def a1111(text: str) -> PictureInfo:
    info = read_text(png(parameters=text))
    assert info.source == "a1111" and info.text == text
    return info


def test_a1111_as_of_old() -> None:
    info = a1111(
        "girl with an artist's beret, ((eyeshadow))\nblue eyes\n"
        "Negative prompt: ugly, [blurry]\nbad anatomy\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x640, Model hash: 45dee52b, "
        "Model: v1-5-pruned, Clip skip: 2, ENSD: 31337"
    )
    assert info.fields == {
        "prompt": "girl with an artist's beret, ((eyeshadow))\nblue eyes",
        "negative_prompt": "ugly, [blurry]\nbad anatomy",
        "steps": 20,
        "sampler": "DPM++ 2M Karras",
        "guidance_scale": 7.5,
        "seed": 965400086,
        "width": 512,
        "height": 640,
        "checkpoint": "v1-5-pruned",
        "clip_skip": 2,
    }
    assert info.unknown == {"Model hash": "45dee52b", "ENSD": "31337"}


def test_a1111_as_of_today_with_quotes_and_a_second_pass() -> None:
    info = a1111(
        "a fox <lora:ink:0.8>\n"
        "Steps: 25, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 1, Size: 512x512, "
        'Model: "x, y: z", Denoising strength: 0.5, Lora hashes: "ink: aa, wash: bb", '
        'Hires prompt: "says \\"hi\\", \\nthen: leaves", Hires upscale: 2, Version: v1.10.1\n'
        "Template: a __animal__"
    )
    assert info.fields["prompt"] == "a fox <lora:ink:0.8>" and info.fields["negative_prompt"] == ""
    assert info.fields["sampler"] == "Euler a" and info.fields["checkpoint"] == "x, y: z"
    assert (info.fields["hires"].scale, info.fields["hires"].strength) == (2, 0.5)
    assert "strength" not in info.fields
    assert info.unknown == {
        "Lora hashes": "ink: aa, wash: bb",
        "Hires prompt": 'says "hi", \nthen: leaves',
        "Version": "v1.10.1",
        "After the settings": "Template: a __animal__",
    }


def test_a1111_image_to_image() -> None:
    assert a1111("x\nSteps: 9, Denoising strength: 0.35, Mask blur: 4").fields["strength"] == 0.35


@pytest.mark.parametrize(
    ("sampler", "fields", "unknown"),
    [
        ("Sampler: DPM++ 2M, Schedule type: Karras", "DPM++ 2M Karras", {}),
        ("Sampler: DPM++ 2M SDE Karras", "DPM++ 2M SDE Karras", {}),
        ("Sampler: Euler", "Euler", {}),
        ("Sampler: Euler, Schedule type: Beta", "Euler Beta", {}),
        ("Sampler: Euler a, Schedule type: SGM Uniform", "Euler a SGM Uniform", {}),
        ("Sampler: Euler, Schedule type: DDIM", "Euler", {"Schedule type": "DDIM"}),
        ("Sampler: Euler a, Schedule type: Karras", "Euler a", {"Schedule type": "Karras"}),
        ("Sampler: Restart, Schedule type: Karras", None, {"Sampler": "Restart", "Schedule type": "Karras"}),
        ("Sampler: constructor", None, {"Sampler": "constructor"}),
    ],
)
def test_a1111_samplers(sampler: str, fields: str | None, unknown: dict[str, str]) -> None:
    info = a1111(f"x\nSteps: 5, {sampler}")
    assert info.fields.get("sampler") == fields and info.unknown == unknown


@pytest.mark.parametrize(
    ("setting", "unknown"),
    [
        ("Seed: -1", {"Seed": "-1"}),
        ("Seed: " + "9" * 5_000, {"Seed": "9" * 5_000}),
        ("CFG scale: 1" + "0" * 400, {"CFG scale": "1" + "0" * 400}),
        ("CFG scale: nan", {"CFG scale": "nan"}),
        ("CFG scale: seven", {"CFG scale": "seven"}),
        ("Size: 500x512", {"Size": "500x512"}),
        ("Size: 512", {"Size": "512"}),
        ("Clip skip: 99", {"Clip skip": "99"}),
        ('Note: "open', {"Note": '"open'}),
        ('Note: "a" b', {"Note": '"a" b'}),
        ("Note:", {"Note": ""}),
        ("Note: \\ud800", {"Note": "\\ud800"}),
        ('Note: "\\ud800"', {"Note": "?"}),
    ],
)
def test_a1111_settings_that_fit_no_field_are_listed(setting: str, unknown: dict[str, str]) -> None:
    info = a1111(f"x\nSteps: 5, {setting}")
    assert info.fields == {"prompt": "x", "negative_prompt": "", "steps": 5} and info.unknown == unknown


def test_an_endless_line_of_settings_is_kept_whole() -> None:
    line = "Steps: 5, " + "a: b, " * 20_000
    info = a1111(f"x\n{line}")
    assert info.fields == {"prompt": "x", "negative_prompt": ""} and info.unknown == {"Settings": line.strip()}


def test_html_and_templates_are_just_text() -> None:
    hostile = "<img src=x onerror=alert(1)> ${alert(1)} {{value}}"
    assert a1111(f"{hostile}\nSteps: 5, Model: {hostile}").fields["prompt"] == hostile


# ComfyUI's


def comfy_graph() -> dict[str, Any]:
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 2**63, "steps": 20, "cfg": 8, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1,
                "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "SD1\\v1-5.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["11", 0]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["11", 0]}},
        "10": {
            "class_type": "LoraLoader",
            "inputs": {
                "lora_name": "x\\ink.safetensors", "strength_model": 0.8, "strength_clip": 0.5,
                "model": ["12", 0], "clip": ["4", 1],
            },
        },
        "12": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"lora_name": "wash", "strength_model": 1, "model": ["4", 0]},
        },
        "11": {"class_type": "CLIPSetLastLayer", "inputs": {"stop_at_clip_layer": -2, "clip": ["10", 1]}},
    }  # fmt: skip


COMFY_FIELDS = {
    "prompt": "a fox",
    "negative_prompt": "blurry",
    "seed": 2**63,
    "steps": 20,
    "guidance_scale": 8,
    "sampler": "DPM++ 2M Karras",
    "width": 512,
    "height": 768,
    "clip_skip": 2,
    "checkpoint": "v1-5",
    "loras": (Lora(name="wash"), Lora(name="ink", weight=0.8, text_encoder_weight=0.5)),
}


def comfyui(graph: object) -> PictureInfo:
    info = read_text(png(prompt=json.dumps(graph), workflow="{}"))
    assert info.source == "comfyui"
    return info


def test_comfyui_is_followed_from_its_sampler() -> None:
    info = comfyui(comfy_graph())
    assert info.fields == COMFY_FIELDS
    assert info.unknown == {"Node 11": "CLIPSetLastLayer"}


def test_comfyui_with_a_sampler_in_parts() -> None:
    graph = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}},
        "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 3}},
        "3": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {
                "noise": ["2", 0], "guider": ["4", 0], "sampler": ["5", 0],
                "sigmas": ["6", 0], "latent_image": ["7", 0],
            },
        },
        "4": {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["9", 0]}},
        "5": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "6": {"class_type": "BasicScheduler", "inputs": {"steps": 20, "scheduler": "normal", "denoise": 1}},
        "7": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 1}},
        "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox"}},
        "9": {"class_type": "FluxGuidance", "inputs": {"guidance": 2.5, "conditioning": ["8", 0]}},
    }  # fmt: skip
    info = comfyui(graph)
    assert info.fields == {
        "prompt": "a fox", "seed": 3, "steps": 20, "sampler": "Euler", "width": 1024, "height": 768,
        "checkpoint": "flux1-dev", "distilled_guidance": 2.5,
    }  # fmt: skip
    assert info.unknown == {"Node 1": "UNETLoader"}
    for name in graph["3"]["inputs"]:  # type: ignore[attr-defined]
        graph["3"]["inputs"][name] = ["3", "nowhere"]  # type: ignore[index]
    assert comfyui(graph).fields == {}


def test_comfyui_through_controlnets_links_and_a_second_pass() -> None:
    graph = comfy_graph()
    first = graph["3"]["inputs"]
    second = first | {"latent_image": ["20", 0], "denoise": 0.5, "seed": 1, "steps": 9}
    graph = {"1": {"class_type": "KSampler", "inputs": second}, **graph}
    graph["20"] = {"class_type": "LatentUpscale", "inputs": {"width": 1024, "height": 1536, "samples": ["3", 0]}}
    graph["21"] = {
        "class_type": "ControlNetApplyAdvanced",
        "inputs": {"positive": ["6", 0], "negative": ["7", 0], "strength": 1},
    }
    graph["22"] = {"class_type": "PrimitiveString", "inputs": {"value": "a linked fox"}}
    graph["23"] = {"class_type": "PrimitiveInt", "inputs": {"value": 77}}
    graph["6"]["inputs"]["text"] = ["22", 0]
    first |= {"positive": ["21", 0], "negative": ["21", 1], "seed": ["23", 0], "denoise": 0.8}
    expected = COMFY_FIELDS | {"prompt": "a linked fox", "seed": 77, "strength": 0.8}
    assert comfyui(graph).fields == expected


def test_comfyui_zeroed_negative_is_not_the_positive() -> None:
    graph = comfy_graph()
    graph["7"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}}
    assert "negative_prompt" not in comfyui(graph).fields


def test_comfyui_loops_gaps_and_nonsense_end() -> None:
    graph = comfy_graph()
    graph["6"]["inputs"] = {"text": ["6", 0], "clip": ["6", 0]}
    graph["7"]["inputs"] = ["no", "mapping"]
    graph["3"]["inputs"] |= {
        "seed": -1,
        "sampler_name": "res_multistep",
        "cfg": None,
        "latent_image": [],
        "steps": "x",
    }
    graph["8"] = {"class_type": ["a"], "inputs": {}, "is_changed": [float("nan")]}
    graph["9"] = 5
    info = comfyui(graph)
    assert info.fields == {name: COMFY_FIELDS[name] for name in ("checkpoint", "loras")}
    assert info.unknown["seed"] == "-1" and info.unknown["sampler_name"] == "res_multistep"
    assert info.unknown["Node 8"] == '["a"]'


def test_comfyui_without_a_sampler_lists_its_nodes() -> None:
    info = comfyui({"1": {"class_type": "SamplerCustomAdvanced", "inputs": {}}})
    assert info.fields == {} and info.unknown == {"Node 1": "SamplerCustomAdvanced"}


# InvokeAI's


def test_invokeai() -> None:
    values = {
        "app_version": "6.1.0", "generation_mode": "txt2img", "positive_prompt": "a fox", "negative_prompt": None,
        "width": 768, "height": 432, "seed": 356120443, "rand_device": "cpu", "cfg_scale": 7.5, "steps": 50,
        "scheduler": "dpmpp_2m_sde_k", "clip_skip": 1, "strength": 0.6,
        "loras": [{"model": {"name": "ink"}, "weight": 0.7}, {"lora": {"model_name": "wash"}, "weight": 1}],
        "model": {"name": "dreamshaper", "hash": "blake3:aa", "base": "sd-1"},
    }  # fmt: skip
    info = read_text(png(invokeai_metadata=json.dumps(values)))
    assert info.source == "invokeai"
    assert info.fields == {
        "prompt": "a fox", "width": 768, "height": 432, "seed": 356120443, "guidance_scale": 7.5, "steps": 50,
        "sampler": "DPM++ 2M SDE Karras", "clip_skip": 2, "checkpoint": "dreamshaper", "strength": 0.6,
        "loras": (Lora(name="ink", weight=0.7), Lora(name="wash")),
    }  # fmt: skip
    assert info.unknown == {
        "app_version": "6.1.0", "generation_mode": "txt2img", "rand_device": "cpu", "model hash": "blake3:aa",
    }  # fmt: skip


@pytest.mark.parametrize(
    "loras", [[], {}, [5], [{"model": 5, "weight": 1}], [{"model": {"name": "ink"}, "weight": []}]]
)
def test_invokeai_loras_that_are_none(loras: object) -> None:
    info = read_text(png(invokeai_metadata=json.dumps({"steps": 9, "loras": loras})))
    assert info.fields == {"steps": 9}


# In other files than PNG


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a1111_writes_into_exif_where_there_are_no_texts(kind: str) -> None:
    file, exif = BytesIO(), Image.Exif()
    exif.get_ifd(IFD.Exif)[Base.UserComment] = b"UNICODE\0" + "a fóx\nSteps: 5".encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(file, kind, exif=exif)
    info = read_text(file.getvalue())
    assert (info.source, info.fields["prompt"], info.fields["steps"]) == ("a1111", "a fóx", 5)


def test_damaged_exif_says_nothing() -> None:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "WEBP", exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    assert read_text(file.getvalue()) == PictureInfo()


# Nobody's, and the hostile


def test_a_picture_that_says_nothing() -> None:
    assert read_text(png()) == PictureInfo()


@pytest.mark.parametrize("texts", [{"parameters": "a fox"}, {"prompt": "a fox"}, {"Title": "a fox", "prompt": "{}"}])
def test_text_of_no_known_tool_is_listed(texts: dict[str, str]) -> None:
    assert read_text(png(**texts)) == PictureInfo(unknown=texts)


def test_long_texts_are_named_but_not_read() -> None:
    info = read_text(png(workflow="x" * (TEXT_LIMIT + 1), parameters="a fox\nSteps: 5"))
    assert info.source == "a1111" and info.unknown == {"workflow": "1,048,577 characters"}


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt"])
def test_a_bomb_of_text_is_one_clear_error(name: bytes) -> None:
    bomb = zlib.compress(b"x" * 2**26)
    content = b"parameters\0\0" + bomb if name == b"zTXt" else b"parameters\0\1\0\0\0" + bomb
    with pytest.raises(RequestError, match="less than 1 MB of text"):
        read_text(raw_chunk(png(), name, content))


@pytest.mark.parametrize("data", [b"", b"MZ\x90", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", png()[:20]])
def test_no_png_is_one_clear_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "private"
    path.write_bytes(data)
    for source in (data, path, tmp_path / "missing"):
        with pytest.raises(RequestError, match="a PNG") as caught:
            read_text(source)
        assert "private" not in str(caught.value)


def test_a_huge_picture_is_read_without_decoding_it() -> None:
    header = struct.pack(">IIBBBBB", 13_000, 13_000, 1, 0, 0, 0, 0)
    data = png(parameters="a fox\nSteps: 5")
    huge = data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    assert read_text(huge).fields["steps"] == 5


NASTY = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep but closed": '{"1": {"class_type": ' + "[" * 900 + "]" * 900 + ', "inputs": {}}}',
    "long number": '{"seed": ' + "9" * 5_000 + "}",
    "large numbers": '{"seed": 1' + "0" * 400 + ', "cfg_scale": 1' + "0" * 400 + "}",
    "infinite": '{"1": {"class_type": "KSampler", "inputs": {"seed": 1e999}}, "seed": Infinity}',
    "pairs": "x\nSteps: 1, " + 'a: "b, ' * 9_000,
    "quotes": "x\nSteps: 1, " + 'a: "\\" ' * 9_000,
    "bad escapes": "x\nSteps: 1, " + 'a: "\\(", ' * 7_000,
    "long line": "x\nSteps: 1, " + "a" * 1_000_000,
    "no colon": "a " * 500_000,
    "lines": "Steps: 1\n" * 100_000,
    "markers": "Negative prompt:\n" * 60_000 + "Steps: 1",
    "spaces": "x\nSteps: 1, a:" + " " * 60_000,
    "wide graph": json.dumps(
        {str(n): {"class_type": "X", "inputs": {"positive": [str(n + 1), 0]}} for n in range(8_000)}
        | {"k": {"class_type": "K", "inputs": {key: ["0", 0] for key in comfy_graph()["3"]["inputs"]}}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_nasty_text_costs_little_and_raises_nothing(name: str) -> None:
    data = [png(**{key: NASTY[name]}) for key in ("parameters", "prompt", "invokeai_metadata", "darkroom")]
    began = time.process_time()
    for source in data:
        info = read_text(source)
        json.dumps([info.text, info.unknown, info.made_with], ensure_ascii=False).encode()
    assert time.process_time() - began < 2


def test_nesting_that_is_just_read_but_not_shown_raises_nothing() -> None:
    for depth in range(800, 1_000):  # which of them it is depends on the stack below
        assert not read_text(png(invokeai_metadata='{"seed": ' + "[" * depth + "]" * depth + "}")).fields


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["3", "4", "euler"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80)
@given(st.data())
def test_any_values_in_a_known_shape_raise_nothing(data: st.DataObject) -> None:
    graph = comfy_graph()
    for node in data.draw(st.lists(st.sampled_from(list(graph)), max_size=4)):
        key = data.draw(st.sampled_from(list(graph[node]["inputs"])))
        graph[node]["inputs"][key] = data.draw(json_values)
    ours = {"request": json.loads(FULL.model_dump_json()), "index": 0, "made_with": {}}
    name = data.draw(st.sampled_from(list(ours["request"])))
    ours["request"][name] = data.draw(json_values)
    invoke = {key: data.draw(json_values) for key in ("scheduler", "model", "clip_skip", "positive_prompt", "steps")}
    for key, value in {"prompt": graph, "darkroom": ours, "invokeai_metadata": invoke}.items():
        fields = read_text(png(**{key: json.dumps(value)})).fields
        for field, kept in fields.items():
            GenerationRequest(**{field: kept})


@given(st.text(max_size=200).filter(lambda text: text.isprintable()), texts, texts)
def test_any_a1111_text_raises_nothing(line: str, prompt: str, after: str) -> None:
    fields = read_text(png(parameters=f"{prompt}\nSteps: {line}\n{after}")).fields
    for field, kept in fields.items():
        GenerationRequest(**{field: kept})


WHOLE = encode_png(BLANK.resize((8, 8)), FULL, 0, MADE_WITH)


@given(st.binary(max_size=60), st.integers(0, len(WHOLE)), st.integers(0, 30))
def test_no_damage_brings_anything_but_a_clear_error(noise: bytes, at: int, cut: int) -> None:
    with suppress(DarkroomError):
        read_text(WHOLE[:at] + noise + WHOLE[at + cut :])
