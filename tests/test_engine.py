"""The engine through its public door: events, defaults, refusals, cancel, memory, and the same bits every time."""

from __future__ import annotations

import json
import shutil
import struct
import threading
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from core import Control, Engine, Finished, GenerationRequest, Loading, Lora, Settings, Step
from core.errors import CheckpointError, DarkroomError, EngineBusy, OutOfMemory, RequestError
from tests import tiny

QUICK = {"prompt": "a red circle on a blue background", "seed": 7, "steps": 2}


@pytest.fixture(scope="module")
def engine():
    return Engine(Settings())


def run(engine, **fields) -> Finished:
    *_, last = engine.generate(GenerationRequest(**{**QUICK, **fields}))
    assert isinstance(last, Finished)
    return last


def pixels(engine, **fields) -> bytes:
    return run(engine, **fields).images[0].tobytes()


@pytest.fixture(scope="module")
def expected(engine):
    """The bits of the quick picture, which must come out again after whatever a test does to the engine."""
    return pixels(engine)


def test_events_come_in_order():
    events = list(Engine(Settings()).generate(GenerationRequest(**QUICK)))
    kinds = [type(event) for event in events]
    loading = kinds.count(Loading)
    assert loading >= 1
    assert kinds == [Loading] * loading + [Step, Step, Finished]
    assert [(e.index, e.total) for e in events[loading:-1]] == [(1, 2), (2, 2)]
    assert events[loading].preview.size == (32, 32)


def test_what_is_loaded_is_not_loaded_again(engine, expected):
    events = list(engine.generate(GenerationRequest(**QUICK)))
    assert not [event for event in events if isinstance(event, Loading)]


def test_the_models_own_values_are_filled_in(engine):
    resolved = run(engine, seed=None).request
    assert (resolved.checkpoint, resolved.sampler, resolved.guidance_scale) == ("pocket", "DDIM", 2.5)
    assert (resolved.width, resolved.height) == (256, 256)
    assert resolved.seed is not None
    assert pixels(engine, seed=resolved.seed) == run(engine, seed=resolved.seed).images[0].tobytes()


def test_made_with_names_what_shaped_the_bits(engine, expected):
    made_with = run(engine).made_with
    assert len(made_with["model_hash"]) == 10
    assert {"torch", "diffusers", "device", "dtype", "threads"} <= made_with.keys()


def test_the_same_seed_is_the_same_picture_and_another_is_another(engine, expected):
    assert pixels(engine) == expected
    assert pixels(engine, seed=8) != expected


def test_a_fresh_engine_gives_the_same_bits(expected):
    assert pixels(Engine(Settings())) == expected


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE Karras", "DPM++ SDE"])
def test_a_batch_is_its_single_runs(engine, sampler):
    batch = run(engine, sampler=sampler, batch_size=2, steps=4).images
    for k, image in enumerate(batch):
        alone = run(engine, sampler=sampler, seed=7 + k, steps=4).images[0]
        assert np.abs(np.asarray(image, np.int16) - np.asarray(alone, np.int16)).max() <= 1


def test_the_largest_seeds_run(engine):
    assert run(engine, seed=2**64 - 1).request.seed == 2**64 - 1


def test_every_sampler_is_finite_at_one_step_and_shows_previews(engine):
    from core.samplers import SAMPLERS

    for name in SAMPLERS:
        events = list(engine.generate(GenerationRequest(**{**QUICK, "sampler": name, "steps": 1})))
        step = next(event for event in events if isinstance(event, Step))
        assert np.ptp(np.asarray(step.preview)) > 0, name


def test_the_last_preview_looks_like_the_picture(engine):
    """x0 through the model's matrix, against the picture shrunk to the same size."""
    for sampler in ("DDIM", "DPM++ 2M Karras", "Heun"):
        *_, step, finished = engine.generate(GenerationRequest(**{**QUICK, "steps": 12, "sampler": sampler}))
        picture = finished.images[0].resize(step.preview.size, Image.Resampling.BOX)
        difference = np.abs(np.asarray(step.preview, float) - np.asarray(picture, float)).mean()
        assert difference < 25, f"{sampler}: {difference:.0f} of 255"


def test_previews_do_not_change_the_picture(expected):
    quiet = Engine(Settings(previews=False))
    events = list(quiet.generate(GenerationRequest(**QUICK)))
    assert all(event.preview is None for event in events if isinstance(event, Step))
    assert events[-1].images[0].tobytes() == expected


def test_a_second_run_while_one_is_open_is_refused(engine, expected):
    first = engine.generate(GenerationRequest(**QUICK))
    next(first)
    with pytest.raises(EngineBusy):
        next(engine.generate(GenerationRequest(**QUICK)))
    first.close()
    assert pixels(engine) == expected


