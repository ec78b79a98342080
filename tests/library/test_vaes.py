"""Another VAE in the place of the model's own: the same picture as of a model that has it, and refusals by name."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from core import Engine, Finished, GenerationRequest, Settings
from core.errors import CheckpointError, RequestError
from tests import ldm, tiny
from tests.library.test_single_file import VAE, pipeline

QUICK = {
    "prompt": "a cat",
    "seed": 1,
    "steps": 1,
    "width": 64,
    "height": 64,
    "sampler": "Euler",
    "guidance_scale": 1.0,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A model, the same with another VAE for an oracle, and that VAE as folder, file, and file with a prefix."""
    models = tmp_path_factory.mktemp("models")
    made = pipeline("sd1")
    made.save_pretrained(models / "checkpoints" / "mine")
    ldm.save(made, "sd1", models / "checkpoints" / "mine.safetensors")
    torch.manual_seed(9)
    made.vae = other = AutoencoderKL(**VAE, scaling_factor=0.18215).eval()
    made.save_pretrained(models / "checkpoints" / "oracle")
    folder = models / "vae"
    other.save_pretrained(folder / "other")
    state = {key: tensor.contiguous() for key, tensor in ldm.vae(other).items()}
    save_file(state, folder / "other.safetensors")
    save_file({f"first_stage_model.{key}": tensor for key, tensor in state.items()}, folder / "whole.safetensors")
    AutoencoderKL(**{**VAE, "latent_channels": 16}).save_pretrained(folder / "wider")
    AutoencoderKL(**VAE, scaling_factor=0.13025).save_pretrained(folder / "of-xl")
    (folder / "old.pt").write_bytes(b"\x80\x04")
    save_file({"lora_unet_x.lora_down.weight": torch.ones(2)}, folder / "lora.safetensors")
    shutil.copy(folder / "other.safetensors", folder / "half.safetensors")
    half = (folder / "half.safetensors").read_bytes()
    (folder / "half.safetensors").write_bytes(half[:-100])
    return Engine(Settings(models=models, previews=False))


def pixels(engine, **fields) -> bytes:
    *_, last = engine.generate(GenerationRequest(**QUICK, **fields))
    assert isinstance(last, Finished)
    return last.images[0].tobytes()


@pytest.mark.parametrize("checkpoint", ["mine", "mine.safetensors"])
@pytest.mark.parametrize("vae", ["other", "other.safetensors", "whole.safetensors"])
def test_it_draws_what_a_model_draws_that_has_it(engine, checkpoint, vae):
    drawn = pixels(engine, checkpoint=checkpoint, vae=vae)
    assert drawn == pixels(engine, checkpoint="oracle")
    assert drawn != pixels(engine, checkpoint=checkpoint)


def test_which_file_it_was_is_noted(engine):
    notes = [list(engine.generate(GenerationRequest(**QUICK, vae=vae)))[-1].made_with for vae in (None, "other")]
    assert notes[0]["model_hash"] == notes[1]["model_hash"]
    assert ["vae_hash" in note for note in notes] == [False, True]


@pytest.mark.parametrize("attention", ["to_q to_k to_v to_out.0", "query key value proj_attn"])
def test_a_file_may_have_diffusers_names(engine, attention):
    """Those before 0.18, too: sd-vae-ft-mse is published with them."""
    folder = engine.settings.models / "vae"
    state = load_file(folder / "other" / "diffusion_pytorch_model.safetensors")
    for ours, theirs in zip(("to_q", "to_k", "to_v", "to_out.0"), attention.split(), strict=True):
        state = {key.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}."): state[key] for key in state}
    assert any(f".{attention.split()[0]}." in key for key in state)
    save_file(state, folder / "theirs.safetensors")
    assert pixels(engine, checkpoint="mine", vae="theirs.safetensors") == pixels(engine, checkpoint="oracle")


def test_a_checkpoint_without_one_draws_with_one_that_is_named(engine):
    models = engine.settings.models
    whole = load_file(models / "checkpoints" / "mine.safetensors")
    state = {key: tensor for key, tensor in whole.items() if not key.startswith("first_stage_model.")}
    save_file(state, models / "checkpoints" / "bare.safetensors")
    engine.library.rescan()
    with pytest.raises(
        RequestError, match=r"VAE: missing; use one of half.safetensors, .*, as bare has none of its own"
    ):
        engine.library.resolve(GenerationRequest(**QUICK, checkpoint="bare.safetensors"))
    drawn = pixels(engine, checkpoint="bare.safetensors", vae="other.safetensors")
    assert drawn == pixels(engine, checkpoint="mine.safetensors", vae="other.safetensors")
    with pytest.raises(RequestError, match="this one is for other latents"):
        engine.library.resolve(GenerationRequest(**QUICK, checkpoint="bare.safetensors", vae="wider"))


def test_a_file_has_its_latents_about_the_middle_of_its_models(tmp_path):
    """SD 3's and FLUX's are not about 0; the same VAE as a file draws what it draws as a folder."""
    made = tiny.flux()
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    made.vae = tiny.vae(
        **blocks,
        block_out_channels=(32,) * 4,
        norm_num_groups=32,
        layers_per_block=2,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.5,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    made.save_pretrained(tmp_path / "checkpoints" / "flux")
    (tmp_path / "vae").mkdir()
    state = {key: tensor.contiguous() for key, tensor in ldm.vae(made.vae).items()}
    save_file(state, tmp_path / "vae" / "ae.safetensors")
    engine = Engine(Settings(models=tmp_path, previews=False))
    assert pixels(engine, vae="ae.safetensors") == pixels(engine)


@pytest.mark.parametrize(
    ("vae", "error", "message"),
    [
        ("none", RequestError, "VAE: “none” is not allowed; use one of half.safetensors, lora.safetensors"),
        ("../vae/other", RequestError, "is not allowed; use one of"),
        ("wider", RequestError, "use a VAE for mine; this one is for other latents"),
        ("of-xl", RequestError, "use a VAE for mine; this one is for other latents"),
        ("old.pt", CheckpointError, "VAE: old.pt cannot be used: it is a pickle"),
        ("lora.safetensors", CheckpointError, "it is no VAE of a kind"),
        ("half.safetensors", CheckpointError, "damaged or not fully copied"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_waits(engine, vae, error, message):
    with pytest.raises(error, match=message):
        engine.library.resolve(GenerationRequest(**QUICK, checkpoint="mine", vae=vae))
    assert engine.library.resolve(GenerationRequest(**QUICK, checkpoint="mine", vae="other")).vae == "other"
