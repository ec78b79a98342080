"""ComfyUI's graphs are followed through the nodes that are known; what is not sure is not filled in."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.pictures.metadata import PictureInfo, read_text
from core.request.generation import GenerationRequest
from core.request.units import Lora
from tests.files import commented, png

Nodes = dict[str, Any]


def node(kind: str, **inputs: Any) -> Nodes:
    return {"class_type": kind, "inputs": inputs}


def graph(**changes: Any) -> Nodes:
    """A plain graph with other nodes, or more."""
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name="XL\\dream.safetensors"),
        "text": node("CLIPTextEncode", text="a fox", clip=["model", 1]),
        "not": node("CLIPTextEncode", text="blurry", clip=["model", 1]),
        "empty": node("EmptyLatentImage", width=768, height=512, batch_size=1),
        "sampler": node(
            "KSampler", seed=77, steps=20, cfg=7.0, sampler_name="euler", scheduler="normal", denoise=1,
            model=["model", 0], positive=["text", 0], negative=["not", 0], latent_image=["empty", 0],
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="x"),
        **changes,
    }  # fmt: skip


FIELDS = {
    "prompt": "a fox", "negative_prompt": "blurry", "checkpoint": "dream", "seed": 77, "steps": 20,
    "guidance_scale": 7.0, "sampler": "Euler", "width": 768, "height": 512,
}  # fmt: skip


def read(nodes: Nodes) -> PictureInfo:
    info = read_text(png(prompt=json.dumps(nodes)))
    assert info.source == "comfyui"
    return info


def sampler(**inputs: Any) -> Nodes:
    return node("KSampler", **{**graph()["sampler"]["inputs"], **inputs})


def without(*names: str) -> Nodes:
    return {name: value for name, value in FIELDS.items() if name not in names}


def test_a_plain_graph_in_any_text() -> None:
    assert read(graph()).fields == FIELDS and read(graph()).unknown == {}
    both = json.dumps({"prompt": graph(), "workflow": {"nodes": []}})
    for text in (json.dumps(graph()), both):
        assert read_text(commented(b"UNICODE\0" + text.encode("utf-16-be"))).fields == FIELDS


# LoRAs and files


def test_rgthrees_power_lora_loader() -> None:
    loader = node(
        "Power Lora Loader (rgthree)", model=["model", 0], clip=["model", 1], Header={"type": "x"},
        lora_1={"on": True, "lora": "XL\\ink.safetensors", "strength": 0.8},
        lora_2={"on": False, "lora": "off.safetensors", "strength": 1},
        lora_3={"on": True, "lora": "wash.safetensors", "strength": 1, "strengthTwo": 0.5},
    )  # fmt: skip
    info = read(graph(loras=loader, sampler=sampler(model=["loras", 0])))
    loras = (Lora(name="ink", weight=0.8), Lora(name="wash", text_encoder_weight=0.5))
    assert info.fields == {**FIELDS, "loras": loras} and info.unknown == {}


def test_efficient_loader() -> None:
    loader = node(
        "Efficient Loader", ckpt_name="dream.safetensors", vae_name="Baked VAE", clip_skip=-2, lora_name="ink",
        lora_model_strength=0.8, lora_clip_strength=0.8, positive="a fox", negative="blurry",
        token_normalization="none", weight_interpretation="A1111", empty_latent_width=768, empty_latent_height=512,
        batch_size=1,
    )  # fmt: skip
    inputs = {"model": ["l", 0], "positive": ["l", 1], "negative": ["l", 2], "latent_image": ["l", 3]}
    nodes = {"l": loader, "s": node("KSampler (Efficient)", **{**graph()["sampler"]["inputs"], **inputs})}
    info = read(nodes)
    assert info.fields == {**FIELDS, "clip_skip": 2, "loras": (Lora(name="ink", weight=0.8),)}
    loader["inputs"] |= {"lora_name": "None", "positive": ["t", 0]}
    info = read(nodes | {"t": node("PrimitiveStringMultiline", value="a hen")})
    assert info.fields == {**FIELDS, "prompt": "a hen", "clip_skip": 2}


def test_stacks_of_loras() -> None:
    last = node(
        "LoRA Stacker", input_mode="simple", lora_count=1, lora_name_1="ink.safetensors", lora_wt_1=0.8,
        model_str_1=0.1, clip_str_1=0.2, lora_name_2="beyond.safetensors", lora_wt_2=1, lora_stack=["first", 0],
    )  # fmt: skip
    first = node(
        "CR LoRA Stack", switch_1="On", lora_name_1="wash.safetensors", model_weight_1=1, clip_weight_1=0.5,
        switch_2="Off", lora_name_2="off.safetensors", model_weight_2=1, clip_weight_2=1, lora_name_3="None",
    )  # fmt: skip
    apply = node("CR Apply LoRA Stack", model=["model", 0], clip=["model", 1], lora_stack=["last", 0])
    nodes = graph(apply=apply, last=last, first=first, sampler=sampler(model=["apply", 0]))
    assert read(nodes).fields["loras"] == (Lora(name="wash", text_encoder_weight=0.5), Lora(name="ink", weight=0.8))
    last["inputs"] |= {"input_mode": "advanced", "lora_stack": ["last", 0]}
    assert read(nodes).fields["loras"][-1] == Lora(name="ink", weight=0.1, text_encoder_weight=0.2)


def test_a_vae_of_its_own_file_if_all_decode_with_it() -> None:
    vae = node("VAELoader", vae_name="XL\\fix.safetensors")
    decode = node("VAEDecode", samples=["sampler", 0], vae=["vae", 0])
    info = read(graph(vae=vae, decode=decode))
    assert info.fields == {**FIELDS, "vae": "fix.safetensors"} and info.unknown == {}
    other = node("VAEDecodeTiled", samples=["sampler", 0], vae=["model", 2])
    assert "vae" not in read(graph(vae=vae, decode=decode, other=other)).fields


def test_of_merged_models_none_is_filled_in() -> None:
    merged = node("ModelMergeSimple", model1=["model", 0], model2=["b", 0], ratio=0.5)
    other = node("CheckpointLoaderSimple", ckpt_name="other.safetensors")
    info = read(graph(merge=merged, b=other, sampler=sampler(model=["merge", 0])))
    assert info.fields == without("checkpoint") and info.unknown == {"Node merge": "ModelMergeSimple"}


# Texts and numbers

WORDS = ["words", 0]


@pytest.mark.parametrize(
    ("joined", "prompt"),
    [
        (node("StringConcatenate", string_a="a fox", string_b=WORDS, delimiter=", "), "a fox, in snow"),
        (node("JoinStrings", string1="a fox", string2=WORDS, delimiter=" "), "a fox in snow"),
        (node("CR Text Concatenate", text1="a fox", text2=WORDS, separator=" - "), "a fox - in snow"),
        (
            node("Text Concatenate", delimiter="\\n", clean_whitespace="true", text_a=" a fox ", text_c=WORDS),
            "a fox\nin snow",
        ),
        (
            node("StringFunction|pysssss", action="append", tidy_tags="yes", text_a="a fox", text_b=WORDS, text_c=""),
            "a fox, in snow",
        ),
        (node("StringConcatenate", string_a="a fox", string_b=["nowhere", 0], delimiter=", "), None),
        (node("StringFunction|pysssss", action="replace", text_a="a fox", text_b="fox", text_c="hen"), None),
        (node("Text Find and Replace", text="a fox", find="fox", replace="hen"), None),
        (node("Random Prompts", text="{a fox|a hen}", seed=5), None),
        (node("StringTrim", string="  a fox  ", trim="both"), None),
        (node("ShowText|pysssss", text=WORDS, text_0="an old one"), "in snow"),
        (node("ImpactWildcardProcessor", wildcard_text="__a__", populated_text="a fox", seed=3), "a fox"),
        (node("Any Switch (rgthree)", any_02=WORDS), "in snow"),
        (node("Reroute", **{"": WORDS}), "in snow"),
    ],
)  # fmt: skip
def test_texts_that_nodes_make(joined: Nodes, prompt: str | None) -> None:
    text = node("CLIPTextEncode", text=["joined", 0], clip=["model", 1])
    words = node("PrimitiveString", value="in snow")
    info = read(graph(text=text, joined=joined, words=words))
    assert info.fields.get("prompt") == prompt
    assert {**info.fields, "prompt": ""} == {**FIELDS, "prompt": ""}


@pytest.mark.parametrize(
    ("maker", "seed"),
    [
        (node("PrimitiveInt", value=5, control_after_generate="fixed"), 5),
        (node("Seed (rgthree)", seed=5), 5),
        (node("PrimitiveInt", value=["more", 0]), 6),
        (node("MathExpression", a=5, b=3, expression="a*b"), None),
        (node("IntMultiply", value=5, by=2), None),
        (node("IntNegate", value=["more", 0], by=2), None),
        (node("Double", value=5, operation="twice"), None),
    ],
)
def test_numbers_that_nodes_make(maker: Nodes, seed: int | None) -> None:
    info = read(graph(maker=maker, more=node("PrimitiveInt", value=6), sampler=sampler(seed=["maker", 0])))
    assert info.fields.get("seed") == seed and without("seed").items() <= info.fields.items()


# Conditionings


def test_conditionings_one_after_the_other_are_break() -> None:
    both = node("ConditioningConcat", conditioning_to=["text", 0], conditioning_from=["more", 0])
    more = node("CLIPTextEncode", text="in snow", clip=["model", 1])
    info = read(graph(both=both, more=more, sampler=sampler(positive=["both", 0])))
    assert info.fields == {**FIELDS, "prompt": "a fox BREAK in snow"} and info.unknown == {}


@pytest.mark.parametrize(
    "mixed",
    [
        node("ConditioningCombine", conditioning_1=["text", 0], conditioning_2=["more", 0]),
        node("ConditioningAverage", conditioning_to=["text", 0], conditioning_from=["more", 0], strength=0.5),
        node("ConditioningSetArea", conditioning=["text", 0], width=64, height=64),
        node("ConditioningSetTimestepRange", conditioning=["text", 0], start=0, end=0.5),
    ],
)
def test_a_prompt_that_is_not_sure_is_listed(mixed: Nodes) -> None:
    more = node("CLIPTextEncode", text="in snow", clip=["model", 1])
    info = read(graph(mixed=mixed, more=more, sampler=sampler(positive=["mixed", 0])))
    assert info.fields == without("prompt")
    assert "a fox" in info.unknown["positive"] and info.unknown["Node mixed"] == mixed["class_type"]


def test_xls_two_texts() -> None:
    def encoder(first: str, second: str) -> Nodes:
        sizes = {"width": 1024, "height": 1024, "crop_w": 0, "crop_h": 0, "target_width": 1024, "target_height": 1024}
        return node("CLIPTextEncodeSDXL", text_l=first, text_g=second, clip=["model", 1], **sizes)

    assert read(graph(text=encoder("a fox", "a fox"))).fields == FIELDS
    assert read(graph(text=encoder("a fox", "snow"))).fields == {**FIELDS, "prompt_2": "snow"}


def test_fluxs_two_texts_and_its_guidance() -> None:
    text = node("CLIPTextEncodeFlux", clip_l="a fox", t5xxl="a fox in snow", guidance=2.5, clip=["model", 1])
    info = read(graph(text=text))
    assert info.fields == {**FIELDS, "prompt_2": "a fox in snow", "distilled_guidance": 2.5}


def test_a_controlnets_outputs_are_its_sides_however_they_are_wired() -> None:
    control = node("ControlNetApplyAdvanced", positive=["text", 0], negative=["not", 0], strength=1)
    swapped = sampler(positive=["control", 1], negative=["control", 0])
    info = read(graph(control=control, sampler=swapped))
    assert (info.fields["prompt"], info.fields["negative_prompt"]) == ("blurry", "a fox")
    passed = {"r": node("Reroute", x=["control", 1]), "sampler": sampler(positive=["control", 0], negative=["r", 0])}
    assert read(graph(control=control, **passed)).fields == FIELDS


# Samplers


def test_a_sampler_in_parts() -> None:
    parts = {
        "noise": node("RandomNoise", noise_seed=77),
        "guider": node("CFGGuider", model=["model", 0], positive=["text", 0], negative=["not", 0], cfg=7.0),
        "select": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=20, denoise=1),
    }
    links = {"sampler": ["select", 0], "sigmas": ["sigmas", 0], "latent_image": ["empty", 0]}
    whole = node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], **links)
    assert read(graph(**parts, sampler=whole)).fields == FIELDS
    inputs = {"model": ["model", 0], "positive": ["text", 0], "negative": ["not", 0], "cfg": 7.0, "noise_seed": 77}
    assert read(graph(**parts, sampler=node("SamplerCustom", **inputs, **links))).fields == FIELDS
    parts |= {
        "select": node("SamplerEulerAncestral", eta=1.0),
        "sigmas": node("SplitSigmas", sigmas=["x", 0], step=5),
    }
    info = read(graph(**parts, sampler=whole))
    assert info.fields == without("sampler", "steps") and info.unknown["Node select"] == "SamplerEulerAncestral"


def advanced(**inputs: Any) -> Nodes:
    given = {**graph()["sampler"]["inputs"], "noise_seed": 77, "add_noise": "enable", **inputs}
    return node("KSamplerAdvanced", **{key: value for key, value in given.items() if key not in ("seed", "denoise")})


def test_an_advanced_sampler_and_a_refiner_that_goes_on() -> None:
    assert read(graph(sampler=advanced(start_at_step=0, end_at_step=10_000))).fields == FIELDS
    base = advanced(start_at_step=0, end_at_step=16)
    refined = advanced(
        start_at_step=16, end_at_step=10_000, add_noise="disable", latent_image=["sampler", 0], model=["refine", 0]
    )
    loader = node("CheckpointLoaderSimple", ckpt_name="refine.safetensors")
    decode = node("VAEDecode", samples=["more", 0], vae=["model", 2])
    info = read(graph(sampler=base, more=refined, refine=loader, decode=decode))
    assert info.fields == {**FIELDS, "refiner": "refine", "refiner_start": 0.8}
    alone = read(graph(sampler=advanced(start_at_step=5, end_at_step=16)))
    assert alone.fields == FIELDS and alone.unknown == {"start_at_step": "5", "end_at_step": "16"}


def test_of_several_samplers_what_they_agree_on() -> None:
    second = sampler(seed=5, positive=["not", 0])
    decode = node("VAEDecode", samples=["second", 0], vae=["model", 2])
    branch = {"second": second, "decode 2": decode}
    assert read(graph(**branch)).fields == FIELDS  # nothing keeps the second one's picture
    info = read(graph(**branch, save_2=node("SaveImage", images=["decode 2", 0])))
    assert info.fields == without("seed", "prompt")
    assert set(json.loads(info.unknown["seed"])) == {5, 77}


def test_a_second_pass_is_listed() -> None:
    larger = node("LatentUpscale", samples=["sampler", 0], width=1536, height=1024)
    again = sampler(latent_image=["larger", 0], denoise=0.5, seed=1, steps=9)
    decode = node("VAEDecode", samples=["again", 0], vae=["model", 2])
    info = read(graph(larger=larger, again=again, decode=decode))
    assert info.fields == FIELDS and info.unknown == {"Node larger": "LatentUpscale", "Node again": "KSampler"}


# The hostile

CIRCLES = {
    "a joined text": graph(
        text=node("CLIPTextEncode", text=["j", 0], clip=["model", 1]),
        j=node("StringConcatenate", **{f"text_{letter}": ["j", 0] for letter in "abcdefghijkl"}, delimiter=""),
    ),
    "a reroute": graph(text=node("Reroute", **{"": ["text", 0]})),
    "a model": graph(model=node("ModelSamplingFlux", model=["model", 0])),
    "a conditioning": graph(
        text=node("ConditioningConcat", conditioning_to=["text", 0], conditioning_from=["text", 0])
    ),
    "a text encoder": graph(text=node("CLIPTextEncode", text="a fox", clip=["text", 0])),
    "latents": graph(sampler=sampler(latent_image=["sampler", 0])),
    "doubled texts": graph(
        text=node("CLIPTextEncode", text=["1", 0], clip=["model", 1]),
        **{
            str(n): node("StringConcatenate", string_a=[str(n + 1), 0], string_b=[str(n + 1), 0], delimiter="")
            for n in range(1, 60)
        },
        **{"60": node("PrimitiveString", value="fox " * 2_000)},
    ),
    "a long chain": graph(
        sampler=sampler(positive=["0", 0], model=["0", 0]),
        **{str(n): node("X", model=[str(n + 1), 0], conditioning=[str(n + 1), 0]) for n in range(8_000)},
    ),
    "many samplers": {str(n): sampler(latent_image=[str(n + 1), 0]) for n in range(3_000)},
}  # fmt: skip


@pytest.mark.parametrize("name", CIRCLES)
def test_circles_and_depths_end_soon(name: str) -> None:
    began = time.process_time()
    fields = read(CIRCLES[name]).fields
    assert fields.keys() <= FIELDS.keys() and time.process_time() - began < 2


inputs = st.dictionaries(
    st.sampled_from(
        ["text", "value", "positive", "negative", "model", "conditioning", "conditioning_to", "conditioning_from", "",
         "latent_image", "text_a", "text_b", "delimiter", "seed", "clip", "lora_name", "strength_model", "lora_stack",
         "steps", "sampler", "sigmas", "sampler_name", "ckpt_name", "width", "height", "batch_size"]
    ),
    st.integers(0, 99) | st.sampled_from(["words", "euler"])
    | st.tuples(st.sampled_from(["0", "1", "2", "3", "text", "sampler"]), st.integers(0, 2)).map(list)
    | st.none() | st.floats() | st.lists(st.integers(), max_size=3),
    max_size=8,
)  # fmt: skip
kinds = st.sampled_from(
    [
        "KSampler",
        "Reroute",
        "StringConcatenate",
        "ConditioningConcat",
        "VAEDecode",
        "SaveImage",
        "X",
        "LoraLoader",
        "SamplerCustom",
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["0", "1", "2", "3", "text", "sampler"]), st.builds(node, kinds), max_size=6),
    st.data(),
)
def test_any_graph_raises_nothing_and_fills_only_its_own(nodes: Nodes, data: st.DataObject) -> None:
    for each in nodes.values():
        each["inputs"] = data.draw(inputs)
    info = read(graph(**nodes))
    for name, kept in info.fields.items():
        GenerationRequest(**{name: kept})
    said = {"a fox", "blurry", "words", "euler"}
    for name in ("prompt", "negative_prompt"):
        parts = str(info.fields.get(name, "")).replace(" BREAK ", " ")
        assert not parts or any(word in parts for word in said)
