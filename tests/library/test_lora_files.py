"""The LoRAs of a folder, told from their headers; and files that nobody should have made."""

from __future__ import annotations

import json
import math
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from core.errors import LoraError, RequestError
from core.library.checkpoints import Checkpoint
from core.library.lora_weights import read_lora
from core.library.loras import LoraInfo, LoraShelf
from core.request.units import Lora
from tests import loras

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SD1, SDXL = (Checkpoint(name, name.upper(), name, context_width=w) for name, w in (("sd1", 768), ("sdxl", 2048)))


def pair(width: int = 768, rank: int = 8, **more: Any) -> dict[str, torch.Tensor]:
    state = {f"{KEY}.lora_down.weight": torch.ones(rank, width), f"{KEY}.lora_up.weight": torch.ones(320, rank)}
    return state | {key: torch.as_tensor(value) for key, value in more.items()}


def only(folder: Path) -> LoraInfo:
    (info,) = LoraShelf(folder)
    return info


# what headers tell


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl"), (128, None)])
def test_family_and_rank_come_from_the_shapes(tmp_path: Path, width: int, family: str | None) -> None:
    loras.write(tmp_path / "ink.safetensors", pair(width, 16))
    info = only(tmp_path)
    assert (info.name, info.format, info.family, info.width, info.rank) == ("ink", "LoRA", family, width, 16)
    assert info.problem is None


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-3-medium/lora"}, "sd3"),
        ({"ss_base_model_version": "flux1"}, "flux"),
        ({}, None),
    ],
)
def test_else_the_family_comes_from_what_the_trainer_wrote(
    tmp_path: Path, metadata: dict, family: str | None
) -> None:
    state = {f"{KEY.replace('attn2', 'attn1')}.lora_{end}.weight": torch.ones(4, 4) for end in ("up", "down")}
    loras.write(tmp_path / "a.safetensors", state, **metadata)
    assert only(tmp_path).family == family


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (pair(**{f"{KEY}.dora_scale": torch.ones(320, 1)}), "DoRA"),
        ({f"lora_unet_a.lora_{end}.weight": torch.ones(4, 4, k, k) for end, k in (("down", 3), ("up", 1))}, "LoCon"),
        ({f"lora_unet_a.hada_w{k}_{h}": torch.ones(4, 4) for k in "12" for h in "ab"}, "LoHa"),
        ({f"lora_unet_a.lokr_w{k}": torch.ones(4, 4) for k in "12"}, "LoKr"),
        ({"unet.a.lora_A.weight": torch.ones(4, 4), "unet.a.lora_B.weight": torch.ones(4, 4)}, "LoRA"),
    ],
)  # fmt: skip
def test_the_format_is_named(tmp_path: Path, state: dict, kind: str) -> None:
    loras.write(tmp_path / "a.safetensors", state)
    assert only(tmp_path).format == kind


def test_trigger_words_notes_and_preview(tmp_path: Path) -> None:
    tags = {"10_ink": {"ink style": 30, "cat": 2}, "5_more": {"cat": 9, "1girl": 1}}
    loras.write(tmp_path / "ink.safetensors", pair(), ss_tag_frequency=tags)
    loras.write(tmp_path / "wash.safetensors", pair(), **{"modelspec.trigger_phrase": "a wash, in grey"})
    (tmp_path / "ink.txt").write_text("Best at 0.7.")
    Image.new("RGB", (8, 8)).save(tmp_path / "ink.preview.png")
    ink, wash = LoraShelf(tmp_path)
    assert (ink.words, ink.notes, ink.preview) == (
        ("ink style", "cat", "1girl"),
        "Best at 0.7.",
        tmp_path / "ink.preview.png",
    )
    assert (wash.words, wash.notes, wash.preview) == (("a wash", "in grey"), "", None)
    (tmp_path / "wash.json").write_text(json.dumps({"activation text": "grey wash", "notes": "thin"}))
    assert [(info.words, info.notes) for info in LoraShelf(tmp_path) if info.name == "wash"] == [
        (("grey wash",), "thin")
    ]


@pytest.mark.parametrize("told", ["[" * 5000, "[1]", '{"a": [1]}', '{"a": {"b": "x"}}', "{"])
def test_metadata_that_makes_no_sense_is_passed_over(tmp_path: Path, told: str) -> None:
    loras.write(tmp_path / "a.safetensors", pair(), ss_tag_frequency=told, lora_adapter_metadata=told)
    (tmp_path / "a.json").write_text(told)
    assert only(tmp_path).words == () and only(tmp_path).problem is None
    assert read_lora(only(tmp_path)).factors


