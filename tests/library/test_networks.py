"""ControlNets on disk: told from headers and configs, loaded as diffusers loads them, refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, ControlNetUnionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from core import Control, Engine, Finished, GenerationRequest, Settings
from core.errors import CheckpointError, DarkroomError, RequestError
from core.library.networks import scan
from core.library.part_loading import load_part
from core.library.shapes import controlnet_config
from tests import ldm, tiny
from tests.library.test_single_file import FULL, list_of, pipeline

PICTURE = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
HINTS = (16, 32, 96, 256)
HINT = "controlnet_cond_embedding.conv_in.weight"


def save(net: torch.nn.Module, path: Path, prefix: str = "") -> None:
    state = ldm.controlnet(net) if prefix else net.state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + key: tensor.contiguous() for key, tensor in state.items()}, path)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_tensor_of_every_layout_is_diffusers_own(tmp_path, family):
    net = tiny.controlnet(pipeline(family).unet, HINTS)
    net.save_pretrained(tmp_path / "a-folder")
    save(net, tmp_path / "b.safetensors")
    if family != "sdxl":
        save(net, tmp_path / "c.safetensors", "control_model.")
    found = scan(tmp_path)
    assert len(found) == (2 if family == "sdxl" else 3)
    for network in found:
        assert network.problem is None and network.part
        loaded = load_part(network.part, "cpu", "float32")
        assert isinstance(loaded, ControlNetModel) and not loaded.training
        ours, theirs = loaded.state_dict(), net.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert network.part.parameters == sum(tensor.numel() for tensor in theirs.values())


def test_a_union_is_told_from_its_tensors_in_a_folder_and_a_file(tmp_path):
    net = tiny.union(pipeline("sdxl").unet)
    net.save_pretrained(tmp_path / "union-canny")
    config = json.loads((tmp_path / "union-canny" / "config.json").read_text())
    (tmp_path / "union-canny" / "config.json").write_text(
        json.dumps(config | {"_class_name": "ControlNetModel_Union"})
    )
    save(net, tmp_path / "union.safetensors")
    for network in scan(tmp_path):
        assert (network.problem, len(network.control_types)) == (None, 6)
        assert network.begins and network.begins.preprocessor == "canny"
        loaded = load_part(network.part, "cpu", "float32")
        assert isinstance(loaded, ControlNetUnionModel)
        assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in net.state_dict().items())


@pytest.mark.parametrize("family", FULL)
def test_the_published_configs_follow_from_full_size_shapes(family):
    own = {key: value for key, value in FULL[family].items() if not key.startswith("up_")}
    with torch.device("meta"):
        full = ControlNetModel(**own)
        told = controlnet_config({key: tuple(tensor.shape) for key, tensor in full.state_dict().items()})
        again = ControlNetModel(**told)
    names = ("block_out_channels", "cross_attention_dim", "conditioning_embedding_out_channels", "layers_per_block")
    assert all(list_of(full.config[name]) == list_of(again.config[name]) for name in names)
    assert {k: t.shape for k, t in full.state_dict().items()} == {k: t.shape for k, t in again.state_dict().items()}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lora_controlnet", "it is a Control-LoRA"),
        ("lllite_unet_input_blocks_1.conditioning1.0.weight", "it is a ControlNet-LLLite"),
        ("body.0.in_conv.weight", "it is a T2I-Adapter"),
        ("lora_unet_down_blocks_0.lora_down.weight", "it is a LoRA, which belongs into models/loras"),
        ("double_blocks.0.img_attn.qkv.weight", "it is for FLUX or SD 3 in the original layout"),
        ("pos_embed_input.proj.weight", "of a kind that Darkroom knows"),
        ("control_model.label_emb.0.0.weight", "it is for XL in the original layout"),
        (
            "model.diffusion_model.input_blocks.0.0.weight",
            "it is a whole model, which belongs into models/checkpoints",
        ),
        ("something.else", "it is no ControlNet"),
        (HINT, "of a kind that Darkroom knows"),
    ],
)
def test_what_is_no_controlnet_says_what_it_is(tmp_path, key, reason):
    save_file({key: torch.zeros(2)}, tmp_path / "odd.safetensors")
    (found,) = scan(tmp_path)
    assert reason in (found.problem or "")
    assert found.part is None


def test_broken_ones_are_listed_with_their_reason(tmp_path):
    folder = tmp_path / "controlnet"
    for name, content in {"a.pth": b"PK", "b.safetensors": b"PK\x03\x04" + bytes(99), "c.safetensors": b""}.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name in ("d", "e", "f", "g"):
        (folder / name).mkdir()
    save_file({HINT: torch.zeros(2)}, folder / "g" / "diffusion_pytorch_model.safetensors")
    (folder / "g" / "config.json").write_text('{"block_out_channels": 5, "cross_attention_dim": [7]}')
    (folder / "e" / "config.json").write_text("[]")
    (folder / "f" / "config.json").write_text("{}")
    problems = [network.problem or "" for network in scan(folder)]
    expected = ["it is a pickle", "a pickle with the ending .safetensors", "it is damaged or not fully copied"]
    expected += ["e/config.json is not a JSON object", "its f has no weights"]
    expected += ["it is no ControlNet of a kind that Darkroom knows, or cannot be read"]
    assert all(reason in problem for reason, problem in zip(expected, problems, strict=True)), problems


# Through the engine


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A tiny model with its network, one for XL, and one that lacks a tensor."""
    made = tiny.sd()
    made.save_pretrained(tmp_path / "checkpoints" / "mine")
    folder = tmp_path / "controlnet"
    tiny.controlnet(made.unet).save_pretrained(folder / "mine-scribble")
    shutil.copytree(folder / "mine-scribble", folder / "hollow")
    save_file({HINT: torch.zeros(16, 3, 3, 3)}, folder / "hollow" / "diffusion_pytorch_model.safetensors")
    shutil.copytree(folder / "hollow", folder / "large")
    config = {"cross_attention_dim": 2048, "block_out_channels": [320, 640, 1280], "layers_per_block": 2}
    (folder / "large" / "config.json").write_text(json.dumps(config))
    (folder / "old.ckpt").write_bytes(b"PK")
    return tmp_path


