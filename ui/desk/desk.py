"""Between the form and the queue: values -> request -> job, and the jobs' states -> what the page draws.

Nothing here owns a run: Generate submits and returns, each open page relays what the queue tells.
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import gradio as gr
from PIL import Image
from pydantic import Field

from core.engine import Engine
from core.errors import DarkroomError, NotFound
from core.jobs import ENDED, FILM_LENGTH, History, JobQueue, JobState, Status, disk_warning
from core.library import STEPS, AtHand, Checkpoint, size_warning, with_loras
from core.pictures import read_picture
from core.prompts import MOST_CHUNKS
from core.request import SECOND_PROMPTS, GenerationRequest, reject
from core.samplers import SAMPLERS
from core.sizes import in_words
from ui.controls import NO_REFINER, OWN_VAE
from ui.desk.enlarging import enlarging
from ui.desk.form import EASEL, MODELS_COMPANY, REMEMBERED, SIDES, check_editing, read_form, read_loras, write_form
from ui.desk.outlook import extended, outlook
from ui.live import data_uri
from ui.sent import Id, OfJob, OfPicture, Sent
from ui.server import address_of, is_known, owner_of, place_of

TASKS = {"text": "Text to image", "image": "Image to image", "inpaint": "Inpaint"}
OFFERED = ("sampler", *MODELS_COMPANY, "hires.upscaler")  # by model, and by what lies on disk
# fields that follow the model until a person sets them
MODELS_OWN = ("width", "height", "sampler", "guidance_scale", "steps")
DRAWN = ("task", "image", "mask", "kept")  # fields that follow the canvas
FRAME_SECONDS = 1 / 15  # a page draws at most this often
PREVIEW_SIDE = 256  # pixels; one pixel a latent, enlarged by a browser, would have visible edges
TITLE_LENGTH = 200  # characters of a prompt that name a picture in the film


def _labelled(names: Iterable[str], origins: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names as choices, with the tools in whose folders they lie."""
    return [(f"{name} · {origins[name]}" if name in origins else name, name) for name in names]


def own_values(checkpoint: Checkpoint | None) -> dict[str, Any]:
    """What the MODELS_OWN fields show for a model; all None without one."""
    if checkpoint is None:
        return dict.fromkeys(MODELS_OWN) | {"steps": STEPS}
    side = checkpoint.native_size
    values = (side, side, checkpoint.sampler, checkpoint.guidance_scale, checkpoint.steps)
    return dict(zip(MODELS_OWN, values, strict=True))


def duration(seconds: float) -> str:
    """Seconds in few words: "0.4 s", "12 s", "3 min", "2 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 0.95 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def preview_uri(preview: Image.Image) -> str:
    """x0 as an inline JPEG with a longer side of PREVIEW_SIDE pixels."""
    scale = PREVIEW_SIDE / max(preview.size)
    size = (max(1, round(preview.width * scale)), max(1, round(preview.height * scale)))
    return data_uri(preview.convert("RGB").resize(size, Image.Resampling.BICUBIC), "JPEG", quality=80)


def _size(request: GenerationRequest) -> str:
    """The result's size, and the source's where it had to be rounded."""
    width, height = request.result_size
    is_rounded = (
        request.image
        and not request.outpaint
        and 0 < max(abs(width - request.image.width), abs(height - request.image.height)) < 8
    )
    source = f", of {request.image.width} × {request.image.height}" if request.image and is_rounded else ""
    return f"{width} × {height}{source}"


def _steps(count: str) -> str:
    return "1 step" if count == "1" else f"{count} steps"


def frame(job: JobState, preview: str | None) -> dict[str, Any]:
    """One job as the page's script draws it; its text is only ever set as text, never as HTML."""
    request = job.request
    width, height = _outlined_size(request)
    steps = job.total or request.steps_in_all
    facts = [*([f"{width} × {height}"] if width else []), _steps(str(steps))]
    return {
        "id": job.id,
        "status": job.status.value,
        "title": request.prompt[:TITLE_LENGTH],
        "place": job.place,
        "doing": job.doing,
        "step": job.step,
        "total": steps,
        "preview": preview,
        "left": None if job.seconds_left is None else duration(job.seconds_left),
        "facts": " · ".join(facts + ([duration(job.seconds)] if job.seconds else [])),
        # no list: of lists that shrink within a list gradio streams wrong differences
        "pictures": {str(k): {"id": id, "seed": str((request.seed or 0) + k)} for k, id in job.pictures.items()},
        "error": job.error,
        "notice": job.notice,
        "width": width,
        "height": height,
        "source": request.image is not None and request.outpaint is None,  # can be compared with it
    }


