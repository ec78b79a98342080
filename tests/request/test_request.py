"""A request is strict: what is not allowed is one clear error that names field, value and what is allowed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from PIL import Image

from core.errors import DarkroomError, RequestError
from core.request.generation import SEED_LIMIT, GenerationRequest, first_step
from core.request.parameters import allowed, fingerprint
from core.request.units import Control, Lora

PICTURE = Image.new("RGB", (64, 64), (200, 30, 30))


CONTROLS = {
    (("image", None),): "ControlNet 1: Control picture: missing; use a picture, or begin from a source picture",
    (("preprocessor", "magic"),): "Preprocessor: “magic” is not allowed; use one of none, canny, ",
    (("preprocessor", "canny"), ("threshold_b", 300.0)): "ControlNet 1: High threshold: 300.0 is not allowed; use a "
    "number from 1 to 255",
    (("preprocessor", "blur"), ("threshold_a", 0.0)): "ControlNet 1: Radius: 0.0 is not allowed",
    (("threshold_a", math.inf),): "First threshold: inf is not allowed; use a number",
    (("resize_mode", "tile"),): "Resize: “tile” is not allowed; use one of stretch, crop, pad",
    (("mode", "both"),): "Priority: “both” is not allowed; use one of balanced, prompt, control",
    (("net", ""),): "Network: “” is not allowed",
    (("weight", 10.5),): "Weight: 10.5 is not allowed",
    (("start", -0.1),): "Start: -0.1 is not allowed",
}
"""A unit's fields that are not allowed, and what is said."""


