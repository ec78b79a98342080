"""FLUX.1 through the engine, from folders as diffusers saves them. Parity stands in test_parity.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core import Engine, Finished, GenerationRequest, Settings
from core.errors import RequestError
from core.memory.planning import WAYS
from core.pictures.dialects import a1111
from core.pictures.dialects.found import Texts, check
from core.prompts.grammar import Time, parse
from core.request.units import Lora
from tests import loras, tiny
from tests.diffusion.test_parity import model_of
from ui.desk.desk import OFFERED, Desk

SIZE = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    tiny.flux().save_pretrained(folder / "checkpoints" / "FLUX.1-dev")
    tiny.flux(guided=False).save_pretrained(folder / "checkpoints" / "FLUX.1-schnell")
    return folder


@pytest.fixture
def engine(models):
    return Engine(Settings(models=models, data=models / "data"))


def draw(engine: Engine, **fields):
    usual = {"prompt": "a red circle", "checkpoint": "FLUX.1-dev", "steps": 3, "seed": 5}
    *_, last = engine.generate(GenerationRequest(**{**usual, "width": SIZE, "height": SIZE, **fields}))
    assert isinstance(last, Finished)
    return np.asarray(last.images[0]).astype(int)


def drawn_by(pipeline):
    """What `draw` asks for, by diffusers."""
    picture = pipeline(
        prompt="a red circle",
        num_inference_steps=3,
        guidance_scale=3.5,
        generator=torch.Generator().manual_seed(5),
        height=SIZE,
        width=SIZE,
    ).images[0]
    return np.asarray(picture).astype(int)


def test_they_are_told_and_have_their_own_defaults(engine):
    dev, schnell = engine.library.checkpoints()
    assert (dev.problem, dev.family, dev.native_size) == (None, "flux", 1024)
    assert (dev.sampler, dev.guidance_scale, dev.steps, dev.has_distilled_guidance) == ("Euler", 1.0, 20, True)
    assert (schnell.steps, schnell.has_distilled_guidance) == (4, False)
    assert dev.samplers == ("Euler", "DPM++ 2M", "UniPC")


def test_the_engine_draws_what_diffusers_draws(engine):
    assert np.array_equal(draw(engine), drawn_by(tiny.flux()))


def test_a_lora_draws_what_diffusers_draws_with_it(models, engine):
    plain, pipeline = draw(engine), tiny.flux()
    layers = loras.weights(pipeline.transformer, ("to_q", "to_out.0", "proj_mlp"))
    state = loras.lora({"lora_transformer": layers}, alpha=None)
    paths = {loras.kohya("lora_transformer", path): path for path, _ in pipeline.transformer.named_modules()}
    loras.write(models / "loras" / "onetrainer.safetensors", state)
    engine.library.rescan()
    theirs = {f"transformer.{paths[key.split('.')[0]]}.{key.split('.', 1)[1]}": t for key, t in state.items()}
    pipeline.load_lora_weights(theirs)
    ours = draw(engine, loras=[Lora(name="onetrainer")])
    assert np.abs(ours - drawn_by(pipeline)).max() <= 1
    assert np.abs(ours - plain).max() > 8
    assert np.array_equal(draw(engine), plain)


def test_both_kinds_of_guidance_count(engine):
    plain = draw(engine)
    assert not np.array_equal(draw(engine, distilled_guidance=1.0), plain)
    guided = draw(engine, guidance_scale=3.0, negative_prompt="blue")
    assert not np.array_equal(guided, plain)
    assert not np.array_equal(guided, draw(engine, guidance_scale=3.0, negative_prompt="a circle"))
    fast = {"checkpoint": "FLUX.1-schnell"}
    assert np.array_equal(draw(engine, **fast, distilled_guidance=1.0), draw(engine, **fast))


def test_sizes_between_its_patches(engine):
    assert draw(engine, width=72, height=88).shape == (88, 72, 3)


@pytest.mark.parametrize("way", WAYS[3:], ids=lambda way: way.words)
def test_every_way_through_memory_draws_the_same_picture(through, engine, way):
    expected = draw(engine)
    with through(way):
        assert np.array_equal(draw(engine), expected)


def test_long_prompts_are_read_to_their_end():
    model = model_of(tiny.flux())

    def read(text: str):
        wording = parse(text).at(Time(0, 1))
        chunks = model.count_chunks((wording, wording))
        return chunks, model.encode_prompt((wording, wording), 1, chunks=chunks).embeds

    chunks, embeds = read("red " * 600)
    assert (chunks, embeds.shape) == (2, (1, 1024, 72))
    assert not torch.equal(embeds, read("red " * 599 + "blue")[1])


def test_what_it_cannot_do_is_refused_by_name(engine):
    with pytest.raises(RequestError, match="Prompt: “3 chunks of tokens” is not allowed; use at most 2"):
        draw(engine, prompt="red " * 1_100)
    with pytest.raises(RequestError, match=r"Sampler: “Heun” is not allowed; use one of Euler, DPM\+\+ 2M, UniPC"):
        engine.library.resolve(GenerationRequest(sampler="Heun"))
    with pytest.raises(RequestError, match=r"Clip skip: 2 is not allowed; use at most 1"):
        engine.library.resolve(GenerationRequest(clip_skip=2))


def test_the_page_offers_the_guidance_that_is_built_in(engine):
    desk = Desk(engine, None, None, [])
    for name, there in (("FLUX.1-dev", True), ("FLUX.1-schnell", False)):
        assert dict(zip(OFFERED, desk.offered(name), strict=True))["distilled_guidance"].visible == there


def test_forges_own_text_gives_the_distilled_guidance():
    text = "a cat\nSteps: 20, CFG scale: 1, Distilled CFG Scale: 3.5"
    fields, unknown = check(a1111.read(Texts({"parameters": text})).found)
    assert (fields["guidance_scale"], fields["distilled_guidance"], unknown) == (1, 3.5, {})
