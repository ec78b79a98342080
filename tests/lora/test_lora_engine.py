"""LoRAs through the engine's door: pictures, what is recorded, what is not read twice, and the base's bits after."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from core import Control, Engine, Finished, GenerationRequest, Lora, Settings
from core.errors import DarkroomError, LoraError, RequestError
from core.memory.planning import WAYS
from core.pictures.metadata import encode_png, read_text
from core.pictures.replay import compare
from tests import loras, tiny

QUICK = {"prompt": "a red circle", "seed": 7, "steps": 2, "width": 64, "height": 64}
NETWORKS = ("unet", "text_encoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A tiny model, and LoRAs for all of it, for its text encoder, and spoilt ones."""
    folder = tmp_path_factory.mktemp("models")
    pipeline = tiny.sd()
    pipeline.save_pretrained(folder / "checkpoints" / "tiny")
    tiny.controlnet(pipeline.unet).save_pretrained(folder / "controlnet" / "net")
    shapes = loras.of(pipeline)
    good = loras.lora(shapes, 1)
    loras.write(folder / "loras" / "ink.safetensors", good)
    loras.write(folder / "loras" / "sub" / "wash.safetensors", loras.lora({"lora_unet": shapes["lora_unet"]}, 2))
    loras.write(folder / "loras" / "words.safetensors", loras.lora({"lora_te": shapes["lora_te"]}, 3))
    loras.write(folder / "loras" / "nan.safetensors", good | {next(iter(good)): torch.full((4, 64), math.nan)})
    last = list(good)[-3]
    assert last.endswith("lora_down.weight")
    loras.write(folder / "loras" / "half.safetensors", good | {last: torch.ones(5, 32)})
    loras.write(folder / "loras" / "xl.safetensors", {k.replace("lora_te_", "lora_te2_"): t for k, t in good.items()})
    return folder


@pytest.fixture(scope="module")
def engine(models):
    return Engine(Settings(models=models))


def run(engine, *wanted: Lora, **fields) -> Finished:
    *_, last = engine.generate(GenerationRequest(**{**QUICK, **fields, "loras": wanted}))
    assert isinstance(last, Finished)
    return last


def pixels(engine, *wanted: Lora, **fields) -> bytes:
    return run(engine, *wanted, **fields).images[0].tobytes()


@pytest.fixture(scope="module")
def base(engine):
    return pixels(engine)


def test_a_lora_changes_the_picture_and_taking_it_out_gives_the_very_bits_back(engine, base):
    ink = pixels(engine, Lora(name="ink"))
    assert ink != base
    assert pixels(engine) == base
    assert pixels(engine, Lora(name="ink", weight=0.0)) == base
    assert pixels(engine, Lora(name="ink")) == ink


def test_the_plan_counts_what_loras_keep_of_the_weights_and_a_run_that_is_over_is_not_counted_twice(engine):
    def plan(*wanted: Lora):
        return engine.plan(engine.library.resolve(GenerationRequest(**QUICK, loras=wanted)))

    ink = Lora(name="ink")
    kept = 4 * next(info.changes for info in engine.library.loras() if info.name == "ink")
    assert plan(ink).needs - plan().needs == kept > 0
    assert plan(ink.replace(weight=0.0)).needs == plan().needs
    whole = 4 * (
        engine.library.checkpoints()[0].footprint.denoiser + sum(engine.library.checkpoints()[0].footprint.encoders)
    )
    many = [Lora(name="ink", weight=k / 100) for k in range(1, 17)]
    assert plan(*many).needs - plan().needs == min(whole, 16 * kept)
    run(engine, ink)
    run(engine)
    before = engine.machine().held
    run(engine, ink)
    assert engine.machine().held - before == kept


def test_two_at_once_are_both_visible_and_a_fresh_engine_draws_the_same(engine, models, base):
    both = [Lora(name="ink", weight=0.5), Lora(name="wash", weight=0.7)]
    pictures = {pixels(engine, *chosen) for chosen in (both, both[:1], both[1:], [])}
    assert len(pictures) == 4
    assert pixels(Engine(Settings(models=models)), *both) in pictures - {base}


def test_the_text_encoders_weight_is_its_own_and_reaches_the_kept_prompts(engine, base):
    """The prompt's encoding is kept between runs; only the LoRA in the text encoder tells these apart."""
    words = [pixels(engine, Lora(name="words", text_encoder_weight=weight)) for weight in (1.0, 0.5, 0.0)]
    assert len({base, *words}) == 3 and words[2] == base
    assert pixels(engine, Lora(name="words")) == words[0]


def test_tags_in_the_prompt_do_what_the_request_does(engine):
    said = run(engine, prompt="a red circle <lora:wash:0.5:0.7>")
    asked = run(engine, Lora(name="sub/wash", weight=0.7, text_encoder_weight=0.5))
    assert said.request == asked.request and said.request.prompt == "a red circle"
    assert said.images[0].tobytes() == asked.images[0].tobytes()
    assert engine.count_tokens("a red circle <lora:wash:0.5>", None) == engine.count_tokens("a red circle", None)


