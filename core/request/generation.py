"""Every parameter of a picture, declared once.

From the fields below come the page's sliders, the API's schema, the checks, the PNG's metadata, the presets' keys
and the docs' table. A request alone determines its picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from core.errors import RequestError
from core.prompts import compose
from core.request.parameters import Name, Parameters, Picture, SecondText, Side, Text
from core.request.preprocessors import PREPROCESSORS
from core.request.units import THRESHOLDS, Control, Hires, Lora, Outpaint, ResizeMode
from core.samplers import canonical_name

SEED_LIMIT = 2**64
SECOND_PROMPTS = ("prompt_2", "negative_prompt_2")
SMALLEST_SIDE = 64  # pixels that a run works on at least, along each side
Task = Literal["text", "image", "inpaint"]
MaskContent = Literal["original", "noise", "fill", "colour"]


def first_step(steps: int, strength: float) -> int:
    """The first of `steps` that runs when an image is changed with `strength` (0 … 1), as diffusers counts."""
    return steps - int(steps * strength)


def _sampler(name: str) -> str:
    known = canonical_name(name)
    if known is None:
        raise PydanticCustomError("sampler", "unknown sampler")
    return known


@dataclass(frozen=True)
class Pass:
    """One run of the loop: `steps` of `of` run for `pictures` at once, at `size` (width, height).

    `field` is the one of the request's fields that the size comes from.
    """

    steps: int
    of: int
    size: tuple[int, int]
    pictures: int
    field: str

    @property
    def steps_field(self) -> str:
        return "hires" if self.field == "hires" else "steps"

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    def __str__(self) -> str:
        return f"{self.steps} steps × {self.size[0]} × {self.size[1]} × {self.pictures}"

    @property
    def work(self) -> int:
        """Steps × pixels × pictures."""
        return self.steps * self.pixels * self.pictures


class GenerationRequest(Parameters):
    """Everything that changes the picture. Fields that are None take the model's own value when it runs."""

    prompt: Text = Field(
        "",
        max_length=10_000,
        title="Prompt",
        description="What the picture should show; (word:1.2), [a:b:0.4], AND … as in A1111",
    )
    negative_prompt: Text = Field(
        "",
        max_length=10_000,
        title="Negative prompt",
        description="What to leave out; needs guidance above 1",
    )
    prompt_2: SecondText = Field(
        None,
        max_length=10_000,
        title="Second prompt",
        description="For the second text encoder, from XL on; none: as the first",
    )
    negative_prompt_2: SecondText = Field(
        None,
        max_length=10_000,
        title="Second negative",
        description="For the second text encoder, from XL on; none: as the first",
    )
    checkpoint: Name | None = Field(None, title="Model", description="A name from the model list")
    vae: Name | None = Field(
        None, title="VAE", description="A folder or file of models/vae in place of the model's own"
    )
    refiner: Name | None = Field(
        None, title="Refiner", description="A refiner of XL from the model list, for a run's last steps"
    )
    refiner_start: float = Field(
        0.8,
        ge=0,
        le=1,
        title="Refiner from",
        description="The share of the steps after which the refiner goes on",
        json_schema_extra={"step": 0.05},
    )
    sampler: Annotated[str, AfterValidator(_sampler)] | None = Field(
        None, title="Sampler", description="How noise becomes a picture"
    )
    steps: int = Field(20, ge=1, le=150, title="Steps", description="More is slower and finer")
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=30,
        title="Guidance",
        description="How strictly to follow the prompt; 1 or less switches guidance off",
        json_schema_extra={"step": 0.5},
    )
    distilled_guidance: float = Field(
        3.5,
        ge=0,
        le=30,
        title="Distilled guidance",
        description="Of FLUX dev alone, which has guidance built in",
        json_schema_extra={"step": 0.5},
    )
    width: Side = Field(None, title="Width")
    height: Side = Field(None, title="Height")
    seed: int | None = Field(
        None,
        ge=0,
        le=SEED_LIMIT - 1,
        title="Seed",
        description="The same seed makes the same picture; none draws one. Picture k of a batch has seed + k",
    )
    batch_size: int = Field(1, ge=1, le=16, title="Pictures", description="Made in one run")
    clip_skip: int = Field(
        1,
        ge=1,
        le=12,
        title="Clip skip",
        description="1 uses the text encoder's last layer, 2 the one before it, where XL and SD 3 begin anyway",
    )
    image: Picture | None = Field(None, title="Source picture", description="Begin from this picture")
    mask: Picture | None = Field(None, title="Mask", description="White is painted anew, black stays")
    strength: float = Field(
        0.75,
        ge=0,
        le=1,
        title="Strength",
        description="How much of the source picture may change",
        json_schema_extra={"step": 0.01},
    )
    resize_mode: ResizeMode = Field(
        "stretch",
        title="Resize",
        description="What happens to a picture of another shape than width × height; pad goes on with its edges",
    )
    mask_invert: bool = Field(False, title="Invert mask", description="Black is painted anew, white stays")
    mask_grow: int = Field(
        0, ge=-128, le=128, title="Grow mask", description="By how many pixels; below 0 it shrinks"
    )
    mask_feather: int = Field(
        4, ge=0, le=64, title="Feather", description="Pixels around the mask in which old and new mix"
    )
    mask_content: MaskContent = Field(
        "original",
        title="Mask content",
        description="What the masked part begins from; fill goes on with what is around it",
    )
    mask_colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = Field(
        "#808080", title="Mask colour", description="For the mask content colour"
    )
    padding_mask_crop: int | None = Field(
        None,
        ge=0,
        le=1024,
        title="Only masked",
        description="Works on the masked region alone, at width × height, with so many pixels around it; "
        "none works on the whole picture",
    )
    outpaint: Annotated[Outpaint | None, WithJsonSchema({"type": "object"})] = Field(
        None, strict=False, title="Outpaint", description="Extends the source picture at its sides"
    )
    hires: Annotated[Hires | None, WithJsonSchema({"type": "object"})] = Field(
        None, strict=False, title="Hires", description="A second pass at a larger size"
    )
    controls: tuple[Control, ...] = Field(
        (),
        strict=False,
        max_length=4,
        title="ControlNet",
        description="Up to four networks that steer the layout",
    )
    loras: tuple[Lora, ...] = Field(
        (), strict=False, max_length=16, title="LoRA", description="Small add-ons merged into the model"
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        _check_together(self)

    @property
    def task(self) -> Task:
        if self.image is None:
            return "text"
        return "image" if self.mask is None and self.outpaint is None else "inpaint"

    @property
    def only_masked(self) -> bool:
        return self.task == "inpaint" and self.padding_mask_crop is not None

    @property
    def steps_run(self) -> int:
        """How many of `steps` really run in the first pass: fewer when a picture is only partly changed."""
        return self.steps if self.image is None else self.steps - first_step(self.steps, self.strength)

    @property
    def steps_in_all(self) -> int:
        """The steps that run, with those of the second pass, which each picture goes through alone."""
        return self.steps_run + (self.batch_size * _hires_steps(self) if self.hires else 0)

    @property
    def predictions(self) -> int:
        """How often a step of a resolved request asks the model about each picture: with guidance for the negative
        prompt too, and with AND for each of its prompts.
        """
        prompts = len(compose(self.prompt))
        return prompts if prompts == 1 and (self.guidance_scale or 0) <= 1 else 1 + prompts

    @property
    def source_size(self) -> tuple[int, int]:
        """Width and height to which the source picture is brought; of a resolved request, as the sizes below.

        Inpainting keeps the picture's own size, odd ones too, unless both are given.
        """
        if self.image and (self.only_masked or not (self.width and self.height)):
            return self.image.size
        assert self.width and self.height
        return self.width, self.height

    @property
    def frame_size(self) -> tuple[int, int]:
        """Width and height of the first pass's pictures."""
        width, height = self.source_size
        left, up, right, down = self.outpaint.sides if self.outpaint else (0, 0, 0, 0)
        return width + left + right, height + up + down

    @property
    def work_size(self) -> tuple[int, int]:
        """Width and height at which the first pass runs: multiples of 8."""
        if self.only_masked:
            assert self.width and self.height
            return self.width, self.height
        return _whole_latents(self.frame_size)

    @property
    def result_size(self) -> tuple[int, int]:
        """Width and height of the finished pictures."""
        width, height = self.frame_size
        if self.hires is None:
            return width, height
        width, height = round(width * self.hires.scale), round(height * self.hires.scale)
        return (width, height) if self.task == "inpaint" else (width // 8 * 8, height // 8 * 8)

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The runs of the loop that make the pictures; the first may have no steps, see Hires."""
        source = "image" if self.task != "text" and not self.width else "width"
        sized_by = "outpaint" if self.outpaint else source
        first = Pass(self.steps_run, self.steps, self.work_size, self.batch_size, sized_by)
        if self.hires is None:
            return (first,)
        again = Pass(_hires_steps(self), self.hires.steps or self.steps, _whole_latents(self.result_size), 1, "hires")
        return (first, *[again] * self.batch_size)


def _whole_latents(size: tuple[int, int]) -> tuple[int, int]:
    """The smallest size around `size` that a model can work on."""
    width, height = (max(SMALLEST_SIDE, -(-side // 8) * 8) for side in size)
    return width, height


def _hires_steps(request: GenerationRequest) -> int:
    assert request.hires
    steps = request.hires.steps or request.steps
    return steps - first_step(steps, request.hires.strength)


def _check_together(request: GenerationRequest) -> None:
    """The rules that need more than one field."""
    if request.seed is not None and request.seed + request.batch_size > SEED_LIMIT:
        raise reject("seed", request.seed, f"at most 2^64 − {request.batch_size} for {request.batch_size} pictures")
    for name in ("mask", "outpaint"):
        if getattr(request, name) is not None and request.image is None:
            raise reject(name, getattr(request, name), "a source picture with it")
    if request.mask and request.image and request.mask.size != request.image.size:
        size = f"{request.image.width} × {request.image.height}"
        raise reject("mask", request.mask, f"a mask of the source picture's size, {size}")
    if request.only_masked and request.hires:
        raise reject("hires", request.hires, "it without “Only masked”, which already works at full resolution")
    _check_strengths(request)
    for index, control in enumerate(request.controls):
        _check_control(control, f"controls[{index}]", f"ControlNet {index + 1}", request.image is not None)


def _check_control(control: Control, field: str, label: str, has_source: bool) -> None:
    if control.image is None and not has_source:
        allowed = "a picture, or begin from a source picture"
        raise RequestError(f"{field}.image", None, allowed, f"{label}: Control picture")
    if control.end < control.start:
        raise RequestError(f"{field}.end", control.end, f"a share from {control.start:g} to 1", f"{label}: End")
    given = dict(zip(THRESHOLDS, control.thresholds, strict=True))
    for own, (name, value) in zip(PREPROCESSORS[control.preprocessor].thresholds, given.items(), strict=False):
        if value is not None and not own.lowest <= value <= own.highest:
            allowed = f"a number from {own.lowest:g} to {own.highest:g}"
            raise RequestError(f"{field}.{name}", value, allowed, f"{label}: {own.label}")


def _check_strengths(request: GenerationRequest) -> None:
    """At least one step must run. Strength 0 with a second pass is enlarging alone: the first pass is left out."""
    only_enlarges = request.hires is not None and request.strength == 0
    if request.steps_run < 1 and not only_enlarges:
        instead = ", or 0 to enlarge alone" if request.hires else ""
        raise reject("strength", request.strength, _enough(request.steps) + instead)
    if request.hires and _hires_steps(request) < 1:
        allowed = _enough(request.hires.steps or request.steps)
        raise RequestError("hires.strength", request.hires.strength, allowed, "Hires: Strength")


def _enough(steps: int) -> str:
    smallest = next(s / 100 for s in range(1, 101) if int(steps * s / 100) >= 1)
    return f"at least {smallest:g}, so that one of {steps} steps runs"


def reject(field: str, value: object, allowed: str) -> RequestError:
    """A RequestError on a request's field, by its label."""
    return RequestError(field, value, allowed, GenerationRequest.model_fields[field].title)
