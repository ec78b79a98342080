"""What prompts do to a run, on tiny random weights: A1111's rule written once more, diffusers fed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core import GenerationRequest
from core.diffusion import start
from core.diffusion.denoise import Guidance, denoise
from core.diffusion.prompting import Prompts
from core.errors import RequestError
from core.library.resolving import MOST_PARTS, check_prompts
from core.prompts.counting import count_tokens
from core.prompts.grammar import Time, parse
from tests import tiny
from tests.diffusion.test_parity import SIZE, model_of, our_latents

AT_START = Time(0, 1)
LONG = "red " * 40


@pytest.fixture(scope="module")
def sd():
    """A fresh encoder's last layer norm leaves a mean of 0, which no trained one does, and nothing to restore."""
    pipeline = tiny.sd()
    torch.nn.init.normal_(pipeline.text_encoder.final_layer_norm.bias, mean=0.3)
    return pipeline


@pytest.fixture(scope="module")
def sdxl():
    return tiny.sdxl()


def request(prompt: str, **fields) -> GenerationRequest:
    usual = {"sampler": "Euler", "steps": 4, "guidance_scale": 7.0, "seed": 3, "width": SIZE, "height": SIZE}
    return GenerationRequest(prompt=prompt, **{**usual, **fields})


def texts(*prompts: str):
    return tuple(parse(prompt).at(AT_START) for prompt in prompts)


def clip(pipeline, *chunks: str, layer: int = -1, encoder: str = "text_encoder") -> np.ndarray:
    """(chunks, tokens, width) of an encoder, the ids put together by hand."""
    rows, words = [], tiny.tokenizer()
    for text in chunks:
        ids = [words.bos_token_id, *words(text, add_special_tokens=False).input_ids, words.eos_token_id]
        rows.append(ids + [words.pad_token_id] * (32 - len(ids)))
    model = pipeline.components[encoder]
    with torch.inference_mode():
        hidden = model(torch.tensor(rows), output_hidden_states=True).hidden_states[layer]
        return (model.final_layer_norm(hidden) if encoder == "text_encoder" and layer == -1 else hidden).numpy()


def a1111(hidden: np.ndarray, weights: list[float]) -> np.ndarray:
    """Its published rule for one chunk: multiply, then restore the mean."""
    weighted = hidden * np.array(weights)[:, None]
    return weighted * (hidden.mean() / weighted.mean())


def framed(*weights: float) -> list[float]:
    return [1.0, *weights, *[1.0] * (31 - len(weights))]


