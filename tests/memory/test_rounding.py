"""Weights rounded to 8 bits: where nothing else fits, with nearly the same pictures, and back to the very same."""

from __future__ import annotations

import numpy as np
import pytest

from core import Engine, Finished, GenerationRequest, Settings
from core.memory import planning as memory
from core.memory.planning import ROUNDED, ROUNDED_WITHOUT_OFFLOAD, WAYS
from tests import tiny

FAMILIES = {"sd1": tiny.sd, "sdxl": tiny.sdxl, "sd3": tiny.sd3, "flux": tiny.flux}


@pytest.fixture
def run_by(through):
    def run(engine: Engine, way: memory.Way, **fields) -> Finished:
        usual = {"prompt": "a red circle on a blue background", "seed": 7, "steps": 4, "width": 128, "height": 128}
        with through(way):
            *_, last = engine.generate(GenerationRequest(**usual | fields))
        return last

    return run


def pixels(finished: Finished) -> np.ndarray:
    return np.asarray(finished.images[0], float)


def test_pictures_differ_a_little_say_so_and_are_the_same_again_without(run_by):
    engine = Engine(Settings(previews=False))
    before = run_by(engine, WAYS[0])
    rounded = run_by(engine, ROUNDED_WITHOUT_OFFLOAD)
    unet = {part.name: part for part in engine.loaded()}["pocket/unet"]
    parameters = engine.library.checkpoints()[0].footprint.denoiser
    assert (unet.size, unet.dtype) == (parameters, "8 bits")
    assert sum(p.nbytes for p in model_of(engine, "unet").parameters()) < 1.02 * parameters
    after = run_by(engine, WAYS[0])
    assert after.images[0].tobytes() == before.images[0].tobytes()
    assert 0 < np.abs(pixels(rounded) - pixels(before)).mean() < 4
    assert (before.made_with["dtype"], rounded.made_with["dtype"]) == ("float32", "float32, weights in 8 bits")


def model_of(engine: Engine, name: str):
    return next(model for key, _, model in engine._models.models() if key.path.name == name)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_streams_what_it_rounds(run_by, tmp_path, family):
    FAMILIES[family]().save_pretrained(tmp_path / "checkpoints" / family)
    engine = Engine(Settings(models=tmp_path, data=tmp_path / "data", previews=False))
    small = {"width": 64, "height": 64}
    plain, at_once, streamed = (
        pixels(run_by(engine, way, **small)) for way in (WAYS[0], ROUNDED_WITHOUT_OFFLOAD, ROUNDED)
    )
    assert np.array_equal(at_once, streamed)
    assert 0 < np.abs(plain - at_once).mean() < 20  # of random weights, which rounding moves more than trained ones


def test_the_next_run_uses_what_is_rounded_already(run_by):
    engine = Engine(Settings(previews=False))
    run_by(engine, ROUNDED_WITHOUT_OFFLOAD)
    first = model_of(engine, "unet")
    run_by(engine, ROUNDED_WITHOUT_OFFLOAD)
    assert model_of(engine, "unet") is first
