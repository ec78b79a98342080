"""`/generate`, called as programs call it: with gradio_client, and with bare HTTP where that would refuse first."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image

from core.request.generation import GenerationRequest
from core.request.parameters import fingerprint

SMALL: dict[str, Any] = {"prompt": "a red circle on a blue background", "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def client(app_url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(
        app_url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")), analytics_enabled=False
    )


def post(url: str, **values: Any) -> str:
    """The event's stream, as text, of a call by bare HTTP; or why it was refused at once."""
    names = GenerationRequest.model_fields
    data = [values.get(name, None if field.default == () else field.default) for name, field in names.items()]
    headers = {"content-type": "application/json"}
    began = httpx.post(f"{url}/gradio_api/call/generate", content=json.dumps({"data": data}), headers=headers)
    if not began.is_success:
        return began.text
    return httpx.get(f"{url}/gradio_api/call/generate/{began.json()['event_id']}", timeout=30).text


def test_it_is_the_only_named_endpoint_and_takes_every_field_with_its_default(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(endpoints) == ["/generate"]
    parameters = {p["parameter_name"]: p for p in endpoints["/generate"]["parameters"]}
    assert list(parameters) == list(GenerationRequest.model_fields)
    assert all(p["parameter_has_default"] for p in parameters.values())
    assert parameters["steps"]["parameter_default"] == 20
    assert "stage" not in str(inspect.signature(client.predict))


def test_it_returns_the_pictures_and_the_request_as_resolved(client: Client) -> None:
    files, request = client.predict(**SMALL, seed=2**64 - 2, batch_size=2, api_name="/generate")
    assert request["seed"] == 2**64 - 2
    assert request["checkpoint"] and request["sampler"] and not math.isnan(request["guidance_scale"])
    assert len(files) == 2
    for index, file in enumerate(files):
        with Image.open(file) as picture:
            assert picture.size == (64, 64) and picture.format == "PNG"
            assert json.loads(picture.info["darkroom"])["index"] == index


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": "20"}, "Steps: “20” is not allowed; use a whole number from 1 to 150."),
        ({"steps": True}, "Steps: True is not allowed"),
        ({"steps": 10**9}, "Steps: 1000000000 is not allowed"),
        ({"width": 513}, "Width: 513 is not allowed; use a multiple of 8"),
        ({"seed": 2**64}, "Seed: 18446744073709551616 is not allowed"),
        ({"seed": -2}, "Seed: -2 is not allowed"),
        ({"sampler": "<b>fast"}, "Sampler: “&lt;b&gt;fast” is not allowed; use one of Euler"),
        ({"prompt": "a\0b"}, "Prompt: "),
        ({"prompt": "x" * 100_000}, "Prompt: “xxx"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"loras": [{"name": "x", "wait": 1}]}, "LoRA: Unknown field: “wait” is not allowed"),
        ({"controls": "edges"}, "ControlNet: “edges” is not allowed"),
        ({"controls": [{"net": "x"}] * 5}, "ControlNet: a list of 5 is not allowed; use a list of at most 4"),
        (
            {"controls": [{"net": "pocket-canny"}]},
            "ControlNet 1: Control picture: missing; use a picture, or begin from",
        ),
        (
            {"controls": [{"net": "x", "image": {"path": "/etc/passwd"}}]},
            "ControlNet: “this value” is not allowed; use a picture sent as a file",
        ),
        ({"controls": [{"image": None}]}, "ControlNet: Network: missing"),
        ({"image": "/etc/passwd"}, "Source picture: “this value” is not allowed"),
        ({"image": {"path": "/etc/passwd"}}, "Source picture: “this value” is not allowed"),
    ],
)
def test_bad_values_are_refused_in_the_requests_own_words(client: Client, values: dict[str, Any], words: str) -> None:
    with pytest.raises((AppError, ValidationError)) as refusal:
        client.predict(**(SMALL | values), api_name="/generate")
    assert words in str(refusal.value)
    assert "Traceback" not in str(refusal.value) and "pydantic" not in str(refusal.value)


def test_nan_and_infinity_are_refused(app_url: str) -> None:
    assert "Guidance: nan is not allowed" in post(app_url, guidance_scale=float("nan"))
    assert "Strength: inf is not allowed" in post(app_url, strength=float("inf"))


def test_no_file_of_the_host_is_read(app_url: str) -> None:
    answer = post(app_url, image={"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}})
    assert "Source picture: “this value” is not allowed" in answer and "/etc/hostname" not in answer


def test_what_is_no_picture_is_refused(client: Client, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    with pytest.raises(AppError, match="Source picture: “this file” is not allowed; use a PNG, JPEG or WebP picture"):
        client.predict(**SMALL, image=handle_file(text), api_name="/generate")


def test_controls_are_taken_with_their_pictures(client: Client, tmp_path: Path) -> None:
    edges = Image.radial_gradient("L").convert("RGB")
    edges.save(tmp_path / "edges.png")
    unit = {"net": "pocket-canny", "image": handle_file(tmp_path / "edges.png"), "weight": 0.8}
    units = [unit | {"preprocessor": "canny", "threshold_a": 60.0}, unit | {"start": 0.5, "mode": "control"}]
    drawn = []
    for controls in ([], units):
        files, request = client.predict(**SMALL, seed=3, controls=controls, api_name="/generate")
        with Image.open(files[0]) as picture:
            drawn.append(picture.tobytes())
    assert drawn[0] != drawn[1]
    assert [control["image"] for control in request["controls"]] == [fingerprint(edges)] * 2
    assert [control["threshold_a"] for control in request["controls"]] == [60, None]


def test_two_calls_wait_side_by_side(client: Client) -> None:
    jobs = [client.submit(**SMALL, seed=seed, api_name="/generate") for seed in (1, 2)]
    assert [job.result(timeout=60)[1]["seed"] for job in jobs] == [1, 2]
