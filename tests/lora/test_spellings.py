"""One LoRA under the keys of every tool gives the same bits; what cannot be merged, or hardly fits, is said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.lora_conversion_utils import _convert_xlabs_flux_lora_to_diffusers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from core import Engine, GenerationRequest, Lora, Settings
from core.errors import DarkroomError
from core.library.lora_weights import read_lora
from core.library.loras import LoraInfo, LoraShelf
from core.lora import read_key
from core.lora.merging import Merger
from core.lora.names import _blocks, original
from tests import loras, tiny
from tests.lora.test_lora import bits, networks, same

QUICK = {"prompt": "a red circle", "seed": 7, "steps": 1, "width": 64, "height": 64}
Spelling = Callable[[str, str, str], str]
KOHYA, PEFT = {"down": "lora_down", "up": "lora_up"}, {"down": "lora_A", "up": "lora_B"}
PIPELINE, MERGER = tiny.sd(), Merger()
BLOCKS = dict(_blocks(PIPELINE.unet))


def comfy(path: str) -> str:
    """The original code's name, dots and all: ComfyUI's own keys have them."""
    block, _ = original(path.replace(".", "_"), BLOCKS).split("_transformer_blocks_0_")
    way, *numbers = re.match(r"(\w+?_blocks?)_(\d+)(?:_(\d+))?", block).groups()
    return ".".join([way, *filter(None, numbers), "transformer_blocks.0", path.split("transformer_blocks.0.")[1]])


def kohya(part: str, path: str, factor: str) -> str:
    name = path.replace(".", "_")
    return f"{'lora_unet_' if part == 'unet' else 'lora_te_text_model_'}{name}.{KOHYA[factor]}.weight"


def of_comfyui(part: str, path: str, factor: str) -> str:
    start = (
        f"diffusion_model.{comfy(path)}" if part == "unet" else f"text_encoders.clip_l.transformer.text_model.{path}"
    )
    return f"{start}.{KOHYA[factor]}.weight"


def of_first_diffusers(part: str, path: str, factor: str) -> str:
    if part == "unet":
        return f"{path.replace('.to_', '.processor.to_').replace('to_out.0', 'to_out')}_lora.{factor}.weight"
    return f"text_encoder.text_model.{path}.lora_linear_layer.{factor}.weight"


def plain(unet: str, text: str, end: str) -> Spelling:
    """`end` has A or B, or down or up, for {}."""
    names = PEFT if "lora_{}" in end else {"down": "down", "up": "up"}
    return lambda part, path, factor: (
        f"{unet if part == 'unet' else text}{path}{end.format(names[factor].removeprefix('lora_'))}"
    )


SPELLINGS: dict[str, Spelling] = {
    "ComfyUI": of_comfyui,
    "diffusers 2023": of_first_diffusers,
    "diffusers": plain("unet.", "text_encoder.text_model.", ".lora_{}.weight"),
    "diffusers, old factors": plain("unet.", "text_encoder.text_model.", ".lora.{}.weight"),
    "peft": plain("base_model.model.", "text_encoder.base_model.model.text_model.", ".lora_{}.weight"),
    "peft in a part": plain("unet.base_model.model.", "base_model.model.text_model.", ".lora_{}.weight"),
    "an adapter's name": plain("unet.", "text_encoder.text_model.", ".lora_{}.default.weight"),
    "another adapter's name": plain("base_model.model.", "base_model.model.text_model.", ".lora_{}.my-ink_2.weight"),
    "no weight": plain("unet.", "text_encoder.text_model.", ".lora_{}"),
    "bare": plain("", "text_model.", ".lora_{}.weight"),
    "compiled": plain("unet._orig_mod.", "text_encoder._orig_mod.text_model.", ".lora_{}.weight"),
    "a whole encoder's prefix": plain("unet.", "clip_l.transformer.text_model.", ".lora_{}.weight"),
    "OneTrainer": plain("unet.", "clip_l.text_model.", ".lora_{}.weight"),
    "OneTrainer, dots": plain("lora_unet.", "lora_te.text_model.", ".lora_{}.weight"),
    "SimpleTuner": lambda part, path, factor: (
        f"lycoris_{'' if part == 'unet' else 'text_model_'}{path.replace('.', '_')}.{KOHYA[factor]}.weight"
    ),
    "a whole model's prefix": lambda part, path, factor: (
        f"model.{of_comfyui(part, path, factor)}" if part == "unet" else of_comfyui(part, path, factor)
    ),
}


def factors() -> dict[tuple[str, str, str], torch.Tensor]:
    torch.manual_seed(1)
    shapes = {"unet": loras.weights(PIPELINE.unet, loras.ATTENTION)}
    shapes["text_encoder"] = loras.weights(PIPELINE.text_encoder, loras.CLIP)
    return {
        (part, path, name): tensor
        for part, own in shapes.items()
        for path, shape in own.items()
        for name, tensor in zip(("down", "up"), loras.factors(shape), strict=True)
    }


FACTORS = factors()


def spelled(spelling: Spelling) -> dict[str, torch.Tensor]:
    return {spelling(*name): tensor for name, tensor in FACTORS.items()}


def merged(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    file = read_lora(LoraShelf(path.parent).find(path.stem))
    with MERGER.merged(networks(PIPELINE), [(Lora(name=path.stem), file)]) as state:
        return bits(networks(PIPELINE)), str(state.reports[0])


@pytest.fixture(scope="module")
def as_kohya(tmp_path_factory) -> dict[str, torch.Tensor]:
    return merged(loras.write(tmp_path_factory.mktemp("kohya") / "it.safetensors", spelled(kohya)))[0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_gives_the_bits_of_kohyas(tmp_path, as_kohya, name):
    state = spelled(SPELLINGS[name])
    assert len(state) == len(FACTORS)
    found, report = merged(loras.write(tmp_path / "it.safetensors", state))
    assert same(found, as_kohya) and ": 44 of 44 layers merged" in report


def test_xlabs_keys_mean_what_they_mean_to_diffusers(tmp_path):
    model = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2, in_channels=4
    )
    sides = {f"double_blocks.0.processor.{kind}_lora{k}": kind for kind in ("qkv", "proj") for k in (1, 2)}
    sides |= {"single_blocks.0.processor.qkv_lora": "qkv", "single_blocks.0.processor.proj_lora": "single"}
    shapes = {"qkv": (48, 16), "proj": (16, 16), "single": (16, 80)}
    state = {
        f"{layer}.{way}.weight": tensor
        for layer, kind in sides.items()
        for way, tensor in zip(("down", "up"), loras.factors(shapes[kind]), strict=True)
    }
    drawn, merger = [], Merger()
    for number, keys in enumerate((state, _convert_xlabs_flux_lora_to_diffusers(dict(state)))):
        loras.write(tmp_path / f"{number}.safetensors", {key: tensor.clone() for key, tensor in keys.items()})
        file = read_lora(LoraShelf(tmp_path).find(str(number)))
        with merger.merged({"unet": model}, [(Lora(name=str(number)), file)]) as told:
            drawn.append(bits({"unet": model}))
            assert not told.reports[0].unmatched
    assert all(torch.allclose(drawn[0][name], drawn[1][name], atol=1e-6) for name in drawn[0])


def test_pefts_alpha_lies_beside_its_file(tmp_path):
    state = spelled(SPELLINGS["peft"])
    loras.write(tmp_path / "a" / "adapter_model.safetensors", state)
    loras.write(tmp_path / "b" / "adapter_model.safetensors", state)
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    (tmp_path / "b" / "adapter_config.json").write_text("[1")
    one, other = (read_lora(LoraShelf(tmp_path).find(f"{name}/adapter_model")) for name in "ab")
    assert {each.scale for each in one.factors.values()} == {0.5}
    assert {each.scale for each in other.factors.values()} == {1.0}


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("a1.weight", "GLoRA"),
        ("b2.weight", "GLoRA"),
        ("oft_blocks", "OFT"),
        ("oft_R.default.weight", "OFT"),
        ("boft_R", "BOFT"),
        ("on_input", "IA³"),
        ("ia3_l", "IA³"),
        ("vera_lambda_b", "VeRA"),
    ],
)
@pytest.mark.parametrize("start", ["lora_unet_mid_block_attentions_0_proj_in", "base_model.model.conv_in"])
def test_what_cannot_be_merged_is_refused_by_its_kind(tmp_path, start, end, kind):
    """Though its alphas look like those of any LoRA."""
    loras.write(tmp_path / "it.safetensors", {f"{start}.{end}": torch.ones(2, 2), f"{start}.alpha": torch.ones(())})
    (info,) = LoraShelf(tmp_path)
    assert info.problem == f"it is of a kind ({kind}) that Darkroom cannot merge"


# what hardly fits, and embeddings in a LoRA's file


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("models")
    PIPELINE.save_pretrained(folder / "checkpoints" / "tiny")
    known, odd = spelled(kohya), {f"lora_unet_elsewhere_{k}.lora_up.weight": torch.ones(2, 2) for k in range(12)}
    loras.write(folder / "loras" / "most.safetensors", known | dict([*odd.items()][:9]))
    loras.write(folder / "loras" / "some.safetensors", known | odd)
    word = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    loras.write(folder / "loras" / "bundle.safetensors", known | {"bundle_emb.my.word.string_to_param.*": word})
    loras.write(folder / "loras" / "alone.safetensors", known)
    loras.write(folder / "embeddings" / "outside.safetensors", {"emb_params": word})
    return Engine(Settings(models=folder, previews=False))


@pytest.mark.parametrize(("name", "fits"), [("most", True), ("some", False)])
def test_a_lora_of_which_under_90_percent_fit_is_said_before_the_run(engine, name, fits):
    tensors = len(FACTORS) + (9 if fits else 12)
    resolved = engine.library.resolve(GenerationRequest(**QUICK, loras=(Lora(name=name),)))
    said = engine.notes(resolved)
    assert said == (() if fits else (f"tiny has a place for only 88 of {tensors} tensors of LoRA {name}",))
    assert engine.notes(resolved.replace(loras=(Lora(name=name, weight=0.0),))) == ()


def drawn(engine: Engine, prompt: str, name: str) -> tuple[bytes, tuple[str, ...]]:
    *_, last = engine.generate(GenerationRequest(**QUICK | {"prompt": prompt}, loras=(Lora(name=name),)))
    return last.images[0].tobytes(), last.notes


def test_words_that_a_lora_brings_work_with_it_alone(engine):
    wanted = drawn(engine, "a outside, big", "alone")
    assert drawn(engine, "a my.word, big", "bundle") == wanted
    assert drawn(engine, "a embedding:my.word, big", "bundle") == wanted
    without, notes = drawn(engine, "a embedding:my.word, big", "alone")
    assert without != wanted[0] and notes == ("“embedding:my.word” is left out: the embedding is not here",)
    assert not read_lora(engine.library._loras.find("bundle")).unknown


KEYS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(sorted(key for spelling in SPELLINGS.values() for key in spelled(spelling))),
    st.builds("{}.{}".format, st.text(max_size=12), st.sampled_from(["lora_A.weight", "alpha", "diff", "on_input"])),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(KEYS.filter(lambda key: key != "__metadata__"), st.integers(0, 3), max_size=4))
def test_no_keys_make_anything_but_our_errors(tmp_path, keys):
    for key in keys:
        read_key(key)
    save_file({key: torch.ones((2,) * size) for key, size in keys.items()}, tmp_path / "it.safetensors")
    (info,) = LoraShelf(tmp_path)
    assert isinstance(info, LoraInfo)
    if not info.problem:
        with suppress(DarkroomError):
            merged(tmp_path / "it.safetensors")
