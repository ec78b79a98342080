"""A new family is one file and one row: tests/toy.py, which nothing in core/ has heard of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from core import Engine, Finished, GenerationRequest, Settings, Step
from core.families.table import FAMILIES
from tests import tiny, toy


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """With a model of the family, which its pipeline's class alone tells."""
    monkeypatch.setitem(FAMILIES, "toy", toy.ROW)
    folder = tmp_path / "checkpoints" / "mine"
    tiny.sd().save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "ToyPipeline"}))
    return Engine(Settings(models=tmp_path, data=tmp_path / "data"))


def expected(bright: bool) -> np.ndarray:
    """The picture of the plain colour."""
    vae = tiny.sd().vae
    with torch.inference_mode():
        pixels = vae.decode(toy.colour(bright).expand(1, 4, 32, 32) / vae.config.scaling_factor).sample[0]
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("prompt", ["a bright day", "night"])
def test_it_draws(engine, prompt):
    assert [(each.family, each.problem) for each in engine.library.checkpoints()] == [("toy", None)]
    request = GenerationRequest(prompt=prompt, steps=4, seed=1, width=64, height=64, batch_size=2)
    *steps, finished = [event for event in engine.generate(request) if isinstance(event, (Step, Finished))]
    assert [step.index for step in steps] == [1, 2, 3, 4]
    assert (finished.request.sampler, finished.request.guidance_scale) == ("Euler", 1.0)
    for image in finished.images:
        assert np.abs(np.asarray(image) - expected("bright" in prompt)).max() <= 2


def test_the_two_pictures_differ():
    assert np.abs(expected(True) - expected(False)).max() > 20