def test_what_was_merged_is_recorded_and_a_changed_file_is_named(models):
    path = models / "loras" / "changing.safetensors"
    shapes = loras.of(tiny.sd())
    loras.write(path, loras.lora(shapes, 5))
    engine = Engine(Settings(models=models))
    first = run(engine, Lora(name="changing"))
    assert len(first.made_with["lora_hash:changing"]) == 10
    png = encode_png(first.images[0], first.request, 0, first.made_with)
    assert "<lora:changing:1>" in read_text(png).text and "Lora hashes" in read_text(png).text
    loras.write(path, loras.lora(shapes, 6))
    second = run(engine, Lora(name="changing"))
    told = str(compare((first.images[0], second.images[0]), (first.made_with, second.made_with)))
    assert "LoRA changing: " in told and first.made_with["lora_hash:changing"] in told
    path.unlink()


def test_a_run_reports_what_it_merged(engine):
    (report,) = run(engine, Lora(name="ink")).loras
    assert report == engine.lora_report("ink")
    assert report.matched == {"unet": 32, "text_encoder": 12} and report.unmatched == ()


def test_what_is_loaded_is_listed_beside_a_lora(engine):
    run(engine, Lora(name="ink"))
    assert {part.name.rpartition("/")[2] for part in engine.loaded()} >= set(NETWORKS)


def test_a_lora_already_seen_is_not_read_again(engine, monkeypatch):
    expected = pixels(engine, Lora(name="ink"))
    pixels(engine)
    monkeypatch.setattr("core.library.loading.read_lora", lambda info: pytest.fail("read again"))
    assert pixels(engine, Lora(name="ink")) == expected


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nan", LoraError, "nan cannot be used: .* holds values that are not finite numbers"),
        ("half", LoraError, "half cannot be used: text_encoder .* has factors that do not fit each other"),
        ("xl", LoraError, "xl cannot be used: it is made for Stable Diffusion XL"),
        ("none", RequestError, "LoRA: “none” is not allowed; use one of half, ink"),
    ],
)
def test_a_bad_one_is_refused_and_the_next_run_has_the_bases_bits(engine, base, name, error, words):
    for before in ([], [Lora(name="ink")]):
        pixels(engine, *before)
        with pytest.raises(error, match=words) as caught:
            run(engine, Lora(name="wash"), Lora(name=name))
        assert isinstance(caught.value, DarkroomError) and caught.value.field == "loras"
        assert pixels(engine) == base


def test_one_that_is_deleted_after_it_was_listed(models, engine, base):
    path = loras.write(models / "loras" / "gone.safetensors", loras.lora(loras.of(tiny.sd()), 8))
    engine.library.rescan()
    assert pixels(engine, Lora(name="gone")) != base
    path.unlink()
    with pytest.raises(LoraError, match="the file of gone is no longer there; look for models again"):
        run(engine, Lora(name="gone"))
    assert pixels(engine) == base


def test_a_cancelled_run_leaves_nothing(engine, base):
    running = engine.generate(GenerationRequest(**{**QUICK, "steps": 20, "loras": [Lora(name="ink")]}))
    while type(next(running)).__name__ != "Step":
        pass
    running.close()
    assert pixels(engine) == base


def test_running_out_of_memory_while_merging_is_tried_again(engine, monkeypatch, base):
    expected = pixels(engine, Lora(name="ink"))
    pixels(engine)
    from core.lora.delta import Factors

    real, calls = Factors.delta, []

    def fail(factors, *given):
        calls.append(1)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(factors, *given)

    monkeypatch.setattr(Factors, "delta", fail)
    assert pixels(engine, Lora(name="ink")) == expected
    monkeypatch.undo()
    assert pixels(engine) == base


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.words or "all at once")
def test_a_lora_goes_with_a_mask_a_controlnet_and_every_place_of_the_weights(through, engine, base, way):
    picture, mask = Image.new("RGB", (64, 64), (90, 140, 200)), Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    fields = {"image": picture, "mask": mask, "controls": [Control(net="net", image=picture, weight=2.0)]}
    runs = ([Lora(name="ink")], fields), ([], fields), ([Lora(name="ink")], {**fields, "controls": []})
    with through(way):
        drawn, plain, free = (np.asarray(run(engine, *chosen, **asked).images[0]) for chosen, asked in runs)
    outside = np.asarray(mask.filter(ImageFilter.MaxFilter(13))) == 0
    assert (drawn[outside] == (90, 140, 200)).all()
    assert (drawn != plain).any() and (drawn != free).any()
    with through(way):
        assert pixels(engine) == base
