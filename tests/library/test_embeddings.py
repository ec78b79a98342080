"""Textual inversion: an embedding of a text encoder's own vectors for two words draws what the words draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core import Engine, Finished, GenerationRequest, Settings
from core.errors import RequestError
from core.prompts.grammar import Time, parse
from core.prompts.tokens import split_tokens
from tests import loras, tiny

QUICK = {"seed": 7, "steps": 1, "width": 64, "height": 64}


def vectors(encoder, text: str) -> torch.Tensor:
    """(n, width): what the encoder looks up for the tokens of `text`."""
    (tokens,) = split_tokens(tiny.tokenizer(), parse(text).at(Time(0, 1)))
    return encoder.get_input_embeddings().weight.detach()[[token.id for token in tokens]].clone()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A tiny SD and a tiny XL; MyInk of each, one of another width, and one that is spoilt."""
    folder = tmp_path_factory.mktemp("models")
    sd, xl = tiny.sd(), tiny.sdxl()
    sd.save_pretrained(folder / "checkpoints" / "sd")
    xl.save_pretrained(folder / "checkpoints" / "xl")
    kept = folder / "embeddings"
    loras.write(kept / "MyInk.safetensors", {"emb_params": vectors(sd.text_encoder, "red circle")})
    both = {"clip_l": vectors(xl.text_encoder, "red circle"), "clip_g": vectors(xl.text_encoder_2, "red circle")}
    loras.write(kept / "xl" / "xlink.safetensors", both)
    loras.write(kept / "circle.safetensors", {"emb_params": torch.ones(2, 768)})
    loras.write(kept / "spoilt.safetensors", {"emb_params": torch.full((1, 32), float("nan"))})
    (kept / "broken.safetensors").write_bytes(b"PK")
    return folder


@pytest.fixture(scope="module")
def engine(models):
    return Engine(Settings(models=models, previews=False))


def pixels(engine, **fields) -> bytes:
    *_, last = engine.generate(GenerationRequest(**{**QUICK, **fields}))
    assert isinstance(last, Finished)
    return last.images[0].tobytes()


@pytest.mark.parametrize(("checkpoint", "name"), [("sd", "myink"), ("xl", "XLInk")])
def test_a_word_stands_for_its_vectors_in_both_prompts(engine, checkpoint, name):
    plain = pixels(engine, checkpoint=checkpoint, prompt="a (red circle:1.2), big", negative_prompt="red circle")
    assert pixels(engine, checkpoint=checkpoint, prompt=f"a ({name}:1.2), big", negative_prompt=name) == plain
    assert pixels(engine, checkpoint=checkpoint, prompt="a blue tree, big", negative_prompt="red circle") != plain


def test_a_name_that_does_not_fit_the_model_is_a_word_like_any_other(engine, models):
    without = Engine(Settings(models=models, previews=False))
    without._embeddings = ()
    for prompt in ("a red circle", "xlink", "myinks"):
        assert pixels(engine, checkpoint="sd", prompt=prompt) == pixels(without, checkpoint="sd", prompt=prompt)


def test_comfyuis_way_to_name_one_means_the_same(engine):
    assert pixels(engine, checkpoint="sd", prompt="a (embedding:myink:1.2)") == pixels(
        engine, checkpoint="sd", prompt="a (myink:1.2)"
    )


def test_the_only_tensor_of_a_file_is_its_vectors_whatever_its_key(engine, models):
    """diffusers' textual_inversion writes the word itself as the key; one vector may lack its first dimension."""
    single = vectors(tiny.sd().text_encoder, "red circle")[0]
    loras.write(models / "embeddings" / "toy.safetensors", {"<cat-toy>": single})
    engine.library.rescan()
    assert pixels(engine, checkpoint="sd", prompt="a toy") == pixels(engine, checkpoint="sd", prompt="a red")


def test_a_pickle_is_refused_where_it_is_named_unless_it_was_converted(engine, models):
    kept = models / "embeddings"
    (kept / "badhand.pt").write_bytes(b"PK")
    engine.library.rescan()
    with pytest.raises(RequestError, match=r"Negative prompt: “badhand” is not allowed; use another word; .* pickle"):
        engine.library.resolve(GenerationRequest(negative_prompt="(badhand:1.2), blurry", checkpoint="sd"))
    with pytest.raises(RequestError, match=r"Prompt: “broken” is not allowed; use another word; .* a pickle with"):
        engine.library.resolve(GenerationRequest(prompt="broken", checkpoint="sd"))
    loras.write(kept / "new" / "BadHand.safetensors", {"emb_params": torch.zeros(1, 32)})
    engine.library.rescan()
    assert engine.library.resolve(GenerationRequest(prompt="badhand", checkpoint="sd")).prompt == "badhand"


def test_tokens_are_counted_with_its_vectors(engine):
    assert engine.count_tokens("a MyInk", "sd").tokens == engine.count_tokens("a red circle", "sd").tokens == 3
    assert engine.count_tokens("a xlink", "xl").tokens == 3


def test_a_spoilt_one_is_refused_where_it_is_used(engine):
    with pytest.raises(RequestError, match="Prompt: “spoilt” is not allowed; use another word; the embedding"):
        pixels(engine, checkpoint="sd", prompt="a spoilt picture")
    assert pixels(engine, checkpoint="sd", prompt="a red circle")


def test_a_file_that_changed_is_read_anew(engine, models):
    before = pixels(engine, checkpoint="sd", prompt="a myink")
    path = models / "embeddings" / "MyInk.safetensors"
    kept = path.read_bytes()
    loras.write(path, {"emb_params": vectors(tiny.sd().text_encoder, "blue tree")})
    engine.library.rescan()
    assert pixels(engine, checkpoint="sd", prompt="a myink") != before
    path.write_bytes(kept)
    engine.library.rescan()
    assert pixels(engine, checkpoint="sd", prompt="a myink") == before
