"""One rule by which a name means a file, and one list of what a picture names that is not on this machine."""

from __future__ import annotations

import json
import unicodedata
from io import BytesIO
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core import Engine, GenerationRequest, Settings
from core.errors import RequestError
from core.library.missing import KINDS, Missing
from core.library.names import meant, nearest, same_hash, the_one
from core.pictures import PictureInfo, read_text, said_hashes
from core.request import LANCZOS, Control, Hires, Lora
from tests import loras, tiny

HASH = "ab" * 32
KNOWN = [
    "é.safetensors",
    "SD15/mse.safetensors",
    "a/x.pt",
    "b/x.safetensors",
    "Pocket",
    "pocket.safetensors",
    "v1.5 b",
]


# Names


@pytest.mark.parametrize(
    ("name", "meant_by_it"),
    [
        (unicodedata.normalize("NFD", "É.SAFETENSORS"), "é.safetensors"),
        ("mse", "SD15/mse.safetensors"),
        ("sd15\\MSE.ckpt", "SD15/mse.safetensors"),
        ("C:\\stable\\models\\VAE\\mse.sft", "SD15/mse.safetensors"),
        ("other/mse.safetensors", "SD15/mse.safetensors"),
        ("B/X", "b/x.safetensors"),
        ("x", None),  # of a and of b
        ("pocket.safetensors", "pocket.safetensors"),
        ("POCKET", "Pocket"),
        ("v1.5 B", "v1.5 b"),
        ("v1", None),
        ("../SD15/mse", None),
        ("", None),
    ],
)
def test_a_name_means_a_file_by_the_strictest_reading_that_finds_one(name: str, meant_by_it: str | None) -> None:
    assert the_one(name, KNOWN) == meant_by_it


@given(name=st.text(max_size=30), known=st.lists(st.text(max_size=10), max_size=6))
def test_whatever_a_name_is_it_means_only_what_there_is(name: str, known: list[str]) -> None:
    assert set(meant(name, known)) <= set(known) and nearest(name, known) in (None, *known)
    assert all(each in meant(each, known) for each in known)


def test_the_nearest_is_told_by_its_name() -> None:
    near = "SD15/vae-ft-mse-840000.safetensors"
    assert nearest("vae-ft-mse-840000-ema-pruned.ckpt", [near, "x"]) == near
    assert nearest("dreamshaper", ["x"]) is None


def test_hashes_may_be_cut_short_but_not_to_nothing() -> None:
    assert same_hash("ABABABABAB", HASH) and same_hash(HASH, "abababab")
    assert not same_hash("ab", HASH) and not same_hash("abababac", HASH) and not same_hash("", "")


# What is here


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    models = tmp_path_factory.mktemp("models")
    made = tiny.sd()
    made.save_pretrained(models / "checkpoints" / "SD" / "Mine")
    made.vae.save_pretrained(models / "vae" / "SD15" / "vae-ft-mse")
    ink = loras.write(
        models / "loras" / "style" / "Ink.safetensors", loras.lora(loras.of(made)), sshs_model_hash=HASH
    )
    ink.with_suffix(".civitai.info").write_text(json.dumps({"sha256": "cd" * 32}))
    for name in ("XL/deep", "SD/deep", "easy (neg)"):
        loras.write(models / "embeddings" / f"{name}.safetensors", {"emb_params": torch.ones(2, 32)})
    return Engine(Settings(models=models, data=models / "data", previews=False))


def test_a_request_may_name_files_as_other_tools_do(engine: Engine) -> None:
    asked = GenerationRequest(prompt="a <lora:INK:0.5>", checkpoint="mine", vae="VAE-FT-MSE.safetensors", seed=1)
    resolved = engine.library.resolve(asked)
    assert (resolved.checkpoint, resolved.vae) == ("SD/Mine", "SD15/vae-ft-mse")
    assert resolved.loras == (Lora(name="style/Ink", weight=0.5),)
    assert engine.library.resolve(resolved) == resolved
    with pytest.raises(RequestError, match="VAE: “gone” is not allowed; use one of SD15/vae-ft-mse"):
        engine.library.resolve(GenerationRequest(vae="gone"))


