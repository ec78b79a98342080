"""Single-file checkpoints: told from their headers, loaded as diffusers loads them, refused with the reason."""

from __future__ import annotations

import functools
import gzip
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5Tokenizer

from core import Engine, Finished, GenerationRequest, Settings
from core.errors import CheckpointError, DarkroomError
from core.library.checkpoints import named, scan
from core.library.folders import models_in
from core.library.layouts import identify, noise_schedule, pieces
from core.library.part_loading import load_part
from core.library.shapes import transformer_config, unet_config
from core.library.single_file import CONVERT
from core.library.vocabulary import T5_PIECES, clip_tokenizer
from tests import ldm, peaks, tiny

TEXT = {
    "vocab_size": 49408,
    "hidden_size": 64,
    "num_attention_heads": 1,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
OPEN = {**TEXT, "hidden_act": "gelu"}
SECOND = {**OPEN, "hidden_size": 128, "num_attention_heads": 2, "projection_dim": 128}  # diffusers goes by the width
T5 = {"vocab_size": 32128, "d_model": 256, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
T5 |= {"feed_forward_proj": "gated-gelu"}
VAE = {"block_out_channels": (32, 64), "latent_channels": 4}
VAE |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
CROSS = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
UNETS = {
    "sd1": {"attention_head_dim": 8, "cross_attention_dim": 64},
    "sd2": {"attention_head_dim": (1, 2), "cross_attention_dim": 64, "use_linear_projection": True},
    "sd3": {"attention_head_dim": 64, "num_attention_heads": 1, "caption_projection_dim": 64}
    | {
        "pooled_projection_dim": 192,
        "joint_attention_dim": 256,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
    },
    "sdxl": {
        "attention_head_dim": (1, 2),
        "cross_attention_dim": 192,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 128,
        "transformer_layers_per_block": (1, 2),
    },
}
CLASSES = {"sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
CLASSES["sd3"] = StableDiffusion3Pipeline


def pipeline(family: str, **changes: object):
    """A tiny model of a family whose config follows from shapes, as those of the real ones do."""
    if family == "sd3":
        return _third()
    shape = {"block_out_channels": (64, 128), "norm_num_groups": 32, **UNETS[family], **changes}
    if family == "sdxl":
        made = tiny.sdxl(**shape)
        made.text_encoder = CLIPTextModel(tiny.text_config(**TEXT)).eval()
        made.text_encoder_2 = CLIPTextModelWithProjection(tiny.text_config(**SECOND)).eval()
        made.tokenizer_2 = clip_tokenizer("!")
    else:
        down, up = CROSS
        made = tiny.sd(down_block_types=down, up_block_types=up, **shape)
        made.text_encoder = CLIPTextModel(tiny.text_config(**(TEXT if family == "sd1" else OPEN))).eval()
    made.tokenizer = clip_tokenizer("!" if family == "sd2" else "<|endoftext|>")
    made.vae = AutoencoderKL(**VAE, scaling_factor=0.13025 if family == "sdxl" else 0.18215).eval()
    return made


@functools.cache
def published_t5():
    """As transformers reads the published folder."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_bytes(gzip.decompress(T5_PIECES.read_bytes()))
        return T5Tokenizer.from_pretrained(folder)


def _third():
    made = tiny.sd3(**UNETS["sd3"])
    first = tiny.text_config(**TEXT, projection_dim=64)
    made.text_encoder = CLIPTextModelWithProjection(first).eval()
    torch.nn.init.eye_(made.text_encoder.text_projection.weight)  # as the published files leave it out
    made.text_encoder_2 = CLIPTextModelWithProjection(tiny.text_config(**SECOND)).eval()
    made.text_encoder_3 = T5EncoderModel(T5Config(**T5)).eval()
    made.tokenizer, made.tokenizer_2 = clip_tokenizer("<|endoftext|>"), clip_tokenizer("!")
    made.tokenizer_3 = published_t5()
    latents = {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    made.vae = AutoencoderKL(**VAE | latents, use_quant_conv=False, use_post_quant_conv=False).eval()
    return made


NAMES = {
    "sd1": "mine.safetensors",
    "sd2": "mine-768-v.safetensors",
    "sdxl": "mine.safetensors",
    "sd3": "mine.safetensors",
}


@pytest.fixture(scope="module", params=NAMES)
def saved(request, tmp_path_factory):
    """(family, pipeline, folder of models with its one file)."""
    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    made = pipeline(family)
    ldm.save(made, family, folder / "checkpoints" / NAMES[family])
    return family, made, folder


def test_every_tensor_is_diffusers_own(saved, tmp_path):
    family, made, folder = saved
    made.save_pretrained(tmp_path / "config")
    file = folder / "checkpoints" / NAMES[family]
    config = str(tmp_path / "config")
    oracle = CLASSES[family].from_single_file(str(file), config=config, local_files_only=True)
    (found,) = scan(folder / "checkpoints")
    assert (found.problem, found.family) == (None, family)
    for part in found.parts:
        if part.weights is None:
            continue
        ours, theirs = load_part(part, "cpu", "float32").state_dict(), getattr(oracle, part.name).state_dict()
        assert ours.keys() == theirs.keys()
        if (
            part.class_name == "T5EncoderModel"
        ):  # diffusers 0.42 leaves the second name of its embeddings without values
            theirs["encoder.embed_tokens.weight"] = theirs["shared.weight"]
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part.name
        made_up = {("sd3", "text_encoder"): "text_projection.weight", ("sd3", "text_encoder_3"): "shared.weight"}
        absent = made_up.get((family, part.name))
        assert part.parameters == sum(tensor.numel() for key, tensor in ours.items() if key != absent)


def test_a_vae_inside_a_whole_file_may_have_diffusers_names(tmp_path):
    made = pipeline("sd1")
    state = {key: t for key, t in ldm.state_dict(made, "sd1").items() if not key.startswith("first_stage_model.")}
    state |= {f"first_stage_model.{key}": tensor for key, tensor in made.vae.state_dict().items()}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "mine.safetensors")
    (found,) = scan(tmp_path)
    vae = load_part(next(part for part in found.parts if part.name == "vae"), "cpu", "float32").state_dict()
    assert all(torch.equal(vae[key], tensor) for key, tensor in made.vae.state_dict().items())


def test_all_of_a_part_is_where_it_is_loaded_to(saved):
    """Its buffers too, which no file has. The meta device stands for a GPU."""
    _, _, folder = saved
    (found,) = scan(folder / "checkpoints")
    for part in (part for part in found.parts if part.weights):
        model = load_part(part, "meta", "float32")
        assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}, part.name


def test_the_engine_draws_from_a_single_file_what_it_draws_from_the_folder(saved, tmp_path):
    family, made, folder = saved
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    if family == "sd2":
        made.scheduler.register_to_config(prediction_type="v_prediction")
    made.save_pretrained(tmp_path / "checkpoints" / "folder")
    engine, names = Engine(Settings(models=tmp_path)), ("folder", NAMES[family])
    pictures = []
    for name in names:
        wanted = GenerationRequest(prompt="a cat", checkpoint=name, seed=1, steps=2, width=64, height=64)
        *_, last = engine.generate(wanted.replace(sampler="Euler", guidance_scale=5.0))
        assert isinstance(last, Finished)
        pictures.append(np.asarray(last.images[0]).astype(int))
    # MKL rounds by where in memory the weights begin: with these shapes a few values end a 255th apart
    assert abs(pictures[0] - pictures[1]).max() <= 1


def test_a_half_file_is_loaded_in_the_planned_dtype(tmp_path):
    ldm.save(pipeline("sd1"), "sd1", tmp_path / "half.safetensors", torch.float16)
    (found,) = scan(tmp_path)
    unet = next(part for part in found.parts if part.name == "unet")
    for dtype in ("float16", "float32"):
        parameters = list(load_part(unet, "cpu", dtype).parameters())
        assert {parameter.dtype for parameter in parameters} == {getattr(torch, dtype)}
        assert not any(parameter.is_meta or parameter.requires_grad for parameter in parameters)


FULL = {
    "sd1": peaks.SD1,
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": peaks.SDXL,
}


@pytest.mark.parametrize("family", FULL)
@pytest.mark.parametrize("channels", [4, 9])
def test_the_published_configs_follow_from_full_size_shapes(family, channels):
    with torch.device("meta"):
        full = UNet2DConditionModel(in_channels=channels, **FULL[family])
        told = unet_config({key: tuple(tensor.shape) for key, tensor in ldm.unet(full).items()})
        again = UNet2DConditionModel(**told)
    assert told["in_channels"] == channels
    names = ("block_out_channels", "attention_head_dim", "cross_attention_dim", "layers_per_block")
    assert all(list_of(full.config[name]) == list_of(again.config[name]) for name in names)
    assert {k: t.shape for k, t in full.state_dict().items()} == {k: t.shape for k, t in again.state_dict().items()}


@pytest.mark.parametrize("heads", [24, 38])
def test_the_published_configs_of_stable_diffusion_3_follow_from_full_size_shapes(heads):
    width = 64 * heads
    config = {**peaks.SD35, "num_attention_heads": heads, "caption_projection_dim": width, "num_layers": heads}
    with torch.device("meta"):
        full = SD3Transformer2DModel(**config)
        told = transformer_config({key: tuple(tensor.shape) for key, tensor in ldm.transformer(full).items()})
    assert {key: list_of(told[key]) for key in config} == {key: list_of(value) for key, value in config.items()}
    others = ("in_channels", "out_channels", "patch_size", "joint_attention_dim", "pooled_projection_dim")
    assert all(told[key] == full.config[key] for key in others)


def list_of(value):
    return list(value) if isinstance(value, (list, tuple)) else value


def shapes(family: str, **changes: object) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in ldm.state_dict(pipeline(family, **changes), family).items()}


def test_inpainting_is_told_from_the_channels():
    header = shapes("sd1", in_channels=9)
    assert pieces(identify(header), header)["unet"].config["in_channels"] == 9


@pytest.mark.parametrize(
    ("family", "name", "extra", "metadata", "expected"),
    [
        ("sdxl", "a.safetensors", {"v_pred": 0, "ztsnr": 0}, {}, ("v_prediction", True)),
        ("sdxl", "a.safetensors", {}, {}, ("epsilon", None)),
        ("sd2", "v2-1_512-ema-pruned.safetensors", {}, {}, ("epsilon", None)),
        ("sd2", "v2-1_768-ema-pruned.safetensors", {}, {}, ("v_prediction", None)),
        ("sd2", "a.safetensors", {}, {"modelspec.prediction_type": "v"}, ("v_prediction", None)),
        ("sd1", "fluffy-v-pred.safetensors", {}, {}, ("v_prediction", None)),
        ("sdxl", "noobaiXL_vPred10.safetensors", {}, {}, ("v_prediction", None)),
        ("sdxl", "noobaiXL_vPred10.safetensors", {}, {"modelspec.prediction_type": "epsilon"}, ("epsilon", None)),
    ],
)
def test_what_the_network_predicts_is_told(tmp_path, family, name, extra, metadata, expected):
    state = ldm.state_dict(pipeline(family), family) | {key: torch.zeros(1) for key in extra}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / name, metadata)
    (found,) = scan(tmp_path)
    config = found.scheduler_config
    assert (config["prediction_type"], config.get("rescale_betas_zero_snr")) == expected
    sizes = {"sd1": 512, "sdxl": 1024, "sd2": 768 if expected[0] == "v_prediction" else 512}
    assert found.native_size == sizes[family]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("mine.yaml", 'model:\n  params:\n    parameterization: "v"\n', "v_prediction"),
        ("mine.yaml", "model:\n  params:\n    parameterization: eps\n", "epsilon"),
        ("mine.yaml", "!!python/object/apply:os.system [false]", "epsilon"),
        ("mine.darkroom.json", '{"prediction_type": "v_prediction"}', "v_prediction"),
    ],
)
def test_a_file_beside_it_tells_what_the_network_predicts(tmp_path, name, content, expected):
    ldm.save(pipeline("sd1"), "sd1", tmp_path / "mine.safetensors")
    (tmp_path / name).write_text(content)
    (found,) = scan(tmp_path)
    assert (found.problem, found.scheduler_config["prediction_type"]) == (None, expected)


def test_a_card_beside_a_file_is_its_makers_word(tmp_path):
    ldm.save(pipeline("sd1"), "sd1", tmp_path / "mine.safetensors")
    card = tmp_path / "mine.darkroom.json"
    card.write_text('{"title": "My own", "sampler": "Heun", "steps": 9, "examples": ["a cat"]}')
    (found,) = scan(tmp_path)
    assert (found.title, found.sampler, found.steps, found.examples) == ("My own", "Heun", 9, ("a cat",))
    card.write_text('{"steps": "many"}')
    (found,) = scan(tmp_path)
    assert found.problem == "its mine.darkroom.json is not right: steps"


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale"])
def test_weights_of_8_bits_have_their_scale_beside_them(tmp_path, family, scale):
    """ComfyUI's "scaled fp8": what is loaded is the number times the scale."""
    made = pipeline(family)
    state = {key: tensor.contiguous() for key, tensor in ldm.state_dict(made, family).items()}
    beginning = "model.diffusion_model."
    for key in [
        key for key in state if key.startswith(beginning) and key.endswith(".weight") and state[key].ndim == 2
    ]:
        state[key] = (state[key] * 8).to(torch.float8_e4m3fn)
        state[key.removesuffix("weight") + scale] = torch.tensor(0.125)
    state[f"{beginning}scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    save_file(state, tmp_path / "mine.safetensors")
    (found,) = scan(tmp_path)
    assert found.problem is None
    part = next(part for part in found.parts if part.name in ("unet", "transformer"))
    ours, theirs = load_part(part, "cpu", "float32").state_dict(), getattr(made, part.name).state_dict()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=0.07, atol=2e-3, msg=key)


def test_a_folder_that_may_not_be_read_hides_no_other(tmp_path, monkeypatch):
    for name in ("lost+found", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.safetensors").touch()
    real = Path.iterdir

    def refusing(folder):  # as for anybody but root
        if folder.name == "lost+found":
            raise PermissionError
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", refusing)
    assert list(models_in(tmp_path)) == ["mine/a.safetensors"]


def test_models_lie_in_folders_of_their_owners_making(tmp_path):
    made, folder = pipeline("sd1"), tmp_path / "checkpoints"
    ldm.save(made, "sd1", folder / "realistic" / "v1" / "mine.safetensors")
    made.save_pretrained(folder / "old" / "folder")
    (folder / "empty").mkdir()
    (folder / "half" / "unet").mkdir(parents=True)
    (folder / "realistic" / "circle").symlink_to(folder)
    found = {each.name: each.problem for each in scan(folder) if "circle" not in each.name}
    assert found == {
        "half": "half/model_index.json is missing",
        "old/folder": None,
        "realistic/v1/mine.safetensors": None,
    }
    engine = Engine(Settings(models=tmp_path, previews=False))
    drawn = []
    for name in ("old/folder", "realistic/v1/mine.safetensors"):
        wanted = GenerationRequest(prompt="a cat", checkpoint=name, seed=1, steps=1, width=64, height=64)
        *_, last = engine.generate(wanted.replace(sampler="Euler", guidance_scale=5.0))
        assert last.request.checkpoint == name
        drawn.append(np.asarray(last.images[0]).astype(int))
    assert abs(drawn[0] - drawn[1]).max() <= 1
    assert named("MINE", scan(folder)).name == "realistic/v1/mine.safetensors"


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("own_vae", [True, False])
def test_a_transformer_alone_draws_with_the_rest_of_a_whole_model(tmp_path, prefix, own_vae):
    made, beginning = pipeline("sd3"), "model.diffusion_model."
    state = {
        key.replace(beginning, prefix): tensor.contiguous()
        for key, tensor in ldm.state_dict(made, "sd3").items()
        if key.startswith((beginning, "first_stage_model.") if own_vae else beginning)
    }
    (folder := tmp_path / "checkpoints").mkdir()
    save_file(state, folder / "alone.safetensors")
    (alone,) = scan(folder)
    where = "put them into models/text_encoders, or a whole Stable Diffusion 3 beside it"
    assert alone.problem == f"it comes without clip_l and clip_g; {where}"
    made.save_pretrained(folder / "whole")
    engine, drawn = Engine(Settings(models=tmp_path, previews=False)), []
    for name in ("whole", "alone.safetensors"):
        wanted = GenerationRequest(prompt="a cat", checkpoint=name, seed=1, steps=2, width=64, height=64)
        assert engine.plan(engine.library.resolve(wanted)).needs
        *_, last = engine.generate(wanted)
        drawn.append(np.asarray(last.images[0]).astype(int))
    assert abs(drawn[0] - drawn[1]).max() <= 1
    (own,) = (each for each in engine.library.checkpoints() if each.name == "alone.safetensors")
    assert own.files == [folder / "alone.safetensors"]  # so its hash is not that of what it borrows


def flux_shapes(width: int, channels: int, guided: bool) -> dict[str, tuple[int, ...]]:
    """The tensors of black-forest-labs' files, with a block of each kind."""
    head, shapes = width // 24, {}
    matrices = {"img_in": (width, channels), "txt_in": (width, 4096), "final_layer.linear": (64, width)}
    matrices["final_layer.adaLN_modulation.1"] = (2 * width, width)
    for name, inputs in {"time_in": 256, "vector_in": 768, **({"guidance_in": 256} if guided else {})}.items():
        matrices |= {f"{name}.in_layer": (width, inputs), f"{name}.out_layer": (width, width)}
    for stream in ("img", "txt"):
        block = f"double_blocks.0.{stream}"
        matrices |= {f"{block}_mod.lin": (6 * width, width), f"{block}_attn.qkv": (3 * width, width)}
        matrices |= {f"{block}_attn.proj": (width, width), f"{block}_mlp.0": (4 * width, width)}
        matrices[f"{block}_mlp.2"] = (width, 4 * width)
        shapes |= {f"{block}_attn.norm.{kind}_norm.scale": (head,) for kind in ("query", "key")}
    matrices |= {"single_blocks.0.linear1": (7 * width, width), "single_blocks.0.linear2": (width, 5 * width)}
    matrices["single_blocks.0.modulation.lin"] = (3 * width, width)
    shapes |= {f"single_blocks.0.norm.{kind}_norm.scale": (head,) for kind in ("query", "key")}
    for name, shape in matrices.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
@pytest.mark.parametrize("guided", [True, False])
def test_files_of_flux_are_told_and_every_tensor_has_a_place(prefix, guided):
    """At FLUX's own width, which diffusers' conversion takes for granted; no tensor has values."""
    shapes = {prefix + key: shape for key, shape in flux_shapes(3072, 64, guided).items()}
    layout = identify(shapes)
    config, own, _ = pieces(layout, shapes)["transformer"]
    published = {"num_attention_heads": 24, "attention_head_dim": 128, "joint_attention_dim": 4096}
    published |= {"pooled_projection_dim": 768, "guidance_embeds": guided, "in_channels": 64}
    assert (layout.family, {key: config[key] for key in published}, len(own)) == ("flux", published, len(shapes))
    with torch.device("meta"):
        model = FluxTransformer2DModel(**config)
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
    converted = CONVERT["FluxTransformer2DModel"](model, state, prefix)
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in converted.items()} == wanted
    levels = noise_schedule(layout, shapes, {}, "flux1")
    assert levels == {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": guided}


def test_flux_for_other_tasks_is_refused():
    shapes = flux_shapes(3072, 384, guided=True)
    with pytest.raises(CheckpointError, match="its transformer takes 384 channels"):
        pieces(identify(shapes), shapes)


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_clip_skip_1_and_2_are_one_layer_since_xl(tmp_path, family):
    """Forge: `-max(clip_skip, minimal_clip_skip)`, which is 2 for XL; A1111 and ComfyUI draw alike."""
    made = pipeline(family)
    made.save_pretrained(tmp_path / "checkpoints" / "mine")
    engine, drawn = Engine(Settings(models=tmp_path, previews=False)), []
    for clip_skip in (1, 2, 3):
        wanted = GenerationRequest(prompt="a cat", seed=1, steps=1, width=64, height=64, clip_skip=clip_skip)
        *_, last = engine.generate(wanted)
        drawn.append(last.images[0].tobytes())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lora_unet_down_blocks_0.lora_down.weight", "it is a LoRA"),
        ("unet.down_blocks.0.attn.to_k.lora_A.weight", "it is a LoRA"),
        ("control_model.input_blocks.0.0.weight", "it is a ControlNet"),
        ("edm_mean", "EDM noise levels"),
        ("decoder.conv_in.weight", "it is a VAE alone"),
        ("model.diffusion_model.double_blocks.0.img_mod.lin.weight", "its transformer is not built as this family's"),
        ("joint_blocks.0.x_block.attn.proj.weight", "its transformer is not built as this family's"),
        ("conditioner.embedders.0.model.text_projection", "its text_encoder_2 is not built"),
        ("model.diffusion_model.input_blocks.0.0.weight", "it has no text encoder"),
        ("down_blocks.0.resnets.0.conv1.weight", "put the whole folder here"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "its text_encoder is not built"),
        ("something.else", "of no kind of model that Darkroom knows"),
    ],
)
def test_what_is_no_checkpoint_says_what_it_is(tmp_path, key, reason):
    save_file({key: torch.zeros(2)}, tmp_path / "odd.safetensors")
    (found,) = scan(tmp_path)
    assert reason in found.problem


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("old.ckpt", b"PK\x03\x04", "it is a pickle, which is never loaded; convert it to .safetensors"),
        ("old.pt", b"", "convert it to .safetensors"),
        ("renamed.safetensors", b"PK\x03\x04" + bytes(99), "a pickle with the ending .safetensors"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("page.safetensors", b"<!DOCTYPE html><html></html>", "a web page saved under this name"),
        ("empty.safetensors", b"", "it is damaged or not fully copied"),
    ],
)
def test_files_that_are_no_safetensors_are_listed_with_the_reason(tmp_path, name, content, reason):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(content)
    (found,) = scan(tmp_path / "checkpoints")
    assert reason in found.problem


def test_a_truncated_file_and_one_that_does_not_say_what_it_predicts(tmp_path):
    folder = tmp_path / "checkpoints"
    ldm.save(pipeline("sd2"), "sd2", folder / "mine.safetensors")
    shutil.copy(folder / "mine.safetensors", folder / "short-768.safetensors")
    with (folder / "short-768.safetensors").open("r+b") as file:
        file.truncate(5000)
    mine, short = scan(folder)
    assert "whether it predicts noise or velocity" in mine.problem
    assert short.problem == "it is damaged or not fully copied"


def test_a_file_replaced_while_cached_is_loaded_anew_and_a_removed_one_is_one_clear_error(tmp_path):
    file = tmp_path / "checkpoints" / "mine.safetensors"
    ldm.save(pipeline("sd1"), "sd1", file)
    engine = Engine(Settings(models=tmp_path))
    wanted = GenerationRequest(prompt="a cat", seed=1, steps=1, width=64, height=64, sampler="Euler")
    *_, before = engine.generate(wanted)
    state = load_file(file)
    save_file({key: tensor * 0.9 for key, tensor in state.items()}, file)
    *_, after = engine.generate(wanted)
    assert before.images[0].tobytes() != after.images[0].tobytes()
    file.unlink()
    with pytest.raises(DarkroomError, match="no longer there"):
        list(engine.generate(wanted))


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path):
    state = ldm.state_dict(pipeline("sd1"), "sd1")
    del state["model.diffusion_model.output_blocks.1.0.in_layers.2.weight"]
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "mine.safetensors")
    (found,) = scan(tmp_path)
    unet = next(part for part in found.parts if part.name == "unet")
    with pytest.raises(CheckpointError, match="its unet is damaged or does not fit"):
        load_part(unet, "cpu", "float32")


def test_the_vocabulary_is_clips():
    tokenizer = clip_tokenizer("!")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.model_max_length) == (49408, 0, 77)