def _outlined_size(request: GenerationRequest) -> tuple[int | None, int | None]:
    """The result's size, as far as an outline tells: some have their source picture's."""
    return request.result_size if request.width and not request.only_masked else (None, None)


class Older(Sent):
    before: Id = Field(title="Job")


class Switched(Sent):
    loras: str = Field(title="LoRA")  # as the form's field has them


class Desk:
    """What the page's buttons do. `fields` names the request's fields in the order in which events send them."""

    def __init__(self, engine: Engine, queue: JobQueue, history: History, fields: Sequence[str]) -> None:
        self.engine, self.queue, self.history, self.fields = engine, queue, history, tuple(fields)
        self._newest_preview: tuple[tuple[str, int] | None, str | None] = (None, None)  # shared by all open pages

    def generate(self, request: gr.Request, *values: Any) -> None:
        wanted = self.read(dict(zip(self.fields, values, strict=True)))
        for resolved in [self._resolved(each)[0] for each in wanted]:  # all are checked before the first waits
            self.queue.submit(resolved, owner_of(request), address_of(request))

    def read(self, given: Mapping[str, Any]) -> list[GenerationRequest]:
        """The requests in the raw values of the form's fields."""
        return read_form(given, self.engine.settings.limits)

    def _resolved(self, wanted: GenerationRequest) -> tuple[GenerationRequest, AtHand]:
        """A request of the form, and what took the place of files that have gone since they were chosen in it: of
        those under a fold, where nobody would see what Generate is refused for.
        """
        folded = {name: getattr(wanted, name) for name in ("vae", "refiner", "hires")}
        found = self.engine.library.at_hand(folded)
        return self.engine.library.resolve(wanted.replace(**found.fields)), found

    def extend(self, ratio: str, image: str) -> list[Any]:
        """The four sides that bring the source picture to a shape; as they are for none."""
        return extended(ratio, image, self.engine.settings.limits) if ratio else [gr.skip()] * len(SIDES)

    def cancel(self, asked: OfJob, request: gr.Request) -> None:
        self.queue.cancel(asked.job, owner_of(request))

    async def new_seed(self, asked: OfPicture, request: gr.Request) -> None:
        """The job of a picture once more, with a seed drawn anew."""
        job = await self._job(asked.job, request)
        await asyncio.to_thread(self.submit, job.request.replace(seed=None), request)

    def upscale(self, asked: OfPicture, request: gr.Request) -> None:
        """A picture at twice its size, as a job of its own."""
        row = self.history.picture(asked.picture or "", owner_of(request))
        image = read_picture(row.read(), max_pixels=self.engine.settings.limits.max_pixels)
        self.submit(enlarging(row, image), request)

    async def use_settings(self, asked: OfPicture, request: gr.Request) -> list[Any]:
        """A picture's settings, as values of the form's fields."""
        job = await self._job(asked.job, request)
        used = dict(job.request.replace(seed=_seed(job, asked.picture)))
        return await asyncio.to_thread(self.filled, self.engine.library.at_hand(used))

    def filled(self, used: AtHand) -> list[Any]:
        """Settings as values of the form's fields. What is not on this machine is told."""
        if used.missing:
            gr.Warning(html.escape(str(used), quote=False), duration=None)
        return write_form(self.fields, used.fields)

    def written(self, *values: Any) -> list[Any]:
        """What is said of a form whose prompts change: their length, and the plan."""
        given = dict(zip(self.fields, values, strict=True))
        return [self.tokens(given["prompt"], given["checkpoint"]), self.plan(*values)]

    def plan(self, *values: Any) -> dict[str, Any]:
        """What Generate would do with the form as it is, or why it would not."""
        given = dict(zip(self.fields, values, strict=True))
        checkpoint = self.checkpoint(given["checkpoint"])
        plan: dict[str, Any] = {
            "own": self._own(given["checkpoint"], given["loras"]),
            "examples": list(checkpoint.examples) if checkpoint else [],
            "most": self.engine.settings.limits.max_pixels,
        }
        try:
            wanted = self.read(given)
            request, found = self._resolved(wanted[0])
            drawn = outlook(request)
            notes = "; ".join((*map(str, found.missing), *self._notes(request)))
        except DarkroomError as error:
            return plan | {"problem": str(error)}
        seconds, count = self.queue.estimate(request), len(wanted) * request.batch_size
        pictures = [f"{count} pictures"] if count > 1 else []
        about = [] if seconds is None else [f"about {duration(max(1, seconds * len(wanted)))}"]
        width, height = request.result_size
        runs = f"{request.steps_run} of {request.steps}" if request.image else f"{request.steps}"
        again = "".join(f" + {run.steps}" for run in request.passes[1:2])
        words = [TASKS[request.task], _size(request), _steps(runs + again), *pictures, *about]
        return plan | drawn | {"words": words, "notes": notes, "width": width, "height": height, "runs": _steps(runs)}

    def _notes(self, request: GenerationRequest) -> Iterator[str]:
        """What to know before a resolved request runs: what is not drawn, its memory, what may be wrong with it."""
        yield from self.engine.notes(request)
        yield self.engine.plan(request).foretold(self.engine.machine())
        checkpoint = self.checkpoint(request.checkpoint)
        if checkpoint and (warned := size_warning(request, checkpoint)):
            yield warned
        if self.engine.settings.mode == "local" and (warned := disk_warning(self.engine.settings.data)):
            yield warned

    def tokens(self, prompt: str | None, name: str | None) -> dict[str, Any]:
        """How long the prompt is for the model; nothing for what it cannot read."""
        try:
            text = GenerationRequest(prompt=prompt or "").prompt
            count = self.engine.count_tokens(text, name)
        except DarkroomError:
            return {}
        return {**count._asdict(), "most": MOST_CHUNKS}

    def recall(self, text: str | None) -> list[Any]:
        """The REMEMBERED fields and those of the EASEL as this browser had them; as they are if it had none that are
        allowed here.
        """
        kept: dict[str, Any] = {}
        for place, (names, check) in enumerate(((REMEMBERED, self._check_lasting), (EASEL, check_editing))):
            with suppress(DarkroomError, ValueError, TypeError, LookupError, RecursionError):
                values = dict(zip(names, json.loads(text or "")[place], strict=True))
                check(values)
                kept |= values
        return [kept.get(name, gr.skip()) for name in (*REMEMBERED, *EASEL)]

    def _check_lasting(self, values: dict[str, Any]) -> None:
        check_editing(values)
        (request,) = self.read(values | {"task": "text"})
        if request.checkpoint is None:
            raise reject("checkpoint", None, "a model")
        self.engine.library.resolve(request)

    def follow_model(
        self, name: str | None, loras: str | None, plan: Mapping[str, Any] | None, *values: Any
    ) -> list[Any]:
        """The MODELS_OWN fields after a change of model: what showed the old one's own value shows the new one's."""
        new = self._own(name, loras)
        own = (plan or {}).get("own")
        old = own if isinstance(own, dict) else new
        return [
            new[field]
            if value in (old.get(field), None)
            else gr.skip()  # gradio logs, and keeps, what it does not know
            for field, value in zip(MODELS_OWN, values, strict=True)
        ]

    def follow_loras(
        self, asked: Switched, name: str | None, plan: Mapping[str, Any] | None, *values: Any
    ) -> list[Any]:
        """The same after a person switched LoRAs, one of which may want few steps."""
        return self.follow_model(name, asked.loras, plan, *values)

    def _own(self, name: str | None, loras: str | None) -> dict[str, Any]:
        known = self.checkpoint(name)
        return own_values(known and with_loras(known, read_loras(loras)))

    def offered(self, name: str | None) -> list[Any]:
        """What the OFFERED fields hold for a model: the samplers that it can use, the VAEs that may take its own's
        place, refiners where it is one of XL, its own guidance where it has one built in, and any upscaler.
        """
        known = self.checkpoint(name)
        library = self.engine.library
        vaes = [OWN_VAE, *_labelled(library.vaes(), library.origins("vae"))]
        refiners = [(each.title, each.name) for each in self.engine.library.refiners()]
        there = bool(refiners) and known is not None and known.family == "sdxl"
        none = {} if there else {"value": ""}
        return [
            gr.Dropdown(choices=list(known.samplers if known else SAMPLERS)),
            gr.Dropdown(choices=vaes),
            gr.Dropdown(choices=[NO_REFINER, *refiners], visible=there, **none),
            gr.Slider(visible=there),
            gr.Slider(visible=known is not None and known.has_distilled_guidance),
            gr.Dropdown(choices=_labelled(library.upscalers(), library.origins("upscalers"))),
        ]

    def second_prompts(self, name: str | None) -> list[Any]:
        """The prompts of a second text encoder stand in the form only for a model that has one."""
        known = self.checkpoint(name)
        there = known is not None and known.text_encoders > 1
        return [gr.Textbox(visible=True) if there else gr.Textbox(visible=False, value="") for _ in SECOND_PROMPTS]

    def checkpoint(self, name: str | None) -> Checkpoint | None:
        return next((known for known in self.engine.library.checkpoints() if known.name == name), None)

    def machine(self) -> dict[str, Any]:
        """This machine in a few words, and the share of its memory in use (0 … 1)."""
        machine = self.engine.machine()
        total, free = machine.memory_total, machine.memory_free
        threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
        detail = threads if machine.device == "cpu" else in_words(total)
        return {"name": machine.name, "detail": detail, "used": round(1 - free / total, 2) if total else 0}

    async def relay(self, request: gr.Request) -> AsyncIterator[dict[str, Any]]:
        """One page's live view: its owner's jobs, and the machine as it is when a job begins or ends.

        It goes on until the page has gone. One that reads slowly gets the latest later; one that has not read for too
        long is told so, and loads anew if it ever reads that. One too many is told that, and has no live view.
        """
        place = place_of(request)
        if not place.may_stay:
            yield {"over": "too many"}
            return
        before: list[Status] | None = None
        machine: dict[str, Any] = {}
        async for jobs in self.queue.follow(owner_of(request)):
            if not await place.is_read():
                yield {"over": "asleep"}
                return
            statuses = [job.status for job in jobs]
            if statuses != before:
                before, machine = statuses, self.machine()
            film = [frame(job, self._preview(job)) for job in jobs]
            more = sum(job.status in ENDED for job in jobs) >= FILM_LENGTH
            yield {"jobs": film, "more": more, "machine": machine, "known": is_known(request)}
            await asyncio.sleep(FRAME_SECONDS)

    def older(self, asked: Older, request: gr.Request) -> dict[str, Any]:
        """What ended before a job that the film shows, as far as the film goes back at a time."""
        rows = self.history.recent(owner_of(request), FILM_LENGTH, asked.before)
        return {"before": asked.before, "older": [frame(JobState.of(row), None) for row in rows]}

    def _preview(self, job: JobState) -> str | None:
        if job.preview is None:
            return None
        key = (job.id, job.step)
        if self._newest_preview[0] != key:
            self._newest_preview = (key, preview_uri(job.preview))
        return self._newest_preview[1]

    def submit(self, wanted: GenerationRequest, request: gr.Request) -> JobState:
        return self.queue.submit(self.engine.library.resolve(wanted), owner_of(request), address_of(request))

    async def _job(self, id: str, request: gr.Request) -> JobState:
        async for state in self.queue.attach(id, owner_of(request)):
            return state
        raise NotFound("There is no such picture.")


def _seed(job: JobState, picture: str | None) -> int:
    """The seed of a job's picture: picture k of a batch has seed + k."""
    places = {id: place for place, id in job.pictures.items()}
    return (job.request.seed or 0) + places.get(picture or "", 0)
