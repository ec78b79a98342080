"""A request's runs of the loop, one after the other: the first, and with Hires a second one for each picture."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from PIL.Image import Image
from torch import Tensor

from core.diffusion import start
from core.diffusion.decoding import picture
from core.diffusion.denoise import denoise
from core.diffusion.enlarging import enlarged
from core.diffusion.prompting import Prompts
from core.events import Event, Step
from core.families.work import Model
from core.pictures.work import Canvas, fit_mask
from core.request import LATENT, GenerationRequest


@dataclass(frozen=True)
class Passes:
    """`upscaler` is the super-resolution model of the request, or None."""

    model: Model
    prompts: Prompts
    company: start.Company
    upscaler: Any | None
    preview: Callable[[Tensor], Image | None]

    def run(self, request: GenerationRequest) -> Generator[Event, None, list[Image]]:
        """Yields every step of all passes; returns the pictures of a resolved `request`."""
        counts = [start.evaluations(self.model, request, run) for run in request.passes]
        total, done = sum(counts), counts[0]
        latents, images = None, [Canvas(request).source] * request.batch_size if not done else []
        if done:
            latents, images = yield from self._pass(request, (0, total))
        if request.hires is None:
            return images
        for k, count in enumerate(counts[1:]):
            large = yield from enlarged(images[k], request.result_size, self.upscaler)
            second = second_pass(request, k, large)
            source = None
            if request.hires.upscaler == LATENT:
                latents = start.source_latents(self.model, request) if latents is None else latents
                source = start.enlarge(self.model, latents[k : k + 1], second)
            _, (images[k],) = yield from self._again()._pass(second, (done, total), source)
            done += count
        return images

    def _again(self) -> Passes:
        """For a second pass, at the end of which words that come later stand from the start."""
        prompts, refining = replace(self.prompts, before=1), self.company.refining
        if refining:
            refining = replace(refining, prompts=replace(refining.prompts, before=1))
        return replace(self, prompts=prompts, company=replace(self.company, refining=refining))

    def _pass(
        self, request: GenerationRequest, progress: tuple[int, int], source: Tensor | None = None
    ) -> Generator[Event, None, tuple[Tensor, list[Image]]]:
        """One run of the loop; returns its last latents (n, c, h, w) and their pictures. `progress` is how many steps
        are done before it, of how many in all.
        """
        done, total = progress
        run = start.prepare(self.model, self.prompts, request, self.company, source)
        latents = run.latents
        for index, step in enumerate(denoise(run), start=done + 1):
            latents = step.latents
            yield Step(index, total, self.preview(step.x0))
        canvas = Canvas(request)
        images = []
        for one in latents:
            image = yield from picture(self.model, one[None])
            images.append(canvas.paste(image))
        return latents, images


def second_pass(request: GenerationRequest, k: int, picture: Image) -> GenerationRequest:
    """The request for the second pass of picture `k`: image to image of `picture`, already enlarged.

    What was masked stays so: the mask grows with the picture, and outside it the enlarged picture is the source.
    """
    assert request.hires and request.seed is not None
    changes: dict[str, Any] = dict(zip(("width", "height"), request.result_size, strict=True))
    if request.task == "inpaint":
        mask = fit_mask(Canvas(request).mask, request.result_size, "stretch")
        changes = {"width": None, "height": None, "mask": mask, "mask_invert": False, "mask_grow": 0}
        changes |= {"mask_content": "original", "outpaint": None}
    controls = [c if c.image else c.replace(image=Canvas(request).source) for c in request.controls]
    return request.replace(
        **changes,
        controls=controls,
        image=picture,
        strength=request.hires.strength,
        steps=request.hires.steps or request.steps,
        seed=request.seed + k,
        batch_size=1,
        hires=None,
    )