def test_closing_cancels_from_another_thread_and_leaves_inference_mode(engine, expected):
    running = engine.generate(GenerationRequest(**{**QUICK, "steps": 50}))
    list(islice(running, 3))
    closer = threading.Thread(target=running.close)
    closer.start()
    closer.join()
    assert not torch.is_inference_mode_enabled()
    assert pixels(engine) == expected


PLACES = {
    "load": "core.library.loading.load_part",
    "encode": "core.families.sd.StableDiffusion.encode_prompt",
    "step": "core.families.sd.StableDiffusion.predict",
    "decode": "core.diffusion.decoding.decode",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("times", [1, 9])
def test_out_of_memory_is_retried_once_and_never_sticks(monkeypatch, expected, place, times):
    """torch's own error, raised at the outermost call of each stage, `times` in a row."""
    import core.diffusion.decoding  # noqa: F401 - the places to patch

    engine = Engine(Settings())
    target, _, name = PLACES[place].rpartition(".")
    owner = __import__("pkgutil").resolve_name(target)
    real, left = getattr(owner, name), [times]

    def fail(*args, **options):
        if left[0]:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args, **options)

    monkeypatch.setattr(owner, name, fail)
    if times == 1:
        assert pixels(engine) == expected
    else:
        with pytest.raises(OutOfMemory, match="256 × 256 with Pocket needs more memory"):
            run(engine)
    monkeypatch.undo()
    assert pixels(engine) == expected
    assert engine._models.size > 0


def test_other_errors_of_a_step_do_not_stick_either(monkeypatch, engine, expected):
    def fail(*args, **options):
        raise RuntimeError("something else")

    monkeypatch.setattr("core.families.sd.StableDiffusion.predict", fail)
    with pytest.raises(RuntimeError, match="something else"):
        run(engine)
    monkeypatch.undo()
    assert pixels(engine) == expected


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"checkpoint": "nothing"}, "checkpoint", "Model: “nothing” is not allowed; use one of pocket"),
        ({"sampler": "LCM", "steps": 60}, "steps", "at most 50 with LCM"),
        ({"clip_skip": 4}, "clip_skip", "Clip skip: 4 is not allowed; use at most 3 with Pocket"),
        ({"loras": [Lora(name="x")]}, "loras", "LoRA: “x” is not allowed"),
        ({"width": 4096, "height": 4096, "steps": 150, "batch_size": 16}, "steps", "million on this server"),
    ],
)
def test_what_a_model_or_the_host_does_not_allow_is_refused(engine, expected, fields, field, message):
    with pytest.raises(RequestError, match=message) as caught:
        run(engine, **fields)
    assert caught.value.field == field
    assert pixels(engine) == expected


def test_a_missing_control_network_is_named(engine):
    control = Control(net="../../etc", image=Image.new("RGB", (8, 8)))
    with pytest.raises(RequestError, match=r"Network: “\.\./\.\./etc” is not allowed"):
        run(engine, controls=[control])


def test_a_space_allows_less(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/darkroom")
    with pytest.raises(RequestError, match="Steps: 51 is not allowed; use at most 50 on this server"):
        Engine(Settings()).library.resolve(GenerationRequest(steps=51))


@pytest.fixture
def models(tmp_path):
    """A models folder of its own with a copy of the pocket model."""
    shutil.copytree(tiny.POCKET, tmp_path / "checkpoints" / "pocket")
    return tmp_path


def damage_header(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 64)


def truncate(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def forget_weights(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def leave_a_pickle(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")


def forget_a_config(folder):
    (folder / "unet" / "config.json").unlink()


def name_a_foreign_class(folder):
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("UNet2DConditionModel", "os.system"))


def name_another_family(folder):
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "WanPipeline"))


def name_a_family_that_it_is_not(folder):
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "FluxPipeline"))


def nest_json(folder):
    (folder / "model_index.json").write_text("[" * 100_000)


def shorten_the_index(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "unet": ["diffusers"]}))


def empty_a_config(folder):
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps({**config, "block_out_channels": []}))


def half_a_card(folder):
    (folder / "darkroom.json").write_text(json.dumps({"guidance_scale": "high"}))


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (truncate, "its unet is damaged or not fully copied"),
        (damage_header, "its unet is damaged or not fully copied"),
        (forget_weights, "its vae has no weights"),
        (leave_a_pickle, "its vae is a pickle"),
        (forget_a_config, "unet/config.json is missing"),
        (name_a_foreign_class, "its unet is a os.system, which Darkroom does not know"),
        (name_another_family, "made for WanPipeline"),
        (name_a_family_that_it_is_not, "its unet is none of FLUX.1"),
        (nest_json, "model_index.json is not JSON"),
        (shorten_the_index, "its files do not fit together"),
        (empty_a_config, "its files do not fit together"),
        (half_a_card, "its darkroom.json is not right: guidance_scale"),
    ],
)
def test_a_broken_checkpoint_is_listed_with_its_reason(models, expected, harm, problem):
    shutil.copytree(models / "checkpoints" / "pocket", models / "checkpoints" / "broken")
    harm(models / "checkpoints" / "broken")
    engine = Engine(Settings(models=models))
    broken, pocket = engine.library.checkpoints()
    assert problem in broken.problem
    assert pocket.problem is None
    with pytest.raises(CheckpointError, match="broken cannot be used"):
        run(engine, checkpoint="broken")
    assert pixels(engine, checkpoint="pocket") == expected


