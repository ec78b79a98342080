"""Other tools' pictures: each value in its own field or among what is not understood, never in another's place."""

from __future__ import annotations

import gzip
import json
import time
from io import BytesIO
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sd_parsers import ParserManager

from core.pictures.metadata import DIALECTS, PictureInfo, read_text
from core.request.generation import GenerationRequest
from core.request.units import Lora
from tests.files import commented, png, with_xmp

FOX = {"prompt": "a fox", "negative_prompt": "blurry", "seed": 77}
SIZE = {"width": 768, "height": 512}


def read(source: str, **texts: str) -> PictureInfo:
    info = read_text(png(**texts))
    assert info.source == source
    return info


# SD.Next


@pytest.mark.parametrize(
    "text",
    [
        "prompt: a fox\nNegative prompt: blurry\nVersion: aa62f6d, Pipeline: Original,\n"
        "Steps: 25 | Seed: 77 | Sampler: Euler a | CFG scale: 7 | Size: 768x512",
        "prompt: a fox\nNegative prompt: blurry\nSteps: 25| Seed: 77| Sampler: Euler a| CFG scale: 7| Size: 768x512|",
        "Prompt: a fox Negative prompt: blurry Steps: 25| Seed: 77| Sampler: Euler a| CFG scale: 7| Size: 768x512|",
    ],
)
def test_sd_next_of_2023(text: str) -> None:
    info = read("sdnext", parameters=text)
    assert (
        info.fields == {**FOX, **SIZE, "steps": 25, "sampler": "Euler a", "guidance_scale": 7} and info.text == text
    )
    assert info.unknown.keys() <= {"Version", "Pipeline"}


def test_a_prompt_that_begins_with_that_word_keeps_it() -> None:
    info = read("a1111", parameters="prompt: a fox\nSteps: 25, Seed: 77, Sampler: Euler a")
    assert info.fields["prompt"] == "prompt: a fox"


# Civitai


def test_civitais_lists_are_whole() -> None:
    resources = (
        '[{"type":"checkpoint","modelVersionId":1714314,"modelName":"Plant, Milk"},{"type":"lora","weight":0.6}]'
    )
    metadata = '{"workflow":"txt2img","aspectRatio":{"value":"3:2","width":1216},"prompt":"a, \\"b\\": [c]"}'
    info = read(
        "a1111",
        parameters=f"a fox\nNegative prompt: blurry\nSteps: 40, Sampler: Euler a, Seed: 77, "
        f"Created Date: 2026-02-25T22:09:08.8166925Z, Civitai resources: {resources}, Civitai metadata: {metadata}",
    )
    assert info.fields == {**FOX, "steps": 40, "sampler": "Euler a"}
    assert info.unknown == {
        "Created Date": "2026-02-25T22:09:08.8166925Z",
        "Civitai resources": resources,
        "Civitai metadata": metadata,
    }


def test_a_bracket_that_opens_no_list_is_text() -> None:
    info = read("a1111", parameters="x\nSteps: 5, Face prompt: [a fox, Seed: 7, Other: {b}")
    assert info.fields["seed"] == 7 and info.unknown == {"Face prompt": "[a fox", "Other": "{b}"}


# Fooocus

FOOOCUS = {
    "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "juggernaut", "base_model_hash": "aeb7e9e689", "clip_skip": 2,
    "full_prompt": ["a fox", "cinematic"], "guidance_scale": 4.0, "lora_combined_1": "ink : 0.5",
    "lora_combined_2": "None : 1.0", "loras": [["ink", 0.5, "aa"]], "negative_prompt": "blurry",
    "performance": "Speed", "prompt": "a fox", "refiner_model": "None", "refiner_switch": 0.5,
    "resolution": "(1152, 896)", "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "77", "steps": 30,
    "vae": "Default (model)", "version": "Fooocus v2.5.5",
}  # fmt: skip
FOOOCUS_FIELDS = {
    **FOX, "checkpoint": "juggernaut", "steps": 30, "guidance_scale": 4.0, "width": 1152, "height": 896,
    "clip_skip": 2, "sampler": "DPM++ 2M SDE Karras", "loras": (Lora(name="ink", weight=0.5),),
}  # fmt: skip