def test_weights_follow_a1111s_rule(sd):
    ours = model_of(sd).encode_prompt(texts("a (red:1.5) [circle]"), 1).embeds.numpy()
    expected = a1111(clip(sd, "a red circle")[0], framed(1, 1.5, 1 / 1.1))
    np.testing.assert_allclose(ours[0], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(ours[0], clip(sd, "a red circle")[0], atol=1e-3)


def test_each_encoder_of_xl_and_each_chunk_restores_its_own_mean(sdxl):
    ours = model_of(sdxl).encode_prompt(texts(*["(red:1.5) BREAK [[blue]]"] * 2), 1)
    for place, encoder in enumerate(("text_encoder", "text_encoder_2")):
        first, second = clip(sdxl, "red", "blue", layer=-2, encoder=encoder)
        expected = [a1111(first, framed(1.5)), a1111(second, framed(1 / 1.21))]
        half = ours.embeds[0, :, 32 * place : 32 * (place + 1)].numpy()
        np.testing.assert_allclose(half, np.concatenate(expected), rtol=1e-4, atol=1e-5)
    plain = model_of(sdxl).encode_prompt(texts("red", "red"), 1)
    torch.testing.assert_close(ours.pooled, plain.pooled)  # the first chunk's, without weights


def test_weights_of_one_change_no_bit(sd):
    model = model_of(sd)
    assert torch.equal(
        model.encode_prompt(texts("(a red circle:1)"), 1).embeds, torch.tensor(clip(sd, "a red circle"))
    )


@pytest.mark.parametrize("weight", [0, -1, 10])
def test_extreme_weights_stay_finite(sd, weight):
    assert torch.isfinite(model_of(sd).encode_prompt(texts(f"(a red circle:{weight})"), 1).embeds).all()


def test_a_word_of_vectors_stands_in_the_place_of_its_tokens(sd):
    """The vector of a token that exists gives that token's very bits."""
    table = sd.text_encoder.get_input_embeddings().weight.detach()
    (red,) = tiny.tokenizer()("red", add_special_tokens=False).input_ids
    model = model_of(sd, words=({"mine": table[red : red + 1]}, {}))
    ours = model.encode_prompt(texts("a mine circle"), 1).embeds
    assert torch.equal(ours, model.encode_prompt(texts("a red circle"), 1).embeds)
    assert not torch.equal(ours, model.encode_prompt(texts("a blue circle"), 1).embeds)


def with_embeds(pipeline, wanted: GenerationRequest, changes: dict[int, torch.Tensor], negative: np.ndarray):
    """diffusers' latents, with prompt embeddings given by hand and changed after so many steps."""

    def change(pipe, step, timestep, kwargs):
        if step + 1 in changes:
            kwargs["prompt_embeds"] = torch.cat([torch.tensor(flat(negative)), changes[step + 1]])
        return kwargs

    return pipeline(
        prompt_embeds=changes[0],
        negative_prompt_embeds=torch.tensor(flat(negative)),
        num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance_scale,
        generator=torch.Generator().manual_seed(wanted.seed),
        height=SIZE,
        width=SIZE,
        output_type="latent",
        callback_on_step_end=change,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    ).images


def flat(chunks: np.ndarray) -> np.ndarray:
    return chunks.reshape(1, -1, chunks.shape[-1])


def test_a_long_prompt_and_a_short_negative_are_padded_alike(sd):
    wanted = request(LONG, negative_prompt="blue")
    positive = torch.tensor(flat(clip(sd, "red " * 30, "red " * 10)))
    theirs = with_embeds(sd, wanted, {0: positive}, clip(sd, "blue", ""))
    assert torch.equal(our_latents(sd, wanted), theirs)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("a [red:blue:0.5] circle", ["red", "red", "blue", "blue"]), ("a [red|blue] circle", ["red", "blue"] * 2)],
)
def test_a_prompt_that_changes_is_diffusers_with_embeddings_changed_between_the_steps(sd, prompt, said):
    changes = {step: torch.tensor(clip(sd, f"a {word} circle")) for step, word in enumerate(said)}
    wanted = request(prompt)
    assert torch.equal(our_latents(sd, wanted), with_embeds(sd, wanted, changes, clip(sd, "")))


def test_a_negative_prompt_takes_the_same_grammar(sd):
    changing = our_latents(sd, request("a circle", negative_prompt="[red:blue:0.5]"))
    red = our_latents(sd, request("a circle", negative_prompt="red"))
    assert not torch.equal(changing, red)
    assert torch.equal(our_latents(sd, request("a circle", negative_prompt="[red:blue:4]")), red)


def test_what_is_said_again_is_the_same_object(sd):
    """Attention keeps what it projected from the very same tensor: so nothing may be made anew for each step."""
    conditioning = Prompts(model_of(sd)).conditioning(request("[red:blue:0.5]"), 4)
    assert [told is conditioning[0] for told in conditioning] == [True, True, False, False]
    assert conditioning[2] is conditioning[3]


def test_samplers_of_second_order_read_one_wording_a_step(sd):
    conditioning = Prompts(model_of(sd)).conditioning(request("[red|blue]", sampler="Heun"), 7)
    assert [told is conditioning[0] for told in conditioning] == [True, True, False, False, True, True, False]