@pytest.mark.parametrize("folder", ["checkpoints", "controlnet", "loras", "embeddings", "vae"])
@pytest.mark.parametrize("entry", [{"data_offsets": []}, {"dtype": "F16", "shape": [], "data_offsets": [0, 0]}, 7])
def test_no_file_keeps_the_engine_from_starting(models, expected, folder, entry):
    header = json.dumps({"lora_unet_x_attn2_to_k.lora_down.weight": entry}).encode()
    (models / folder).mkdir(exist_ok=True)
    (models / folder / "odd.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    engine = Engine(Settings(models=models))
    listed = [
        each.problem for each in (*engine.library.checkpoints(), *engine.library.networks(), *engine.library.loras())
    ]
    assert sum(problem is not None for problem in listed) == (folder in ("checkpoints", "controlnet", "loras"))
    with pytest.raises(DarkroomError, match="VAE"):
        run(engine, vae="odd.safetensors")
    assert pixels(engine) == expected


def test_weights_that_do_not_fit_their_config_are_refused(models):
    config = models / "checkpoints" / "pocket" / "unet" / "config.json"
    config.write_text(config.read_text().replace('"cross_attention_dim": 128', '"cross_attention_dim": 64'))
    with pytest.raises(CheckpointError, match="its unet is damaged or does not fit"):
        run(Engine(Settings(models=models)))


def test_a_rescan_finds_what_is_new_and_a_replaced_file_is_loaded_anew(models, expected):
    engine = Engine(Settings(models=models))
    assert pixels(engine) == expected
    weights = models / "checkpoints" / "pocket" / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: tensor * 0.9 for name, tensor in load_file(weights).items()}, weights)
    engine.library.rescan()
    assert pixels(engine) != expected
    shutil.copytree(tiny.POCKET, models / "checkpoints" / "another")
    assert [checkpoint.name for checkpoint in engine.library.rescan()] == ["another", "pocket"]


def test_no_model_at_all_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match="put a diffusers folder into models/checkpoints"):
        run(Engine(Settings(models=tmp_path)))


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_folder_that_diffusers_saved_runs(tmp_path, family):
    getattr(tiny, family)().save_pretrained(tmp_path / "checkpoints" / "mine")
    engine = Engine(Settings(models=tmp_path))
    (found,) = engine.library.checkpoints()
    assert (found.problem, found.family, found.native_size) == (None, {"sd": "sd1", "sdxl": "sdxl"}[family], 64)
    assert run(engine).images[0].size == (64, 64)


def test_tasks_run_through_the_same_door(engine, expected):
    source = run(engine).images[0]
    mask = Image.new("L", source.size)
    mask.paste(255, (0, 0, 128, 256))
    changed = run(engine, prompt="a green tree", image=source, strength=0.5, steps=4)
    inpainted = run(engine, prompt="a green tree", image=source, mask=mask, steps=4)
    assert changed.request.task == "image"
    assert inpainted.request.task == "inpaint"
    assert changed.images[0].tobytes() != inpainted.images[0].tobytes() != expected


@pytest.mark.requires_cuda
def test_a_gpu_draws_the_same_picture_nearly(expected):
    image = run(Engine(Settings(device="cuda"))).images[0]
    reference = Image.frombytes("RGB", image.size, expected)
    assert np.abs(np.asarray(image, float) - np.asarray(reference, float)).mean() < 12


def test_tokens_are_counted_as_the_model_reads_them(engine):
    assert engine.count_tokens("a red circle on a blue background", None) == (7, 1, 30)
    assert engine.count_tokens("", "pocket") == (0, 1, 30)
    assert engine.count_tokens("red " * 2000, "pocket") == (2000, 67, 30)


def test_prompts_that_change_or_add_up_run_and_what_says_the_same_is_the_same(engine, expected):
    assert pixels(engine, prompt="[a red circle|a red circle] on a (blue:1.0) background") == expected
    assert pixels(engine, prompt="[a red circle:a green tree:1] on a blue background") != expected
    assert run(engine, prompt="a red circle AND a blue background:0.5").images[0].size == (256, 256)
    with pytest.raises(RequestError, match="this model has one text encoder"):
        run(engine, prompt_2="a tree")