def test_fooocus() -> None:
    info = read("fooocus", parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus")
    assert info.fields == FOOOCUS_FIELDS
    assert info.unknown["full_prompt"] == '["a fox", "cinematic"]' and "refiner_start" not in info.fields
    assert read_text(commented(b"ASCII\0\0\0" + json.dumps(FOOOCUS).encode())).fields == FOOOCUS_FIELDS


def test_fooocus_as_its_log_names_it_and_with_a_refiner() -> None:
    values = {key.replace("_", " ").title(): value for key, value in FOOOCUS.items() if "lora" not in key}
    values |= {"LoRA 1": "True : ink : 0.5", "LoRA 2": "False : wash : 1.0", "Refiner Model": "refine", "Seed": 77}
    info = read("fooocus", parameters=json.dumps(values))
    assert info.fields == {**FOOOCUS_FIELDS, "refiner": "refine", "refiner_start": 0.5}


def test_fooocus_in_a1111s_words() -> None:
    info = read(
        "a1111",
        parameters="a fox, cinematic\nNegative prompt: blurry\n"
        "Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 77, Size: 1152x896, CFG scale: 4.0, Sharpness: 2.0, "
        'ADM Guidance: "(1.5, 0.8, 0.3)", Model: juggernaut, Model hash: aeb7e9e689, Performance: Speed, '
        'Scheduler: karras, VAE: Default (model), Raw prompt: a fox, Lora hashes: "ink: aa, wash: bb", '
        'Lora weights: "ink: 0.5, wash: 1.0", Version: Fooocus v2.5.5',
    )
    loras = (Lora(name="ink", weight=0.5), Lora(name="wash"))
    assert info.fields == {
        key: value for key, value in FOOOCUS_FIELDS.items() if key != "clip_skip"
    } | {"prompt": "a fox, cinematic", "loras": loras}  # fmt: skip
    assert info.unknown["Raw prompt"] == "a fox" and info.unknown["VAE"] == "Default (model)"


# SwarmUI

SWARM = {
    "sui_image_params": {
        "prompt": "a fox", "negativeprompt": "blurry", "model": "XL/dream", "seed": 77, "steps": 16,
        "cfgscale": 2.0, "width": 768, "height": 512, "sampler": "dpmpp_2m", "scheduler": "karras",
        "clipstopatlayer": -2, "automaticvae": True, "loras": ["ink", "wash"], "loraweights": ["0.4", "0.7"],
        "initimagecreativity": 0.6, "swarm_version": "0.9.8.1",
    },
    "sui_extra_data": {"date": "2025-03-15"},
}  # fmt: skip


def test_swarmui() -> None:
    text = json.dumps(SWARM)
    for info in (
        read("swarmui", parameters=text),
        read_text(commented(b"UNICODE\0" + text.encode("utf-16-le"))),
    ):
        assert info.fields == {
            **FOX, **SIZE, "checkpoint": "dream", "steps": 16, "guidance_scale": 2.0, "clip_skip": 2,
            "sampler": "DPM++ 2M Karras",
            "loras": (Lora(name="ink", weight=0.4), Lora(name="wash", weight=0.7)),
        }  # fmt: skip
        assert info.unknown == {
            "automaticvae": "true", "initimagecreativity": "0.6", "swarm_version": "0.9.8.1",
            "sui_extra_data": '{"date": "2025-03-15"}',
        }  # fmt: skip


# NovelAI

NOVELAI = {
    "prompt": "a fox", "uc": "blurry", "seed": 77, "steps": 28, "scale": 5.0, "width": 768, "height": 512,
    "sampler": "k_dpmpp_2m", "noise_schedule": "karras", "cfg_rescale": 0.4,
    "v4_prompt": {"caption": {"base_caption": "a fox", "char_captions": [{"char_caption": "a hen"}]}},
}  # fmt: skip
NOVELAI_FIELDS = {**FOX, **SIZE, "steps": 28, "guidance_scale": 5.0, "sampler": "DPM++ 2M Karras"}
NOVELAI_TEXTS = {
    "Title": "NovelAI generated image", "Description": "a fox", "Software": "NovelAI",
    "Source": "NovelAI Diffusion V4.5 4F49EC75", "Comment": json.dumps(NOVELAI),
}  # fmt: skip


def test_novelai() -> None:
    info = read("novelai", **NOVELAI_TEXTS)
    assert info.fields == NOVELAI_FIELDS and info.unknown["Source"] == "NovelAI Diffusion V4.5 4F49EC75"
    assert "a hen" in info.unknown["v4_prompt"]
    first = {key: value for key, value in NOVELAI.items() if key != "prompt"}
    assert read("novelai", **NOVELAI_TEXTS | {"Comment": json.dumps(first)}).fields == NOVELAI_FIELDS


def hidden(data: bytes, mark: bytes, mode: str = "RGBA") -> bytes:
    """A PNG with `data` in its lowest bits."""
    image = numpy.full((150, 160, len(mode)), 254, numpy.uint8)
    bits = numpy.unpackbits(numpy.frombuffer(mark + (len(data) * 8).to_bytes(4) + data, numpy.uint8))
    columns = image.transpose(1, 0, 2).copy()
    channel = columns[..., 3:] if mode == "RGBA" else columns
    flat = channel.reshape(-1)
    flat[: bits.size] += bits
    channel[:] = flat.reshape(channel.shape)
    file = BytesIO()
    Image.fromarray(columns.transpose(1, 0, 2)).save(file, "PNG")
    return file.getvalue()


def test_text_in_the_lowest_bits() -> None:
    whole = json.dumps(NOVELAI_TEXTS).encode()
    assert read_text(hidden(gzip.compress(whole), b"stealth_pngcomp")).fields == NOVELAI_FIELDS
    for data, mark, mode in (
        (b"a fox\nSteps: 9", b"stealth_pnginfo", "RGBA"),
        (gzip.compress(b"a fox\nSteps: 9"), b"stealth_rgbcomp", "RGB"),
    ):
        assert read_text(hidden(data, mark, mode)).fields["steps"] == 9
    bomb = read_text(hidden(gzip.compress(b"x" * 2**21), b"stealth_pngcomp"))
    assert bomb == PictureInfo()
    assert read_text(hidden(b"no gzip", b"stealth_pngcomp")) == PictureInfo()


# Draw Things

DRAW_THINGS = {
    "c": "a fox & hen", "uc": "blurry", "model": "sd_xl.ckpt", "sampler": "DPM++ 2M Karras", "scale": 4.5,
    "seed": 77, "seed_mode": "Scale Alike", "size": "768x512", "steps": 8, "strength": 1, "shift": 3.0,
    "lora": [{"model": "ink.ckpt", "weight": 0.8}], "v2": {"clipSkip": 1},
}  # fmt: skip
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
xmlns:exif="http://ns.adobe.com/exif/1.0/"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">a fox &amp; hen
-blurry
Steps: 8, Sampler: Euler A, Guidance Scale: 4.5, Seed: 77, Size: 768x512, Model: sd_xl.ckpt</rdf:li></rdf:Alt>
</dc:description><xmp:CreatorTool>Draw Things</xmp:CreatorTool>{}</rdf:Description></rdf:RDF></x:xmpmeta>"""


def draw_things(values: object) -> str:
    inside = json.dumps(values).replace("&", "&amp;")
    return XMP.format(
        f'<exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{inside}</rdf:li></rdf:Alt></exif:UserComment>'
    )


def test_draw_things() -> None:
    xmp = draw_things(DRAW_THINGS)
    for info in (read("drawthings", **{"XML:com.adobe.xmp": xmp}), read_text(with_xmp(xmp.encode()))):
        assert info.fields == {
            **FOX, **SIZE, "prompt": "a fox & hen", "checkpoint": "sd_xl", "sampler": "DPM++ 2M Karras",
            "steps": 8, "guidance_scale": 4.5, "loras": (Lora(name="ink", weight=0.8),),
        }  # fmt: skip
        assert info.unknown.keys() == {"seed_mode", "strength", "shift", "v2"}
    info = read("drawthings", **{"XML:com.adobe.xmp": draw_things(DRAW_THINGS | {"sampler": "Euler A Trailing"})})
    assert info.fields["sampler"] == "Euler a" and info.unknown["schedule"] == "Trailing"


def test_where_draw_things_prompts_part_is_not_guessed() -> None:
    info = read("drawthings", **{"XML:com.adobe.xmp": XMP.format("")})
    assert info.fields == {} and "-blurry" in info.unknown["description"]


# Easy Diffusion


def test_easy_diffusion() -> None:
    values = {
        "prompt": "a fox", "negative_prompt": "blurry", "seed": 77, "use_stable_diffusion_model": "C:\\sd\\dream",
        "clip_skip": True, "use_vae_model": None, "sampler_name": "euler_a", "width": 768, "height": 512,
        "num_inference_steps": 25, "guidance_scale": 7.5, "use_lora_model": "ink", "lora_alpha": 0.5, "tiling": None,
    }  # fmt: skip
    fields = {
        **FOX, **SIZE, "checkpoint": "dream", "clip_skip": 2, "sampler": "Euler a", "steps": 25,
        "guidance_scale": 7.5, "loras": (Lora(name="ink", weight=0.5),),
    }  # fmt: skip
    lists = values | {"use_lora_model": ["ink"], "lora_alpha": [0.5]}
    assert read("easydiffusion", **{key: str(value) for key, value in values.items()}).fields == fields
    assert read_text(commented(b"UNICODE\0" + json.dumps(lists).encode("utf-16-be"))).fields == fields
    labelled = {
        "Prompt": "a fox", "Negative Prompt": "blurry", "Seed": "77", "Stable Diffusion model": "dream",
        "Steps": "25", "Guidance Scale": "7.5", "Width": "768", "Height": "512", "Sampler": "euler_a",
        "Clip Skip": "True", "LoRA model": "['ink', 'wash']",
    }  # fmt: skip
    info = read("easydiffusion", **labelled)
    assert info.fields == {key: value for key, value in fields.items() if key != "loras"}
    assert info.unknown == {"use_lora_model": "['ink', 'wash']"}


# InvokeAI before 3


def test_invokeai_2() -> None:
    record = {
        "model": "stable diffusion", "model_weights": "dream", "model_hash": "cc6c", "app_version": "v2.3.5",
        "image": {
            "prompt": [{"prompt": "a fox [blurry]", "weight": 1}], "steps": 50, "cfg_scale": 7.5, "height": 512,
            "width": 768, "seed": 77, "type": "txt2img", "sampler": "k_euler_a", "strength": 0.7, "perlin": 0,
        },
    }  # fmt: skip
    fields = {**FOX, **SIZE, "steps": 50, "guidance_scale": 7.5, "sampler": "Euler a"}
    info = read("invokeai", **{"sd-metadata": json.dumps(record), "Dream": "x"})
    assert info.fields == fields | {"checkpoint": "dream"}
    assert info.unknown["model_hash"] == "cc6c" and info.unknown["strength"] == "0.7"
    record["image"] |= {"prompt": [{"prompt": "a", "weight": 1}, {"prompt": "b", "weight": 2}]}
    assert "prompt" not in read("invokeai", **{"sd-metadata": json.dumps(record)}).fields
    for spaces in (" ", ""):
        switches = {"s": 50, "S": 77, "W": 768, "H": 512, "C": 7.5, "A": "k_euler_a"}
        words = " ".join(f"-{key}{spaces}{value}" for key, value in switches.items())
        assert read("invokeai", Dream=f'"a fox [blurry]" {words}').fields == fields


# The oracle


@pytest.mark.parametrize(
    "texts",
    [
        {"parameters": json.dumps(FOOOCUS)},
        NOVELAI_TEXTS,
        {"Dream": '"a fox [blurry]" -s 50 -S 77 -W 768 -H 512 -C 7.5 -A k_euler_a'},
        {"parameters": "a fox\nNegative prompt: blurry\nSteps: 9, Sampler: Euler a, CFG scale: 7, Seed: 77"},
        {"invokeai_metadata": json.dumps({
            "positive_prompt": "a fox", "negative_prompt": "blurry", "seed": 77, "steps": 9, "scheduler": "euler_a",
            "model": {"model_name": "m"},
        })},
    ],
)  # fmt: skip
def test_another_reader_finds_the_same(texts: dict[str, str]) -> None:
    info = read_text(png(**texts))
    theirs = ParserManager().parse(Image.open(BytesIO(png(**texts))))
    assert theirs is not None and [each.value for each in theirs.prompts] == [info.fields["prompt"]]
    assert [each.value for each in theirs.negative_prompts] == [info.fields["negative_prompt"]]
    known = theirs.samplers[0].parameters | theirs.metadata
    for name in ("seed", "steps"):
        if name in known:
            assert int(known[name]) == info.fields[name]


# Whatever is in them

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["None", "[", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
RECORDS: dict[str, Any] = {
    "fooocus": FOOOCUS, "swarmui": SWARM["sui_image_params"], "novelai": NOVELAI, "drawthings": DRAW_THINGS,
    "easydiffusion": {
        "prompt": "a fox", "num_inference_steps": 5, "use_stable_diffusion_model": "dream", "seed": 7,
        "use_lora_model": "ink", "lora_alpha": 1, "sampler_name": "euler", "clip_skip": False,
    },
    "invokeai": {"prompt": "a fox", "steps": 5, "seed": 7, "sampler": "k_lms", "type": "img2img", "cfg_scale": 7},
}  # fmt: skip


def texts_of(source: str, values: dict[str, Any]) -> dict[str, str]:
    if source == "swarmui":
        return {"parameters": json.dumps({"sui_image_params": values})}
    if source == "invokeai":
        return {"sd-metadata": json.dumps({"model_weights": "dream", "image": values})}
    return {"Comment" if source == "novelai" else "UserComment": json.dumps(values)}


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(list(RECORDS)))
def test_any_values_raise_nothing_and_stay_in_their_places(data: st.DataObject, source: str) -> None:
    values = dict(RECORDS[source])
    for key in data.draw(st.lists(st.sampled_from(list(values)), min_size=1, max_size=3, unique=True)):
        values[key] = data.draw(json_values)
    info = read_text(png(**texts_of(source, values)))
    for name, kept in info.fields.items():
        GenerationRequest(**{name: kept})
        if isinstance(kept, str) and name in ("prompt", "negative_prompt"):
            own = ("prompt", "c") if name == "prompt" else ("negative_prompt", "negativeprompt", "uc")
            assert kept in [values.get(key) for key in own] or "[" in str(values.get("prompt")) or kept == ""


pieces = st.sampled_from(
    ["Steps: ", "5", " | ", "Seed: 7", "prompt: ", "Negative prompt:", "Version: a,", "\n", '"', " -s ", "[", "]",
     "{", ":", ",", "Size: 64x64", "a fox", "Lora weights: ", "Hires upscale: 2", "\ufffd", "9" * 40, "<lora:a:1>"]
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(pieces, max_size=16).map("".join), st.sampled_from(["parameters", "Dream", "UserComment", "Other"]))
def test_any_text_raises_nothing(text: str, name: str) -> None:
    for field, kept in read_text(png(**{name: text})).fields.items():
        GenerationRequest(**{field: kept})


words = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="[]|:"), min_size=1, max_size=30)
WRITERS = {
    "a1111": lambda p, n: {"parameters": f"x{p}\nNegative prompt: x{n}\nSteps: 20, Seed: 5"},
    "sdnext": lambda p, n: {"parameters": f"prompt: x{p}\nNegative prompt: x{n}\nSteps: 20 | Seed: 5"},
    "fooocus": lambda p, n: {"parameters": json.dumps(FOOOCUS | {"prompt": f"x{p}", "negative_prompt": f"x{n}"})},
    "novelai": lambda p, n: {"Comment": json.dumps(NOVELAI | {"prompt": f"x{p}", "uc": f"x{n}"})},
    "drawthings": lambda p, n: {"UserComment": json.dumps(DRAW_THINGS | {"c": f"x{p}", "uc": f"x{n}"})},
    "swarmui": lambda p, n: texts_of("swarmui", {"prompt": f"x{p}", "negativeprompt": f"x{n}"}),
    "invokeai": lambda p, n: texts_of("invokeai", {"prompt": f"x{p}[x{n}]"}),
    "easydiffusion": lambda p, n: texts_of(
        "easydiffusion", RECORDS["easydiffusion"] | {"prompt": f"x{p}", "negative_prompt": f"x{n}"}
    ),
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(words, words, st.sampled_from(list(WRITERS)))
def test_any_prompts_come_back(prompt: str, negative: str, source: str) -> None:
    info = read(source, **WRITERS[source](prompt, negative))
    found = info.fields["prompt"].strip(), info.fields["negative_prompt"].strip()
    assert found == (f"x{prompt}".strip(), f"x{negative}".strip())


NASTY = {
    "lists": "x\nSteps: 1, " + 'a: [{"b": ' * 6_000,
    "lists with commas": "x\nSteps: 1, " + 'a: [1, {"b": ' * 5_000,
    "bars": "Steps: 1 |" * 100_000,
    "abouts": "Version: a, " * 80_000 + "Steps: 1 | Seed: 7",
    "spaces": "Steps:" + " " * 900_000 + "|",
    "brackets": '"' + "[a" * 300_000 + '" -s 5',
    "switches": '"a" ' + "-s " * 300_000,
    "many objects": json.dumps({"sui_image_params": {str(n): [n] for n in range(60_000)}}),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_text_costs_little_and_raises_nothing(name: str) -> None:
    data = [png(**{key: NASTY[name]}) for key in ("parameters", "Dream", "Comment")]
    began = time.process_time()
    for each in data:
        read_text(each)
    assert time.process_time() - began < 3


def test_every_tool_has_a_name_for_people() -> None:
    assert all(title and title[0].isupper() for title, _ in DIALECTS.values())
