"""Where the parts wait does not change the picture, and leaves nothing behind; decoding is mended without a step."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from core import Engine, Finished, GenerationRequest, Notice, Settings, Step
from core.diffusion.decoding import picture
from core.errors import DarkroomError
from core.families.contract import Components
from core.families.sd import StableDiffusion
from core.library.loading import Loader
from core.memory.machine import Machine
from core.memory.placing import Placed, empty_caches, placed
from core.memory.planning import WAYS
from core.sizes import GB
from tests import tiny

QUICK = {"prompt": "a red circle on a blue background", "seed": 7, "steps": 2, "width": 64, "height": 64}
TWICE = {**QUICK, "hires": {"scale": 1.5, "strength": 0.5}}


@pytest.fixture(scope="module")
def engine():
    return Engine(Settings(previews=False))


def run(engine, **fields) -> Finished:
    *_, last = engine.generate(GenerationRequest(**{**QUICK, **fields}))
    return last


@pytest.fixture(scope="module")
def expected(engine):
    return run(engine, **TWICE).images[0].tobytes()


@pytest.mark.parametrize("way", WAYS[1:], ids=lambda way: way.words)
def test_every_way_draws_the_same_picture(through, engine, expected, way):
    with through(way):
        assert run(engine, **TWICE).images[0].tobytes() == expected
    assert run(engine, **TWICE).images[0].tobytes() == expected  # it meets nothing that was hooked into the modules
    for _, _, model in engine._models.models():
        modules = list(model.modules()) if isinstance(model, torch.nn.Module) else []
        assert not any(hasattr(module, "_hf_hook") or module._forward_pre_hooks for module in modules)
        assert not any(module._diffusers_hook.hooks for module in modules if hasattr(module, "_diffusers_hook"))


def test_what_leaves_the_device_is_dropped_and_not_copied_back():
    """The device is one that nothing can be copied from."""
    encoder, denoiser, vae = modules = [torch.nn.Linear(2, 2).requires_grad_(False) for _ in range(3)]
    before = [(module.weight.data_ptr(), module.weight.clone()) for module in modules]
    with placed(Placed((encoder,), denoiser, vae), WAYS[3], "meta"):
        for module in (encoder, denoiser, denoiser, vae, encoder):
            assert module(torch.ones(1, 2)).is_meta
            assert [each for each in modules if each.weight.is_meta] == [module]
    for module, (place, weight) in zip(modules, before, strict=True):
        assert module.weight.data_ptr() == place and torch.equal(module.weight, weight)


def test_a_network_that_asks_for_patches_first_finds_them_on_the_device():
    """As those of SD 3.5 large do: they take what the transformer's `pos_embed` makes."""
    encoder, denoiser, vae, net = (torch.nn.Linear(2, 2).requires_grad_(False) for _ in range(4))
    denoiser.pos_embed = torch.nn.Linear(2, 2).requires_grad_(False)
    with placed(Placed((encoder,), denoiser, vae, (net,)), WAYS[3], "meta"):
        assert encoder(torch.ones(1, 2)).is_meta
        assert net(denoiser.pos_embed(torch.ones(1, 2))).is_meta
    assert not hasattr(denoiser.pos_embed, "_hf_hook")


def test_on_a_card_what_a_run_does_not_use_makes_room_and_comes_back(monkeypatch, engine, expected):
    """The card is full, and has a LoRA and tokenizers beside the networks."""
    run(engine, **TWICE)
    plan = engine.plan(engine.library.resolve(GenerationRequest(**TWICE)))
    card = Machine("cuda:0", "GPU", 8, 8 * GB, 0, "bfloat16", held=8 * GB, ram_free=8 * GB)
    with ExitStack() as in_use, monkeypatch.context() as full:
        full.setattr(engine, "machine", lambda: card)
        engine._make_room(Loader(engine._models, "cpu", plan, in_use), [])
    assert run(engine, **TWICE).images[0].tobytes() == expected


