"""Stable Diffusion 3 through the engine, from folders as diffusers saves them. Parity stands in test_parity.py."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from core import Engine, Finished, GenerationRequest, Settings
from core.errors import CheckpointError, DarkroomError, RequestError
from core.memory.planning import WAYS
from core.prompts.grammar import Time, parse
from core.samplers import FLOW
from tests import tiny
from tests.diffusion.test_parity import model_of, picture

SIZE = 64


@pytest.fixture(scope="module")
def pipeline():
    return tiny.sd3()


@pytest.fixture
def folder(pipeline, tmp_path):
    """A checkpoint's folder; its T5 lies in shards, as the published one does."""
    folder = tmp_path / "checkpoints" / "third"
    pipeline.save_pretrained(folder)
    pipeline.text_encoder_3.save_pretrained(folder / "text_encoder_3", max_shard_size="40KB")
    (folder / "text_encoder_3" / "model.safetensors").unlink()
    assert len(list((folder / "text_encoder_3").glob("*.safetensors"))) > 1
    return folder


def engine(folder) -> Engine:
    return Engine(Settings(models=folder.parents[1], data=folder.parents[1] / "data"))


def draw(engine: Engine, **fields):
    request = GenerationRequest(
        **{"prompt": "a red circle", "steps": 3, "seed": 5, "width": SIZE, "height": SIZE, **fields}
    )
    *_, last = engine.generate(request)
    assert isinstance(last, Finished)
    return np.asarray(last.images[0]).astype(int)


def test_it_is_told_and_has_its_own_defaults(folder):
    (checkpoint,) = engine(folder).library.checkpoints()
    assert checkpoint.problem is None
    assert (checkpoint.family, checkpoint.native_size, checkpoint.most_side) == ("sd3", SIZE, 96)
    assert (checkpoint.sampler, checkpoint.guidance_scale) == ("Euler", 4.5)
    assert checkpoint.samplers == tuple(FLOW)
    assert checkpoint.size_bytes == sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def test_the_engine_draws_what_diffusers_draws(folder, pipeline):
    theirs = pipeline(
        prompt="a red circle",
        num_inference_steps=3,
        guidance_scale=4.5,
        generator=torch.Generator().manual_seed(5),
        height=SIZE,
        width=SIZE,
    ).images[0]
    assert np.array_equal(draw(engine(folder)), np.asarray(theirs))


@pytest.mark.parametrize("way", WAYS[2:], ids=lambda way: way.words)
def test_every_way_through_memory_draws_the_same_picture(through, folder, way):
    expected = draw(engine(folder))
    with through(way):
        assert np.array_equal(draw(engine(folder)), expected)


def test_it_draws_without_t5(folder):
    with_t5 = draw(engine(folder))
    shutil.rmtree(folder / "text_encoder_3")
    without = engine(folder)
    assert without.library.checkpoints()[0].text_encoders == 2
    assert not np.array_equal(draw(without), with_t5)


@pytest.mark.parametrize("number", ["00001", "00002"])
def test_a_shard_that_is_missing_is_named(folder, number):
    missing = next(folder.glob(f"text_encoder_3/*-{number}-of-*.safetensors"))
    missing.unlink()
    (checkpoint,) = engine(folder).library.checkpoints()
    assert checkpoint.problem == f"its text_encoder_3 is not complete: {missing.name} is missing"


def test_sizes_between_its_patches(folder):
    assert draw(engine(folder), width=72, height=88).shape == (88, 72, 3)


def test_what_it_cannot_do_is_refused_by_name(folder):
    third = engine(folder)
    with pytest.raises(RequestError, match=r"Sampler: “DDIM” is not allowed; use one of Euler, Heun"):
        third.library.resolve(GenerationRequest(sampler="DDIM"))
    with pytest.raises(RequestError, match=r"Width: “104 × 64” is not allowed; use sides of at most 96 pixels"):
        third.library.resolve(GenerationRequest(width=104, height=64))
    with pytest.raises(RequestError, match="Hires"):
        third.library.resolve(GenerationRequest(width=64, height=64, hires={"scale": 2.0}))
    with pytest.raises(DarkroomError):
        third.library.resolve(GenerationRequest(loras=[{"name": "none"}]))


def test_levels_of_an_unknown_kind_are_refused(folder, pipeline):
    pipeline.scheduler.__class__(shift_terminal=0.02).save_pretrained(folder / "scheduler")
    (checkpoint,) = engine(folder).library.checkpoints()
    assert "noise levels" in (checkpoint.problem or "")
    with pytest.raises(CheckpointError):
        engine(folder).library.resolve(GenerationRequest(checkpoint="third"))


def test_a_picture_made_from_another_and_one_painted_in(folder):
    third, source = engine(folder), picture(1)
    near, far = (draw(third, image=source, strength=strength) for strength in (0.4, 1.0))
    original = np.asarray(source).astype(int)
    assert abs(near - original).mean() < abs(far - original).mean()
    mask = source.convert("L").point(lambda _: 0)
    mask.paste(255, (16, 16, 40, 40))
    painted = draw(third, image=source, mask=mask, strength=1.0, mask_feather=0)
    outside = np.asarray(mask) == 0
    assert np.array_equal(painted[outside], original[outside])
    assert not np.array_equal(painted[~outside], original[~outside])


def test_emphasis_and_long_prompts(pipeline):
    model = model_of(pipeline)

    def read(text: str, chunks: int = 1):
        wording = parse(text).at(Time(0, 1))
        return model.encode_prompt((wording, wording), 1, chunks=chunks).embeds

    plain, strong = read("a red circle"), read("a (red:1.4) circle")
    clip = tiny.tokenizer().model_max_length
    assert plain.shape == (1, clip + 256, 72)
    assert not torch.equal(plain[:, :clip], strong[:, :clip])
    (word,) = (plain[0, clip:] != strong[0, clip:]).any(1).nonzero().flatten() + clip  # T5's token for it alone
    assert torch.allclose(strong[0, word], 1.4 * plain[0, word])
    many = "red " * 300
    wording = parse(many).at(Time(0, 1))
    chunks = model.count_chunks((wording, wording))
    assert read(many, chunks).shape[1] == chunks * clip + 256 * -(-chunks // 2) >= 301 + chunks * clip
