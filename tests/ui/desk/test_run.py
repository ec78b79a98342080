"""What stands between the form and the queue, without a browser."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest
from PIL import Image

from core.engine import Engine
from core.errors import RequestError
from core.jobs.history import History
from core.jobs.line import JobState
from core.jobs.queue import JobQueue
from core.jobs.records import PictureRow, Status
from core.library.checkpoints import Checkpoint
from core.library.parts import Part
from core.library.resolving import size_warning
from core.request.generation import GenerationRequest
from core.request.units import Hires
from core.settings import Settings
from tests.darkroom import LIMITS
from ui.desk.desk import MODELS_OWN, Desk, duration, frame, own_values, preview_uri
from ui.desk.enlarging import enlarging
from ui.desk.form import EASEL, REMEMBERED, read_form

ENCODERS = tuple(Part(name, Path(name), "CLIPTextModel") for name in ("text_encoder", "text_encoder_2"))
SMALL = Checkpoint(name="small", title="Small", family="sd1", native_size=256, sampler="DDIM", guidance_scale=4.0)
LARGE = Checkpoint(
    name="large",
    title="Large",
    family="sdxl",
    native_size=1024,
    sampler="Euler",
    guidance_scale=7.0,
    steps=4,
    parts=ENCODERS,
)


@dataclass(frozen=True)
class Shelf:
    """As much of a library as choosing a model needs."""

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return SMALL, LARGE


@pytest.fixture
def desk() -> Desk:
    nothing: Any = None
    engine = SimpleNamespace(settings=SimpleNamespace(limits=LIMITS), library=Shelf())
    return Desk(cast(Engine, engine), cast(JobQueue, nothing), cast(History, nothing), ["prompt"])


@pytest.mark.parametrize(
    ("text", "seed"),
    [("", None), ("  ", None), (None, None), ("-1", None), ("0", 0), (" 7 ", 7), (str(2**64 - 1), 2**64 - 1)],
)
def test_a_seed_is_read_from_text_to_the_last_digit(text: str | None, seed: int | None) -> None:
    assert read_form({"seed": text}, LIMITS)[0].seed == seed


@pytest.mark.parametrize("text", ["red", "-2", "1.5", "1e3", "٣", "1_000", str(2**64), "9" * 10_000])
def test_what_is_no_seed_is_refused_by_its_label(text: str) -> None:
    with pytest.raises(RequestError, match=r"^Seed: "):
        read_form({"seed": text}, LIMITS)


def test_fields_follow_the_model_until_a_person_sets_them(desk: Desk) -> None:
    plan, kept = {"own": own_values(SMALL)}, gr.skip()
    assert desk.follow_model("large", "[]", plan, 256, 256, "DDIM", 4.0, 20) == [1024, 1024, "Euler", 7.0, 4]
    assert desk.follow_model("large", "[]", plan, 512, 256, "Heun", 4.0, 30) == [kept, 1024, kept, 7.0, kept]
    assert desk.follow_model("large", "", {}, None, None, None, None, 20) == [1024, 1024, "Euler", 7.0, kept]


def test_fields_follow_a_lora_of_few_steps_on_and_off_again(desk: Desk) -> None:
    own = [256, 256, "DDIM", 4.0, 20]
    on = desk.follow_model("small", '[{"name": "x/my_lightning_8step"}]', {"own": own_values(SMALL)}, *own)
    assert on == [256, 256, "Euler SGM Uniform", 1.0, 8]
    plan = {"own": dict(zip(MODELS_OWN, on, strict=True))}
    assert desk.follow_model("small", "[]", plan, *on) == own
    assert desk.follow_model("small", '[{"name": "plain"}]', plan, *on) == own
    assert desk.follow_model("small", "no JSON", plan, *on) == own


def test_what_a_browser_kept_is_looked_at_again() -> None:
    nothing: Any = None
    desk = Desk(Engine(Settings()), nothing, nothing, ["prompt"])
    values = ["pocket", "Euler", 30, 5.5, 512, 256, 2, 1, True]
    values += ["", "", 0.8, 3.5, 1.5, "Lanczos", 0.5, 0, 0.6, 8, -4]
    kept = dict(zip(REMEMBERED, values, strict=True))
    easel = ["crop", "masked", 16, True, "noise", "rgba(255, 0, 0, 1)", 0, 0, 64, 0]
    nothing_of_easel = [gr.skip()] * len(EASEL)
    assert desk.recall(json.dumps([values, None])) == [*values, *nothing_of_easel]
    assert desk.recall(json.dumps([values, easel])) == [*values, *easel]
    for place, wrong_one in ((0, "melt"), (2, -1), (4, "gold"), (5, "red"), (6, 1e9), (6, "<b>")):
        refused = [wrong_one if place == k else value for k, value in enumerate(easel)]
        assert desk.recall(json.dumps([values, refused])) == [*values, *nothing_of_easel]
    wrong: list[dict[str, Any]] = [
        {"steps": 0},
        {"width": 513},
        {"sampler": "Sorcery"},
        {"checkpoint": "gone"},
        {"vae": "gone"},
        {"refiner": "gone"},
        {"steps": "<b>"},
    ]
    wrong += [
        {"strength": 2},
        {"strength": float("nan")},
        {"hires.scale": 9},
        {"mask_grow": 1e9},
        {"checkpoint": None},
    ]
    for change in wrong:
        assert desk.recall(json.dumps([list((kept | change).values()), easel])) == [
            *[gr.skip()] * len(REMEMBERED),
            *easel,
        ]
    texts = [json.dumps([list((kept | change).values()), None]) for change in wrong]
    for text in (*texts, "", None, "[]", "[null, null]", "{}", "7", "[" * 100_000, "no JSON"):
        assert desk.recall(text) == [gr.skip()] * len((*REMEMBERED, *EASEL))


@pytest.mark.parametrize(
    ("size", "is_far"),
    [((256, 256), False), ((384, 256), False), ((128, 128), True), ((512, 512), True), ((1024, 64), False)],
)
def test_a_size_that_the_model_was_not_made_for_is_warned_of(size: tuple[int, int], is_far: bool) -> None:
    width, height = size
    said = size_warning(GenerationRequest(prompt="a fish", width=width, height=height, steps=1), SMALL)
    assert said == ("this model draws best near 256 × 256" if is_far else None)


def test_second_prompts_stand_only_with_a_model_that_reads_them(desk: Desk) -> None:
    assert [field.visible for field in desk.second_prompts("large")] == [True, True]
    assert [(field.visible, field.value) for field in desk.second_prompts("small")] == [(False, "")] * 2
    assert [field.visible for field in desk.second_prompts(None)] == [False, False]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.21, "0.2 s"), (0.97, "1 s"), (9.97, "10 s"), (75, "75 s"), (240, "4 min"), (7200, "2 h")],
)
def test_durations_are_few_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_preview_is_a_small_jpeg_of_the_same_shape() -> None:
    uri = preview_uri(Image.new("RGB", (40, 20), "red"))
    assert uri.startswith("data:image/jpeg;base64,") and len(uri) < 20_000


def test_a_frame_carries_each_pictures_seed_as_text() -> None:
    request = GenerationRequest(prompt="x" * 300, seed=2**64 - 2, batch_size=2, width=64, height=64)
    job = JobState("job", "local", request, Status.DONE, 0.0, pictures={0: "a", 1: "b"}, seconds=2.0)
    drawn = frame(job, None)
    assert [picture["seed"] for picture in drawn["pictures"].values()] == [str(2**64 - 2), str(2**64 - 1)]
    assert frame(replace(job, pictures={1: "b"}), None)["pictures"] == {"1": {"id": "b", "seed": str(2**64 - 1)}}
    assert drawn["facts"] == "64 × 64 · 20 steps · 2 s" and len(drawn["title"]) == 200
    assert not drawn["source"]


def test_a_frame_has_the_results_size_where_it_is_known() -> None:
    source, hires = Image.new("1", (1, 1)), {"scale": 1.5, "strength": 0.5}
    for fields, size in (
        ({"hires": hires, "width": 64, "height": 128}, (96, 192)),
        ({"image": source, "outpaint": {"left": 16}, "width": 64, "height": 64}, (80, 64)),
        ({"image": source, "mask": source, "padding_mask_crop": 8, "width": 64, "height": 64}, (None, None)),
        ({"image": source, "mask": source}, (None, None)),
    ):
        drawn = frame(JobState("job", "local", GenerationRequest(**fields), Status.DONE, 0.0), None)
        assert (drawn["width"], drawn["height"]) == size
        assert drawn["source"] == ("image" in fields and "outpaint" not in fields)


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.4), (2, 0.5), (1, 1.0)])
def test_a_picture_is_upscaled_by_at_least_one_step(steps: int, strength: float) -> None:
    made = GenerationRequest(
        prompt="a fish", seed=7, steps=steps, batch_size=3, image=Image.new("1", (1, 1)), strength=1.0
    )
    row = SimpleNamespace(request=made, index=2)
    request = enlarging(cast(PictureRow, row), Image.new("RGB", (70, 66)))
    assert (request.prompt, request.seed, request.batch_size, request.strength) == ("a fish", 9, 1, 0)
    assert request.image and request.image.size == (70, 66)
    assert request.hires == Hires(scale=2.0, strength=strength)