# finding


def test_names_are_paths_in_the_folder_and_a_files_own_name_is_enough_where_it_is_the_only_one(
    tmp_path: Path,
) -> None:
    for name in ("v1.5 final", "style/ink", "style/deep/wash", "more/wash"):
        loras.write(tmp_path / f"{name}.safetensors", pair())
    shelf = LoraShelf(tmp_path)
    assert [info.name for info in shelf] == ["more/wash", "style/deep/wash", "style/ink", "v1.5 final"]
    resolved = shelf.resolve([Lora(name="ink", weight=0.5), Lora(name="v1.5 final")], SD1)
    assert resolved == (Lora(name="style/ink", weight=0.5), Lora(name="v1.5 final"))
    with pytest.raises(RequestError, match="LoRA: “wash” is not allowed; use one of more/wash, style/deep/wash"):
        shelf.find("wash")


def test_a_file_that_was_renamed_answers_to_what_its_maker_called_it(tmp_path: Path) -> None:
    """A1111 writes `ss_output_name` into prompts."""
    loras.write(tmp_path / "my ink.safetensors", pair(), ss_output_name="ink_v3")
    loras.write(tmp_path / "wash.safetensors", pair(), ss_output_name="my ink")
    shelf = LoraShelf(tmp_path)
    assert [shelf.find(name).name for name in ("ink_v3", "my ink", "wash")] == ["my ink", "my ink", "wash"]


def test_numbers_of_8_bits_are_read(tmp_path: Path) -> None:
    half = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in pair().items()}
    loras.write(tmp_path / "a.safetensors", half)
    assert read_lora(only(tmp_path)).factors
    loras.write(tmp_path / "a.safetensors", half | {DOWN: torch.full((8, 768), float("nan")).to(torch.float8_e4m3fn)})
    with pytest.raises(LoraError, match="not finite numbers"):
        read_lora(only(tmp_path))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "x" * 300, "a\\b"])
def test_other_names_open_nothing(tmp_path: Path, name: str) -> None:
    loras.write(tmp_path / "loras" / "ink.safetensors", pair())
    loras.write(tmp_path / "x.safetensors", pair())
    with pytest.raises(RequestError, match=r"LoRA: “.*” is not allowed; use one of ink") as caught:
        LoraShelf(tmp_path / "loras").find(name)
    assert caught.value.field == "loras"


def test_no_folder_and_an_empty_one_say_so(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RequestError, match="use none, as there is no LoRA"):
            LoraShelf(folder).find("a")


def test_another_family_or_size_is_refused_by_name(tmp_path: Path) -> None:
    loras.write(tmp_path / "xl.safetensors", pair(2048))
    loras.write(tmp_path / "small.safetensors", pair(128))
    shelf = LoraShelf(tmp_path)
    with pytest.raises(
        LoraError, match="LoRA: xl cannot be used: it is made for Stable Diffusion XL, SD1 is another"
    ):
        shelf.resolve([Lora(name="xl")], SD1)
    with pytest.raises(
        LoraError, match="small cannot be used: it is made for text embeddings 128 wide, those of SDXL"
    ):
        shelf.resolve([Lora(name="small")], SDXL)
    assert shelf.resolve([Lora(name="xl")], SDXL)


@pytest.mark.parametrize(
    ("layer", "family"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", "flux"),
        ("transformer.single_transformer_blocks.3.proj_mlp", "flux"),
        ("diffusion_model.single_blocks.3.linear1", "flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "sd3"),
        ("lora_transformer_transformer_blocks_0_attn_to_q", None),
    ],
)
def test_a_transformers_layers_tell_its_family(tmp_path: Path, layer: str, family: str | None) -> None:
    state = {f"{layer}.lora_down.weight": torch.ones(4, 8), f"{layer}.lora_up.weight": torch.ones(8, 4)}
    loras.write(tmp_path / "it.safetensors", state | {"lora_te2_a_q_proj.lora_down.weight": torch.ones(4, 8)})
    assert (only(tmp_path).family, only(tmp_path).problem) == (family, None)
    if family:
        with pytest.raises(LoraError, match="SD1 is another family"):
            LoraShelf(tmp_path).resolve([Lora(name="it")], SD1)


# bad files


def write_header(path: Path, header: dict[str, Any], data: bytes = b"") -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def no_tensors(path: Path) -> None:
    write_header(path, {})


def many_tensors(path: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write_header(path, {f"lora_unet_{k}.lora_down.weight": entry for k in range(200_000)})


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"lora": 1}, protocol=2))


