"""T5 in single files, and text encoders as files of their own, told from their tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from core import Engine, GenerationRequest, Settings
from core.library.checkpoints import scan
from core.library.part_loading import load_part
from core.library.text_encoders import CLIP_WORDS, T5_WORDS
from core.library.text_encoders import scan as scan_encoders
from core.library.vocabulary import t5_tokenizer
from tests import ldm, tiny
from tests.library.test_single_file import T5, TEXT, VAE, flux_shapes, pipeline, published_t5

TRANSFORMER = "model.diffusion_model."


def save(state, path, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + key: tensor.clone().contiguous() for key, tensor in state.items()}, path)


def draw(engine, name):
    request = GenerationRequest(
        prompt="ｆｕｌｌ café, a (cat:1.3)", checkpoint=name, seed=1, steps=2, width=64, height=64
    )
    *_, last = engine.generate(request)
    return np.asarray(last.images[0]).astype(int)


def encoder_files(made, folder, prefix=""):
    """As they are published: clip_l has no projection in SD 3's files, T5 names its embeddings once."""
    save(ldm._without_projection(made.text_encoder), folder / "clip_l.safetensors", prefix)
    save(made.text_encoder_2.state_dict(), folder / "clip_g.safetensors", prefix)
    save(ldm._without_copy(made.text_encoder_3), folder / "t5xxl_fp16.safetensors", prefix)


@pytest.mark.parametrize(
    ("text", "ids"),
    [  # the first from the documentation of transformers; the second is normalized before it is read
        ("Studies have shown that", [6536, 43, 2008, 24]),
        ("ｆｕｌｌ ｗｉｄｔｈ", [423, 9400]),
        ("<extra_id_0>", [32099]),
    ],
)
def test_the_vocabulary_is_t5s(text, ids):
    tokenizer = t5_tokenizer("<pad>")
    assert tokenizer(text, add_special_tokens=False).input_ids == ids
    assert published_t5()(text, add_special_tokens=False).input_ids == ids
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


@pytest.mark.parametrize("prefix", [TRANSFORMER, ""])
@pytest.mark.parametrize("encoders", ["", "text_encoders.x.transformer."])
def test_a_transformer_alone_draws_with_encoders_in_files(tmp_path, prefix, encoders):
    made = pipeline("sd3")
    made.save_pretrained(tmp_path / "whole" / "checkpoints" / "whole")
    state = ldm.state_dict(made, "sd3")
    own = {key.replace(TRANSFORMER, prefix): state[key] for key in state if key.startswith((TRANSFORMER, "first_"))}
    save(own, tmp_path / "files" / "checkpoints" / "alone.safetensors")
    encoder_files(made, tmp_path / "files" / "text_encoders", encoders)
    whole = draw(Engine(Settings(models=tmp_path / "whole", previews=False)), "whole")
    engine = Engine(Settings(models=tmp_path / "files", previews=False))
    assert abs(draw(engine, "alone.safetensors") - whole).max() <= 1
    (tmp_path / "files" / "text_encoders" / "t5xxl_fp16.safetensors").unlink()
    engine.library.rescan()
    assert abs(draw(engine, "alone.safetensors") - whole).max() > 1, "T5 was not read"


def test_what_is_missing_or_broken_is_said(tmp_path):
    made = pipeline("sd3")
    state = ldm.state_dict(made, "sd3")
    own = {key: state[key] for key in state if key.startswith((TRANSFORMER, "first_"))}
    save(own, tmp_path / "checkpoints" / "alone.safetensors")
    encoder_files(made, folder := tmp_path / "text_encoders")
    (folder / "clip_g.safetensors").write_bytes(b"<html>")
    save({"a": torch.zeros(1)}, folder / "other.safetensors")
    save({CLIP_WORDS: torch.zeros(1)}, folder / "part-of-clip.safetensors")
    save({T5_WORDS: torch.zeros(2, 2)}, folder / "part-of-t5.safetensors")
    (alone,) = scan(tmp_path / "checkpoints", scan_encoders(folder))
    none = "it is no text encoder that Darkroom knows"
    problems = {
        "clip_g": "it is a web page saved under this name; download the file itself",
        **dict.fromkeys(("other", "part-of-clip", "part-of-t5"), none),
    }
    said = (f"; {name}.safetensors there cannot be used: {problem}" for name, problem in problems.items())
    where = "put them into models/text_encoders, or a whole Stable Diffusion 3 beside it"
    assert alone.problem == f"it comes without clip_l and clip_g; {where}" + "".join(said)