def control(**fields: Any) -> Control:
    return Control(**{"net": "canny", "image": PICTURE, **fields})


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"steps": 0}, "steps", "Steps: 0 is not allowed; use a whole number from 1 to 150."),
        ({"steps": 10**9}, "steps", "Steps: 1000000000 is not allowed"),
        ({"steps": "20"}, "steps", "Steps: “20” is not allowed"),
        ({"steps": True}, "steps", "Steps: True is not allowed"),
        ({"steps": 20.0}, "steps", "Steps: 20.0 is not allowed"),
        ({"steps": 10**5000}, "steps", "Steps: a number of 16610 bits is not allowed"),
        ({"guidance_scale": math.nan}, "guidance_scale", "Guidance: nan is not allowed; use a number from 0 to 30."),
        ({"guidance_scale": math.inf}, "guidance_scale", "Guidance: inf is not allowed"),
        ({"strength": -math.inf, "image": PICTURE}, "strength", "Strength: -inf is not allowed"),
        ({"width": 513}, "width", "Width: 513 is not allowed; use a multiple of 8 from 64 to 4096."),
        ({"height": 65536}, "height", "Height: 65536 is not allowed"),
        ({"seed": -2}, "seed", "Seed: -2 is not allowed"),
        ({"seed": 2**64}, "seed", "Seed: 18446744073709551616 is not allowed"),
        ({"seed": 2**64 - 1, "batch_size": 2}, "seed", "use at most 2^64 − 2 for 2 pictures"),
        ({"prompt": "x" * 100_000}, "prompt", "use text of at most 10,000 characters"),
        ({"prompt": "a\0b"}, "prompt", "Prompt: “a�b” is not allowed"),
        ({"negative_prompt": "\ud800"}, "negative_prompt", "Negative prompt: “�” is not allowed"),
        ({"prompt_2": "x" * 100_000}, "prompt_2", "Second prompt: “xxxx"),
        ({"negative_prompt_2": "a\0b"}, "negative_prompt_2", "use text of at most 10,000 characters"),
        ({"sampler": "Magic"}, "sampler", "Sampler: “Magic” is not allowed; use one of Euler, "),
        ({"checkpoint": ""}, "checkpoint", "Model: “” is not allowed"),
        ({"colour": 1}, "colour", "Unknown field: “colour” is not allowed; use one of prompt, "),
        ({"image": "/etc/passwd"}, "image", "Source picture: “/etc/passwd” is not allowed; use a picture."),
        ({"mask": PICTURE}, "mask", "Mask: a picture of 64 × 64 is not allowed; use a source picture with it."),
        ({"image": PICTURE, "strength": 0.01}, "strength", "use at least 0.05, so that one of 20 steps runs"),
        ({"controls": [1]}, "controls[0]", "ControlNet: 1 is not allowed"),
        ({"controls": 5}, "controls", "ControlNet: 5 is not allowed"),
        ({"loras": [[[]]]}, "loras[0]", "LoRA: a list of 1 is not allowed"),
    ],
)
def test_what_is_not_allowed_is_one_clear_error(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        GenerationRequest(**fields)
    assert caught.value.field == field
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None  # pydantic's own error echoes the input


def test_units_are_as_strict() -> None:
    with pytest.raises(RequestError, match="Weight: nan is not allowed; use a number from 0 to 2"):
        control(weight=math.nan)
    with pytest.raises(RequestError, match=r"ControlNet 2: End: 0\.2 is not allowed; use a share from 0\.5 to 1"):
        GenerationRequest(controls=[control(), control(start=0.5, end=0.2)])
    for fields, message in CONTROLS.items():
        with pytest.raises(RequestError, match=message):
            GenerationRequest(controls=[control(**dict(fields))])
    with pytest.raises(RequestError, match=r"Weight: 10\.5 is not allowed; use a number from -10 to 10"):
        Lora(name="x", weight=10.5)


def test_defaults_are_the_models_own() -> None:
    request = GenerationRequest()
    own = (request.checkpoint, request.sampler, request.guidance_scale, request.width, request.height, request.seed)
    assert own == (None,) * 6
    assert (request.prompt, request.steps, request.task) == ("", 20, "text")
    assert GenerationRequest(prompt_2="", negative_prompt_2="x").prompt_2 is None


def test_it_is_frozen_and_keeps_its_own_pictures() -> None:
    mine = PICTURE.copy()
    request = GenerationRequest(image=mine, controls=[control()], loras=[Lora(name="a")])
    mine.paste(0, (0, 0, 64, 64))
    assert request.image.tobytes() == PICTURE.tobytes()
    assert isinstance(request.controls, tuple)
    assert isinstance(request.loras, tuple)
    with pytest.raises(ValueError, match="frozen"):
        request.steps = 3


def test_the_largest_seed_survives_json() -> None:
    request = GenerationRequest(seed=SEED_LIMIT - 1)
    assert GenerationRequest.from_json(request.model_dump_json()).seed == SEED_LIMIT - 1


def test_pictures_are_fingerprints_in_json_and_come_back() -> None:
    request = GenerationRequest(image=PICTURE, controls=[control()], seed=5)
    written = json.loads(request.model_dump_json())
    assert written["image"] == written["controls"][0]["image"] == fingerprint(PICTURE)
    assert (
        GenerationRequest.from_json(request.model_dump_json(), {fingerprint(PICTURE): PICTURE}.__getitem__) == request
    )


def test_json_that_names_more_pictures_than_a_request_has_reads_no_more() -> None:
    read: list[str] = []
    many = [{"image": f"sha256:{k}"} for k in range(300)]
    with pytest.raises(DarkroomError, match="JSON"):
        GenerationRequest.from_json(json.dumps({"controls": many}), lambda name: read.append(name) or PICTURE)
    assert len(read) < 10


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"steps": NaN}', '{"steps": 0}', "[" * 100_000, '{"seed": ' + "9" * 5000 + "}", '{"image": 7}'],
)
def test_json_that_is_no_request_is_one_of_our_errors(text: str) -> None:
    with pytest.raises(DarkroomError):
        GenerationRequest.from_json(text)


def test_replace_checks_again() -> None:
    with pytest.raises(RequestError, match="Steps"):
        GenerationRequest().replace(steps=0)


@pytest.mark.parametrize(("steps", "strength", "first"), [(20, 1.0, 0), (20, 0.75, 5), (20, 0.5, 10), (7, 0.3, 5)])
def test_strength_counts_as_diffusers_does(steps: int, strength: float, first: int) -> None:
    assert first_step(steps, strength) == first
    assert GenerationRequest(steps=steps, strength=strength, image=PICTURE).steps_run == steps - first


def test_every_field_says_what_it_is_and_what_it_takes() -> None:
    for field in GenerationRequest.model_fields.values():
        assert field.title
        assert field.description
        assert allowed(field)