def fail_once(monkeypatch, name):
    """Memory runs out at the first call of the function `name`; the list counts its calls."""
    owner, _, attribute = name.rpartition(".")
    owner = __import__("pkgutil").resolve_name(owner)
    real, calls = getattr(owner, attribute), []

    def fail(*args, **options):
        calls.append(args)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args, **options)

    monkeypatch.setattr(owner, attribute, fail)
    return calls


def test_a_decode_that_ran_out_of_memory_is_done_again_and_no_step_is(monkeypatch, engine):
    whole = run(engine).images[0]
    calls = fail_once(monkeypatch, "core.diffusion.decoding.decode")
    events = list(engine.generate(GenerationRequest(**QUICK)))
    assert [event.index for event in events if isinstance(event, Step)] == [1, 2]
    assert ["decoded again in tiles" in event.text for event in events if isinstance(event, Notice)] == [True]
    assert len(calls) == 2
    assert events[-1].images[0].tobytes() == whole.tobytes()  # no larger than a tile: the very same
    assert events[-1].made_with["vae"] == "tiled"
    assert run(engine).made_with["vae"] == "whole"


def test_tiles_draw_nearly_the_same(monkeypatch, engine):
    size = {"width": 256, "height": 256}
    whole = np.asarray(run(engine, **size).images[0], float)
    monkeypatch.setattr("core.diffusion.decoding.TILE", 128)
    fail_once(monkeypatch, "core.diffusion.decoding.decode")
    tiled = np.asarray(run(engine, **size).images[0], float)
    assert 0 < np.abs(tiled - whole).mean() < 4


@pytest.fixture
def model():
    """A tiny model whose VAE overflows in float16: GroupNorm makes good what its first layer multiplies."""
    made = tiny.sd()
    made.vae.decoder.conv_in.weight.data *= 2e5
    parts = Components(made.unet, made.vae, (), (), {}, {})
    return StableDiffusion(parts)


def test_a_vae_that_overflows_decodes_again_in_float32(model):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    exact, silent = tiny.finish(picture(model, latents))
    assert silent == []
    model.parts.vae.half()
    mended, notices = tiny.finish(picture(model, latents))
    assert [notice.text for notice in notices] == [
        "The VAE gave no picture in float16; it was decoded again in float32"
    ]
    near = np.abs(np.asarray(mended, int) - np.asarray(exact, int)).max()
    assert near <= 2
    assert np.ptp(np.asarray(mended)) > 0


def test_latents_without_numbers_are_an_error_in_words(model):
    with pytest.raises(DarkroomError, match="only NaN"):
        tiny.finish(picture(model, torch.full((1, 4, 8, 8), float("nan"))))


def test_memory_is_given_back_without_what_only_cuda_has(monkeypatch):
    given = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: given.append(True))
    monkeypatch.setattr(torch.accelerator, "empty_host_cache", lambda: pytest.fail("it ends the process on a Mac"))
    empty_caches()
    assert given


def test_the_last_runs_peak_is_measured_beside_what_was_foretold(engine):
    run(engine)
    measured = engine.last_run.measured
    assert engine.last_run.checkpoint == "Pocket"
    assert engine.last_run.plan.needs > 0
    assert measured is None or measured > 0


def test_what_is_loaded_can_be_listed_and_unloaded(engine, expected):
    run(engine)
    parts = {part.name: part for part in engine.loaded()}
    assert {"pocket/unet", "pocket/vae", "pocket/text_encoder"} <= parts.keys()
    assert (parts["pocket/unet"].dtype, parts["pocket/unet"].device) == ("float32", "cpu")
    running = engine.generate(GenerationRequest(**QUICK))
    next(running)
    with pytest.raises(DarkroomError, match="stop it first"):
        engine.unload()
    running.close()
    engine.unload()
    assert engine.loaded() == []
    assert run(engine, **TWICE).images[0].tobytes() == expected


def test_models_leave_the_memory_after_idle_minutes(expected):
    engine = Engine(Settings(previews=False, idle_unload=1e-4))
    for _ in range(2):
        assert run(engine, **TWICE).images[0].tobytes() == expected
        engine._idle.join()
        assert engine.loaded() == []
