"""What a request is with a certain model: its size, and what that model does not allow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from core.library.checkpoints import Checkpoint
from core.library.few_steps import few_steps
from core.prompts import compose
from core.request import SECOND_PROMPTS, SMALLEST_SIDE, GenerationRequest, Lora, bounds, reject
from core.samplers import SAMPLERS, SGM_UNIFORM

MOST_PARTS = 8  # that AND may join: each costs as much as another picture
LEAST, MOST = 0.6, 1.6  # of the side that a model was made for: smaller is crude, larger repeats its subjects


def with_loras(checkpoint: Checkpoint, loras: Iterable[Lora]) -> Checkpoint:
    """The checkpoint with sampler, guidance and steps of the first LoRA that by its name distils it to few steps."""
    names = (PurePosixPath(lora.name).name for lora in loras if lora.weight)
    few = next(filter(None, map(few_steps, names)), None)
    if few is None:
        return checkpoint
    wanted = (few.sampler + SGM_UNIFORM * bool(few.levels), few.sampler, checkpoint.sampler)
    sampler = next(name for name in wanted if name in checkpoint.samplers)
    return replace(checkpoint, sampler=sampler, guidance_scale=few.guidance_scale, steps=few.steps)


def size_with(request: GenerationRequest, checkpoint: Checkpoint) -> tuple[int | None, int | None]:
    """Width and height: as asked, else the source picture's (rounded down to 8), else the model's own.

    Inpainting the whole of a picture whose size no model works at leaves both None: the picture keeps that size.
    """
    if request.image is None or request.only_masked:
        width = height = checkpoint.native_size
        return request.width or width, request.height or height
    width, height = (max(SMALLEST_SIDE, side // 8 * 8) for side in request.image.size)
    limit = bounds(GenerationRequest.model_fields["width"])["le"]
    keeps_size = request.task == "inpaint" and not request.width and not request.height
    if keeps_size and ((width, height) != request.image.size or max(width, height) > limit):
        return None, None
    if max(request.width or width, request.height or height) > limit:
        raise reject("image", request.image, f"sides of at most {limit} pixels, or give width and height")
    return request.width or width, request.height or height


def check_with(request: GenerationRequest, checkpoint: Checkpoint) -> None:
    """The rules for a resolved request that depend on the model and the sampler. Raises RequestError."""
    if request.sampler not in checkpoint.samplers:
        raise reject("sampler", request.sampler, "one of " + ", ".join(checkpoint.samplers))
    most = SAMPLERS[request.sampler or checkpoint.sampler].most_steps
    for run in request.passes:
        if most and run.of > most:
            raise reject(run.steps_field, run.of, f"at most {most} with {request.sampler}")
        if checkpoint.most_side and max(run.size) > checkpoint.most_side:
            size, title = "{} × {}".format(*run.size), checkpoint.title
            raise reject(run.field, size, f"sides of at most {checkpoint.most_side} pixels with {title}")
    check_prompts(request, checkpoint.text_encoders)
    if request.clip_skip > checkpoint.clip_skips:
        raise reject("clip_skip", request.clip_skip, f"at most {checkpoint.clip_skips} with {checkpoint.title}")
    if checkpoint.inpaints_only and request.task != "inpaint":
        raise reject(
            "checkpoint", checkpoint.name, "a model that is not for inpainting only, or give picture and mask"
        )


def size_warning(request: GenerationRequest, checkpoint: Checkpoint) -> str | None:
    """What to know of a resolved request's size, if the model was made for another one; it runs all the same."""
    side = checkpoint.native_size
    if LEAST * side <= math.sqrt(request.passes[0].pixels) <= MOST * side:
        return None
    return f"this model draws best near {side} × {side}"


def check_prompts(request: GenerationRequest, encoders: int) -> None:
    """Raises RequestError for what no model, or none with so many text encoders, can be told."""
    parts = len(compose(request.prompt))
    if parts > MOST_PARTS:
        raise reject("prompt", f"{parts} prompts", f"at most {MOST_PARTS} joined by AND")
    for name in SECOND_PROMPTS:
        if getattr(request, name) and encoders == 1:
            raise reject(name, getattr(request, name), "none, as this model has one text encoder")