@pytest.mark.parametrize("inside", [True, False])
def test_flux_reads_with_clip_l_and_t5_from_its_file_or_beside_it(tmp_path, inside):
    """In ComfyUI's whole files the VAE's keys begin with `vae.`."""
    clip, t5 = CLIPTextModel(tiny.text_config(**TEXT)).eval(), T5EncoderModel(T5Config(**T5)).eval()
    vae = tiny.vae(**VAE | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False})
    shapes = flux_shapes(48, 64, guided=True) | {"txt_in.weight": (48, 256), "vector_in.in_layer.weight": (48, 64)}
    state = {TRANSFORMER + key: torch.zeros(shape) for key, shape in shapes.items()}
    state |= {f"vae.{key}": tensor for key, tensor in ldm.vae(vae).items()}
    t5_state = ldm._without_copy(t5)
    if inside:
        state |= {
            f"text_encoders.clip_l.transformer.text_model.{key}": each for key, each in clip.state_dict().items()
        }
        state |= {f"text_encoders.t5xxl.transformer.{key}": each for key, each in t5_state.items()}
    else:
        save({f"text_model.{key}": each for key, each in clip.state_dict().items()}, tmp_path / "t" / "l.safetensors")
        save(t5_state, tmp_path / "t" / "t5.safetensors")
        save(pipeline("sd3").text_encoder_2.state_dict(), tmp_path / "t" / "clip_g.safetensors")
    save(state, tmp_path / "c" / "flux1-dev-fp8.safetensors")
    (found,) = scan(tmp_path / "c", scan_encoders(tmp_path / "t"))
    parts = {part.name: part for part in found.parts}
    names = ["tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "transformer", "vae"]
    assert (found.problem, found.family, list(parts)) == (None, "flux", names)
    for name, expected in {"text_encoder": clip, "text_encoder_2": t5, "vae": vae}.items():
        loaded = load_part(parts[name], "cpu", "float32").state_dict()
        assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.state_dict().items())
    assert load_part(parts["tokenizer_2"], "cpu", "float32")("a cat").input_ids == [3, 9, 1712, 1]


def test_one_half_of_flux_encoders_in_the_file_and_the_other_beside_it(tmp_path):
    clip, t5 = CLIPTextModel(tiny.text_config(**TEXT)).eval(), T5EncoderModel(T5Config(**T5)).eval()
    shapes = flux_shapes(48, 64, guided=False) | {"txt_in.weight": (48, 256), "vector_in.in_layer.weight": (48, 64)}
    state = {TRANSFORMER + key: torch.zeros(shape) for key, shape in shapes.items()}
    state |= {f"text_encoders.t5xxl.transformer.{key}": each for key, each in ldm._without_copy(t5).items()}
    save(state, tmp_path / "c" / "schnell.safetensors")
    (found,) = scan(tmp_path / "c")
    assert found.problem.startswith("it comes without clip_l; put")
    save({f"text_model.{key}": each for key, each in clip.state_dict().items()}, tmp_path / "t" / "l.safetensors")
    (found,) = scan(tmp_path / "c", scan_encoders(tmp_path / "t"))
    order = [part.name for part in found.parts]
    assert order == ["tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "transformer"]


def test_t5_keeps_its_second_layers_wide_in_float16_as_transformers_does(tmp_path):
    t5 = T5EncoderModel(T5Config(**T5)).eval()
    t5.save_pretrained(tmp_path / "folder")
    theirs = T5EncoderModel.from_pretrained(tmp_path / "folder", dtype=torch.float16)
    made = pipeline("sd3")
    made.text_encoder_3 = t5
    ldm.save(made, "sd3", tmp_path / "c" / "mine.safetensors")
    (found,) = scan(tmp_path / "c")
    part = next(part for part in found.parts if part.name == "text_encoder_3")
    ours, theirs = load_part(part, "cpu", "float16").state_dict(), theirs.state_dict()
    assert {key: each.dtype for key, each in ours.items()} == {key: each.dtype for key, each in theirs.items()}
    assert all(torch.equal(each, theirs[key]) for key, each in ours.items())
    assert len({each.dtype for each in ours.values()}) == 2