def test_what_is_missing_is_named_and_the_rest_can_be_drawn(engine: Engine) -> None:
    fields: dict[str, Any] = {
        "prompt": "a <lora:gone:1> <lora:ink:0.5> embedding:XL/Deep.pt embedding:bad",
        "checkpoint": "SD/Mime",
        "vae": "vae-ft-mse-840000.safetensors",
        "refiner": "xl-refiner",
        "hires": Hires(upscaler="4x"),
        "loras": (Lora(name="ink"), Lora(name="wash")),
        "controls": (Control(net="canny"),),
        "steps": 3,
    }
    found = engine.library.at_hand(fields)
    assert found.missing == (
        Missing("checkpoint", "SD/Mime", "SD/Mine"),
        Missing("refiner", "xl-refiner"),
        Missing("vae", "vae-ft-mse-840000.safetensors", "SD15/vae-ft-mse"),
        Missing("upscaler", "4x"),
        Missing("lora", "wash"),
        Missing("controlnet", "canny"),
        Missing("lora", "gone"),
        Missing("embedding", "bad"),
    )
    assert {each.kind for each in found.missing} == set(KINDS)
    assert found.fields == {
        "prompt": "a  <lora:style/Ink:0.5> embedding:XL/Deep.pt embedding:bad",
        "vae": None,
        "refiner": None,
        "hires": Hires(upscaler=LANCZOS),
        "loras": (Lora(name="style/Ink"),),
        "controls": (),
        "steps": 3,
    }
    assert str(found.missing[2]) == (
        "VAE “vae-ft-mse-840000.safetensors” is not on this machine; the model's own takes its place. "
        "The nearest here is “SD15/vae-ft-mse”."
    )
    assert engine.library.resolve(GenerationRequest(**found.fields)).checkpoint == "SD/Mine"
    assert engine.library.at_hand(found.fields | {"prompt": "a"}).missing == ()


def test_embeddings_are_looked_for_as_prompts_name_them(engine: Engine) -> None:
    here = "embedding:easy \\(neg\\), (embedding:easy (neg):1.2), embedding:XL/deep. embedding:other\\DEEP.pt"
    found = engine.library.at_hand({"prompt": f"{here} # embedding:no", "negative_prompt": "embedding:bad\\(1\\)"})
    assert found.missing == (Missing("embedding", "bad(1)"),)
    assert engine.library.at_hand({}, {}, [("embedding", "deep"), ("embedding", "deeq")]).missing == (
        Missing("embedding", "deeq", "XL/deep"),
    )


@pytest.mark.parametrize("hash", [HASH[:12], "CD" * 16])
def test_a_file_that_was_renamed_is_told_by_its_hash(engine: Engine, hash: str) -> None:
    found = engine.library.at_hand({"loras": (Lora(name="Tusche"),)}, {"Tusche": hash})
    assert found.fields["loras"] == (Lora(name="style/Ink"),) and not found.missing
    assert engine.library.at_hand({"loras": (Lora(name="Tusche"),)}, {"Tusche": "00" * 16}).missing


# What pictures say


def picture(text: str) -> PictureInfo:
    texts, file = PngInfo(), BytesIO()
    texts.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=texts)
    return read_text(file.getvalue())


def test_hashes_are_read_wherever_a1111_writes_them() -> None:
    hashes = {"model": "6ce0161689", "lora:a, b": "0123456789ab", "embed:deep": "abcdef0123", "vae": "no hash"}
    line = (
        "a\nSteps: 6, Model hash: 1111111111, Model: mine, VAE hash: 2222222222, VAE: soft.pt, "
        f'Lora hashes: "ink: 333333333333, two words: 44444444aa", TI hashes: "x: 5555555555", '
        f"Hashes: {json.dumps(json.dumps(hashes))}"
    )
    said = said_hashes(picture(line))
    assert said.hashes == {
        **{"mine": "1111111111", "soft.pt": "2222222222", "ink": "333333333333", "two words": "44444444aa"},
        **{"a, b": "0123456789ab", "deep": "abcdef0123", "x": "5555555555"},
    }
    assert said.others == (("embedding", "deep"), ("embedding", "x"))


def test_networks_are_told_though_their_pictures_are_not_in_the_file() -> None:
    unit = '"Module: {}, Model: {}, Weight: 1, Resize Mode: Crop and Resize"'
    units = [("canny", "control_v11p_sd15_canny [d14c016b]"), ("reference_only", "None"), ("tile", "a/tile")]
    line = ", ".join(f"ControlNet {number}: {unit.format(*each)}" for number, each in enumerate(units))
    said = said_hashes(picture(f"a\nSteps: 6, {line}"))
    assert said.others == (("controlnet", "control_v11p_sd15_canny"), ("controlnet", "a/tile"))


def test_our_own_pictures_say_them_too() -> None:
    made_with = {
        "model_hash": "1" * 10,
        "lora_hash:style/ink": "2" * 10,
        "embedding_hash:deep": "3" * 10,
        "dtype": "x",
    }
    said = said_hashes(PictureInfo("darkroom", {"checkpoint": "mine"}, made_with=made_with))
    assert said.hashes == {"mine": "1" * 10, "style/ink": "2" * 10, "deep": "3" * 10}


TEXT = st.text(max_size=40)


@given(unknown=st.dictionaries(st.sampled_from(["Hashes", "Lora hashes", "TI hashes", "Model hash"]), TEXT))
def test_no_text_is_more_than_hashes(unknown: dict[str, str]) -> None:
    said = said_hashes(PictureInfo("a1111", {"checkpoint": "m"}, unknown))
    assert all(len(hash) >= 8 and int(hash, 16) >= 0 for hash in said.hashes.values())