def a_zip(path: Path) -> None:
    torch.save(pair(), path)


def half_a_file(path: Path) -> None:
    loras.write(path, pair())
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nested(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000)


def a_shape_of_words(path: Path) -> None:
    write_header(path, {f"{KEY}.lora_down.weight": {"dtype": "F32", "shape": "wide", "data_offsets": [0, 0]}})


def for_flux(path: Path) -> None:
    loras.write(path, {"lora_unet_double_blocks_0_img_attn_qkv.oft_blocks": torch.ones(2)})


def a_checkpoint(path: Path) -> None:
    loras.write(path, {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)})


def an_embedding(path: Path) -> None:
    loras.write(path, {"emb_params": torch.ones(2, 768)})


def something_else(path: Path) -> None:
    loras.write(path, {"<img src=x onerror=alert(1)>": torch.ones(2)})


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (no_tensors, "it holds no tensors"),
        (many_tensors, "it has 200,000 tensors; no LoRA has more than 20,000"),
        (a_pickle, "it is a pickle with the ending .safetensors"),
        (a_zip, "it is a pickle with the ending .safetensors"),
        (half_a_file, "it is damaged or not fully copied"),
        (empty, "it is damaged or not fully copied"),
        (nested, "it is damaged or not fully copied"),
        (a_shape_of_words, "its header makes no sense"),
        (for_flux, "it is of a kind (OFT) that Darkroom cannot merge"),
        (a_checkpoint, "it is a whole model, which belongs into models/checkpoints"),
        (an_embedding, "it is an embedding, which belongs into models/embeddings"),
        (something_else, "it holds no LoRA that Darkroom knows"),
    ],
)
def test_a_bad_file_is_listed_with_its_reason_and_refused(tmp_path: Path, harm: Any, problem: str) -> None:
    harm(tmp_path / "bad.safetensors")
    loras.write(tmp_path / "good.safetensors", pair())
    shelf = LoraShelf(tmp_path)
    assert problem in str(shelf.find("bad").problem) and shelf.find("good").problem is None
    with pytest.raises(LoraError, match="LoRA: bad cannot be used: it") as caught:
        shelf.resolve([Lora(name="bad")], SD1)
    assert str(tmp_path) not in str(caught.value)


def test_pickles_are_listed_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "old.pt").write_bytes(b"")
    assert (only(tmp_path).name, only(tmp_path).problem) == (
        "old.pt",
        "it is a pickle, which is never loaded; convert it to .safetensors, for example with "
        "safetensors.torch.save_file(torch.load(FILE, weights_only=True)['state_dict'], NEW_FILE)",
    )


DOWN, UP = f"{KEY}.lora_down.weight", f"{KEY}.lora_up.weight"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({DOWN: torch.full((8, 768), math.nan)}, "unet down_blocks_0.*attn2_to_k holds values that are not finite"),
        ({UP: torch.full((320, 8), math.inf)}, "not finite numbers"),
        ({f"{KEY}.alpha": torch.tensor(math.nan)}, "not finite numbers"),
        ({f"{KEY}.alpha": torch.tensor(1e30)}, r"has an alpha of 1e\+30"),
        ({f"{KEY}.alpha": torch.tensor(1e30, dtype=torch.float64) * 1e200}, "has an alpha of 1e"),
        ({DOWN: torch.ones(8, 768, dtype=torch.int8)}, "not finite numbers"),
        ({UP: None}, "has only down, which make no difference of any format"),
        ({f"{KEY}.hada_w1_a": torch.ones(2, 2)}, "has only down, hada_w1_a, up, which"),
        ({UP: None, DOWN: None, f"{KEY}.alpha": torch.tensor(1.0)}, "has only an alpha"),
    ],
)  # fmt: skip
def test_values_that_no_trainer_writes_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    loras.write(tmp_path / "a.safetensors", {k: t for k, t in (pair() | changes).items() if t is not None})
    with pytest.raises(LoraError, match=f"LoRA: a cannot be used: .*{words}"):
        read_lora(only(tmp_path))


def test_a_file_that_is_gone_or_was_cut_since_it_was_listed(tmp_path: Path) -> None:
    path = loras.write(tmp_path / "a.safetensors", pair())
    info = only(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(LoraError, match="a cannot be used: it is damaged, or no longer there"):
        read_lora(info)
    path.unlink()
    with pytest.raises(LoraError, match="a cannot be used: it is damaged, or no longer there"):
        read_lora(info)
