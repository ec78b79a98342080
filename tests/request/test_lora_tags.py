"""`<lora:…>` in prompts."""

from __future__ import annotations

import pytest

from core.errors import RequestError
from core.request.generation import GenerationRequest
from core.request.tags import tag, take_tags, without_tags
from core.request.units import Lora


def test_tags_become_loras_and_leave_no_text() -> None:
    request = GenerationRequest(prompt="a cat <lora:ink:0.8>, red<lora:style/wash>", loras=[Lora(name="mine")])
    taken = take_tags(request)
    assert taken.prompt == "a cat , red"
    assert taken.loras == (Lora(name="mine"), Lora(name="ink", weight=0.8), Lora(name="style/wash"))
    assert take_tags(taken) == taken


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("<lora:a>", Lora(name="a")),
        ("<lyco:a:-1>", Lora(name="a", weight=-1.0)),
        ("<lora:a:0.5:0.8>", Lora(name="a", weight=0.8, text_encoder_weight=0.5)),
        ("<lora:a:te=0.5:unet=0.8>", Lora(name="a", weight=0.8, text_encoder_weight=0.5)),
        ("<lora:a:0.5:te=0>", Lora(name="a", weight=0.0)),
        ("<lora:v1.5 (final)_2:1>", Lora(name="v1.5 (final)_2")),
    ],
)
def test_weights_are_read_in_a1111s_order(text: str, lora: Lora) -> None:
    assert take_tags(GenerationRequest(prompt=text)).loras == (lora,)


@pytest.mark.parametrize("lora", [Lora(name="a"), Lora(name="b/c", weight=-0.25, text_encoder_weight=0.5)])
def test_a_tag_reads_back_as_what_it_was_written_from(lora: Lora) -> None:
    assert take_tags(GenerationRequest(prompt=tag(lora))).loras == (lora,)


def test_second_prompts_have_tags_too_and_negative_ones_have_text() -> None:
    taken = take_tags(GenerationRequest(prompt="a", prompt_2="b <lora:x:1>", negative_prompt="<lora:y:1>"))
    assert (taken.prompt_2, taken.negative_prompt, taken.loras) == ("b", "<lora:y:1>", (Lora(name="x"),))


@pytest.mark.parametrize(
    "text",
    [
        "<lora:>",
        "<lora:a:high>",
        "<lora:a:nan>",
        "<lora:a:1e400>",
        "<lora:a:11>",
        "<lora:a:te=x>",
        "<lora::1>",
        "<lora:a:1:1:8>",
        "<lora:a:1:lbw=OUTD>",
    ],
)
def test_a_bad_tag_is_refused_by_name(text: str) -> None:
    with pytest.raises(RequestError, match=r"Prompt: “<lora:.*” is not allowed; use <lora:name:0.8>") as caught:
        take_tags(GenerationRequest(prompt=f"a cat {text}"))
    assert caught.value.field == "prompt"


def test_more_than_a_request_holds_are_refused_and_time_stays_short() -> None:
    with pytest.raises(RequestError, match="LoRA: a tuple of 17 is not allowed; use a list of at most 16"):
        take_tags(GenerationRequest(prompt="<lora:a>" * 17))
    assert without_tags("<lora:" * 1600) == "<lora:" * 1600
