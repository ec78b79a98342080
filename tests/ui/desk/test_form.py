"""The form's raw values become requests: what each tab sends, and what it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from core.errors import RequestError
from core.request.generation import GenerationRequest
from core.request.parameters import fingerprint
from core.request.units import Control, Hires
from tests.darkroom import LIMITS as ROOMY
from ui.controls import KEEP_SIZE
from ui.desk.form import read_form, write_form
from ui.server.uploads import NOBODY, new_folder, uploaded

LIMITS = ROOMY.model_copy(update={"max_pixels": 10**6})


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return new_folder(NOBODY)


def save(folder: Path, name: str, size: tuple[int, int] = (64, 48), colour: str = "red") -> str:
    Image.new("RGB", size, colour).save(folder / name)
    return str(folder / name)


def form(**changes: Any) -> dict[str, Any]:
    values = {
        "prompt": "a fish",
        "task": "image",
        "image": "",
        "mask": "",
        "width": 256,
        "height": 256,
        "strength": 0.5,
        "resize_mode": KEEP_SIZE,
        "redraw": "whole",
        "padding_mask_crop": 32,
        "mask_invert": False,
        "mask_grow": 0,
        "mask_feather": 4,
        "mask_content": "original",
        "mask_colour": "rgba(255, 128.4, 0, 1)",
        **{f"outpaint.{side}": 0 for side in ("left", "right", "up", "down")},
    }
    return values | changes


def test_the_text_tab_sends_neither_picture_nor_mask_whatever_the_others_hold(uploads: Path) -> None:
    held = form(task="text", image=save(uploads, "a.png"), mask=save(uploads, "m.png"), redraw="masked")
    assert read_form(held, LIMITS) == [GenerationRequest(prompt="a fish", width=256, height=256)]


@pytest.mark.parametrize("field", ["image", "mask"])
def test_more_pictures_than_could_wait_are_not_read(uploads: Path, field: str) -> None:
    few = LIMITS.model_copy(update={"jobs_per_owner": 2})
    source = save(uploads, "a.png")
    with pytest.raises(RequestError, match=r"3 pictures.* is not allowed; use at most 2 at once on this server"):
        read_form(form(**{"task": "inpaint", "image": source} | {field: "\n".join([source] * 3)}), few)


def test_each_picture_is_a_request_of_its_own(uploads: Path) -> None:
    paths = [save(uploads, "a.png", colour="red"), save(uploads, "b.png", colour="blue")]
    requests = read_form(form(image="\n".join(paths)), LIMITS)
    assert [request.image.getpixel((0, 0)) for request in requests if request.image] == [(255, 0, 0), (0, 0, 255)]
    assert {request.strength for request in requests} == {0.5}


def test_control_units_are_json_in_the_requests_own_shape_and_come_back_by_fingerprint(uploads: Path) -> None:
    own = {"net": "canny", "image": {"path": save(uploads, "c.png", colour="blue")}, "weight": 0.5}
    units = json.dumps([own, {"net": "tile", "image": None, "preprocessor": "tile"}])
    (request,) = read_form(form(image=save(uploads, "a.png"), controls=units), LIMITS)
    first, second = request.controls
    assert first.image and first.image.getpixel((0, 0)) == (0, 0, 255)
    assert (first.weight, second.image, second.preprocessor) == (0.5, None, "tile")
    (written,) = write_form(["controls"], dict(request))
    back = json.loads(written)
    assert [unit["image"] for unit in back] == [fingerprint(first.image), None]
    again = [Control(**unit | {"image": first.image if unit["image"] else None}) for unit in back]
    assert tuple(unit.model_dump() for unit in again) == tuple(unit.model_dump() for unit in request.controls)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("[", "ControlNet: “[” is not allowed; use a list of at most 4"),
        ("[" * 100_000, "ControlNet: “[[["),
        ("7", "ControlNet: 7 is not allowed"),
        ("[null]", "ControlNet: missing"),
        ('[{"net": "a", "image": ""}]', "ControlNet 1: Control picture: missing; use a picture that you drop"),
        (
            '[{"net": "a", "image": {"path": "/etc/passwd"}}]',
            "ControlNet 1: Control picture: “this value” is not allowed",
        ),
        ('[{"net": "a", "weight": NaN}]', "ControlNet: Weight: nan is not allowed"),
    ],
)
def test_units_that_are_none_are_refused(uploads: Path, units: str, message: str) -> None:
    with pytest.raises(RequestError) as error:
        read_form(form(task="text", controls=units), LIMITS)
    assert message in str(error.value)


@pytest.mark.parametrize(("mode", "size"), [(KEEP_SIZE, (None, None)), ("crop", (256, 256))])
def test_the_size_is_the_pictures_or_the_forms(uploads: Path, mode: str, size: tuple[int | None, int | None]) -> None:
    (request,) = read_form(form(image=save(uploads, "a.png"), resize_mode=mode), LIMITS)
    assert (request.width, request.height) == size
    assert request.resize_mode == ("stretch" if mode == KEEP_SIZE else mode)


def test_inpainting_takes_the_masks_options(uploads: Path) -> None:
    picture, mask = save(uploads, "a.png"), save(uploads, "m.png", colour="white")
    masked = form(task="inpaint", image=picture, mask=mask, redraw="masked", mask_grow=3, mask_content="colour")
    (request,) = read_form(masked, LIMITS)
    assert request.task == "inpaint"
    assert (request.padding_mask_crop, request.mask_grow, request.mask_colour) == (32, 3, "#ff8000")
    (request,) = read_form(form(task="inpaint", image=picture, **{"outpaint.up": 16}), LIMITS)
    assert request.outpaint and request.outpaint.sides == (0, 16, 0, 0)
    assert request.padding_mask_crop is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Source picture: missing"),
        ({"task": "inpaint", "image": "a.png"}, "Mask: missing"),
        ({"image": "zero.png"}, "Source picture: this file is not allowed; use a PNG, JPEG or WebP"),
        ({"image": "half.png"}, "Source picture: “a damaged file” is not allowed"),
        ({"image": "large.png"}, "Source picture: “2,000 × 1,000” is not allowed; use a picture of at most"),
        ({"task": "inpaint", "image": "a.png", "mask": "small.png"}, "Mask: a picture of 8 × 8 is not allowed"),
        ({"image": "a.png", "strength": float("nan")}, "Strength: nan is not allowed"),
        ({"image": "gone.png"}, "Source picture: “a file that is gone” is not allowed"),
        ({"image": "../../etc/passwd"}, "Source picture: “this value” is not allowed"),
    ],
)
def test_what_is_wrong_is_said_once_by_its_label(uploads: Path, values: dict[str, Any], message: str) -> None:
    save(uploads, "a.png")
    save(uploads, "small.png", (8, 8))
    save(uploads, "large.png", (2000, 1000))
    (uploads / "zero.png").write_bytes(b"")
    (uploads / "half.png").write_bytes((uploads / "a.png").read_bytes()[:60])
    paths = {name: str(uploads / values[name]) for name in ("image", "mask") if name in values}
    with pytest.raises(RequestError) as error:
        read_form(form(**values | paths), LIMITS)
    assert str(error.value).replace("“this file”", "this file").startswith(message)


def test_only_uploaded_files_are_opened(uploads: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = save(tmp_path_factory.mktemp("outside"), "a.png")
    for value in (outside, "/etc/passwd", "a\0b", None, 7):
        with pytest.raises(RequestError, match="sent as a file"):
            uploaded({"path": value}, "image", "Source picture")


PASS = {"hires": True, "hires.scale": 1.5, "hires.upscaler": "Latent", "hires.strength": 0.5, "hires.steps": 0}


@pytest.mark.parametrize("task", ["text", "image", "inpaint"])
def test_a_second_pass_is_for_every_task_and_comes_back(uploads: Path, task: str) -> None:
    pictures = {"image": save(uploads, "a.png"), "mask": save(uploads, "m.png", colour="white")}
    (request,) = read_form(form(task=task, **pictures, **PASS), LIMITS)
    assert request.task == task
    assert request.hires == Hires(scale=1.5, upscaler="Latent", strength=0.5)
    assert write_form(list(PASS), dict(request)) == list(PASS.values())
    (without,) = read_form(form(task=task, **pictures, **PASS | {"hires": False}), LIMITS)
    assert without.hires is None
    assert write_form(list(PASS), dict(without)) == [False, *[gr.skip()] * 4]


def test_what_is_wrong_with_a_second_pass_is_said_by_its_label() -> None:
    for values, message in (
        ({"hires.scale": 9}, "Hires: Scale: 9 is not"),
        ({"hires.steps": 0.5}, "Hires: Steps: 0.5"),
    ):
        with pytest.raises(RequestError, match=message):
            read_form({"prompt": "a fish", **PASS, **values}, LIMITS)


def test_what_a_request_began_from_goes_back_to_the_easel_by_its_fingerprints() -> None:
    source, mask = Image.new("RGB", (70, 66)), Image.new("L", (70, 66), 255)
    names = ["kept", "resize_mode", "width", "outpaint.left", "outpaint.up"]

    def shown(**fields: Any) -> list[Any]:
        kept, *others = write_form(names, dict(GenerationRequest(**fields)))
        return [json.loads(kept), *others]

    pictures = {"task": "inpaint", "image": fingerprint(source), "mask": fingerprint(mask)}
    inpaint = {"image": source, "mask": mask, "outpaint": {"up": 8}}
    assert shown(**inpaint) == [pictures, KEEP_SIZE, gr.skip(), 0, 8]
    masked = {"image": source, "mask": mask, "padding_mask_crop": 16, "width": 64, "height": 64}
    assert shown(**masked) == [pictures, "stretch", 64, 0, 0]  # the size at which the masked area is worked on
    pictures = {"task": "image", "image": fingerprint(source)}
    assert shown(image=source, width=64, height=64) == [pictures, KEEP_SIZE, 64, 0, 0]
    assert shown(image=source, width=64, height=64, resize_mode="crop")[1] == "crop"
    assert shown(image=source, width=128, height=64)[1] == "stretch"
    assert shown(width=128, height=64) == [{"task": "text"}, gr.skip(), 128, gr.skip(), gr.skip()]


def test_a_requests_fields_come_back_as_the_forms_values() -> None:
    request = GenerationRequest(prompt="a fish", seed=2**64 - 1, steps=7)
    seed, steps, redraw, *others = write_form(
        ["seed", "steps", "redraw", "image", "mask", "padding_mask_crop"], dict(request)
    )
    assert (seed, steps, redraw) == (str(2**64 - 1), 7, "whole")
    assert all(other == gr.skip() for other in others)