def test_parts_add_up_around_the_negative_prompt():
    negative, a, b = torch.randn(3, 1, 4, 2, 2, generator=torch.Generator().manual_seed(1))
    together = Guidance(7.0, (1.0, -0.5))(torch.cat([negative, a, b]))
    torch.testing.assert_close(together, negative + 7 * (a - negative) - 3.5 * (b - negative))


def test_composing_with_itself_by_halves_is_the_prompt_alone(sd):
    alone = our_latents(sd, request("a red circle"))
    for prompt in ("a red circle:0.5 AND a red circle:0.5", "a red circle AND blue:0"):
        torch.testing.assert_close(our_latents(sd, request(prompt)), alone, rtol=1e-3, atol=1e-3)
    both = our_latents(sd, request("a red circle AND blue:0.7"))
    assert (both - alone).abs().max() > 0.01


def test_composing_works_without_guidance(sd):
    halves = our_latents(sd, request("a red circle:0.5 AND a red circle:0.5", guidance_scale=1.0))
    alone = our_latents(sd, request("a red circle", guidance_scale=1.0))
    torch.testing.assert_close(halves, alone, rtol=1e-3, atol=1e-3)


def test_predictions_are_counted_for_memory_and_limits():
    counted = [
        request(prompt, guidance_scale=scale).predictions
        for prompt, scale in (("a", 1.0), ("a", 7.0), ("a AND b", 1.0), ("a AND b AND c", 7.0))
    ]
    assert counted == [1, 2, 3, 4]


def test_what_cannot_be_told_is_refused(sd):
    with pytest.raises(RequestError, match=f"Prompt: “9 prompts” is not allowed; use at most {MOST_PARTS} joined"):
        check_prompts(request(" AND ".join("a" * 9)), 2)
    with pytest.raises(RequestError, match="Second prompt: “red” is not allowed; use none, as this model has one"):
        check_prompts(request("a", prompt_2="red"), 1)
    check_prompts(request("a", prompt_2=""), 1)
    with pytest.raises(RequestError, match="use at most 40"):
        Prompts(model_of(sd)).conditioning(request("red BREAK " * 50), 4)
    with pytest.raises(RequestError, match="Negative prompt: “50 chunks of tokens”"):
        Prompts(model_of(sd)).conditioning(request("red", negative_prompt="red BREAK " * 50), 4)
    turns = "".join(f"[{'|'.join(map(str, range(n)))}]" for n in (9, 10, 11))
    with pytest.raises(RequestError, match="Prompt: “150 wordings” is not allowed; use at most 100 in one run"):
        Prompts(model_of(sd)).conditioning(request(turns, steps=150), 150)
    many = "[" + "|".join("abcdefghij") + "]" + "red BREAK " * 19
    with pytest.raises(
        RequestError, match="“10 wordings of 19 chunks of tokens” is not allowed; use at most 80 chunks"
    ):
        Prompts(model_of(sd)).conditioning(request(many, steps=10, batch_size=8), 10)


def test_tokens_are_counted_with_their_chunks():
    def count(text):
        return tuple(count_tokens(tiny.tokenizer(), text))

    assert count("a (red:1.2) circle") == (3, 1, 30)
    assert count(LONG) == (40, 2, 30)
    assert count("a BREAK b") == (2, 2, 30)
    assert count("[a:two red circles:0.9]") == (3, 1, 30)
    assert count(f"a AND {LONG}") == (40, 2, 30)
    assert count("") == (0, 1, 30)


def test_a_run_denoises_with_what_changes(sd):
    """The run holds one conditioning for each timestep, whatever the sampler makes of the steps."""
    for sampler in ("Euler", "Heun", "PLMS"):
        wanted = request("[red|blue] circle AND [a:b:2]", sampler=sampler)
        model = model_of(sd)
        run = start.prepare(model, Prompts(model), wanted, start.Company([], tiny.FILTERS))
        assert len(run.predict) == len(run.timesteps)
        assert all(torch.isfinite(step.latents).all() for step in denoise(run))