def run(engine: Engine, **fields) -> bytes:
    wanted = {"prompt": "a cat", "seed": 1, "steps": 2, "width": 64, "height": 64, "sampler": "Euler"}
    *_, last = engine.generate(GenerationRequest(**{**wanted, "guidance_scale": 5.0, **fields}))
    assert isinstance(last, Finished)
    return last.images[0].tobytes()


def test_a_network_of_another_family_or_a_broken_one_is_refused_before_anything_runs(models):
    engine = Engine(Settings(models=models))
    before = run(engine)
    for name, reason in {
        "large": "ControlNet 1: Network: “large” is not allowed; use a network for mine; this one is for Stable "
        "Diffusion XL.",
        "old.ckpt": "ControlNet 1: old.ckpt cannot be used: it is a pickle",
        "../mine": "ControlNet 1: Network: “../mine” is not allowed; use one of hollow, mine-scribble.",
        "a\n.b/" + "x" * 290: "is not allowed; use one of hollow, mine-scribble.",
    }.items():
        with pytest.raises(DarkroomError) as refused:
            engine.library.resolve(GenerationRequest(controls=[Control(net=name, image=PICTURE)]))
        assert reason in str(refused.value)
    with pytest.raises(CheckpointError, match="ControlNet: hollow is damaged or does not fit its config"):
        run(engine, controls=[Control(net="hollow", image=PICTURE)])
    assert run(engine) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_with_a_value_that_is_no_number_is_refused_and_the_next_run_is_as_before(models, value):
    engine = Engine(Settings(models=models))
    before = run(engine)
    file = models / "controlnet" / "mine-scribble" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["controlnet_mid_block.bias"][3] = value
    save_file(state, file)
    with pytest.raises(
        CheckpointError, match="ControlNet: mine-scribble is damaged: it holds values that are no numbers"
    ):
        run(engine, controls=[Control(net="mine-scribble", image=PICTURE)])
    assert run(engine) == before


def test_weight_0_gives_the_bits_of_no_control_and_a_deleted_network_is_one_clear_error(models):
    engine = Engine(Settings(models=models))
    unit = Control(net="mine-scribble", image=PICTURE)
    free, steered = run(engine), run(engine, controls=[unit])
    assert run(engine, controls=[unit.replace(weight=0.0)]) == free != steered
    assert run(engine, controls=[unit, unit.replace(weight=0.5, mode="control")]) not in (free, steered)
    shutil.rmtree(models / "controlnet" / "mine-scribble")  # still listed
    with pytest.raises(RequestError, match="one that is still on disk; look for models again") as refused:
        run(engine, controls=[unit])
    assert refused.value.field == "controls[0].net"
    assert run(engine) == free
    engine.library.rescan()
    assert "mine-scribble" not in [known.name for known in engine.library.networks()]


def test_a_union_needs_to_know_what_the_map_shows(tmp_path):
    made = tiny.sdxl()
    made.save_pretrained(tmp_path / "checkpoints" / "mine")
    tiny.union(made.unet).save_pretrained(tmp_path / "controlnet" / "union")
    engine, unit = Engine(Settings(models=tmp_path)), Control(net="union", image=PICTURE)
    for wrong in (unit, unit.replace(preprocessor="tile")):  # a seventh kind, where the network has six
        with pytest.raises(
            RequestError, match=r"ControlNet 1: Map shows: .* use one of pose, depth, soft edges, lines"
        ):
            engine.library.resolve(GenerationRequest(controls=[wrong]))
    assert run(engine, controls=[unit.replace(preprocessor="canny")]) != run(engine)


def test_a_network_brings_its_own_values_by_its_name_or_its_card(models):
    folder = models / "controlnet" / "mine-scribble"
    known = {network.name: network for network in scan(folder.parent)}
    assert known["mine-scribble"].begins and known["mine-scribble"].begins.preprocessor == "scribble"
    (folder / "darkroom.json").write_text('{"title": "Mine", "preprocessor": "canny", "threshold_a": 60}')
    known = {network.name: network for network in scan(folder.parent)}
    assert known["mine-scribble"].title == "Mine"
    assert known["mine-scribble"].begins == Control(net="mine-scribble", preprocessor="canny", threshold_a=60.0)
    (folder / "darkroom.json").write_text('{"preprocessor": "magic"}')
    known = {network.name: network for network in scan(folder.parent)}
    assert "its darkroom.json is not right: Preprocessor" in (known["mine-scribble"].problem or "")
