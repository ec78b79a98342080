"""The page's one public endpoint, `/generate`: the request's fields by their own names, for programs.

Values reach the request untouched, so that its own strictness is the one gate: gradio's components would turn NaN,
true or "20" into something else. Pictures come by `handle_file` of gradio_client.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components.api_component import Api
from gradio.data_classes import FileData, ListFiles

from core.engine import Engine
from core.errors import DarkroomError
from core.jobs import History, JobQueue, JobState, Status
from core.request import PICTURES, GenerationRequest
from core.storage import write_file
from ui.server.archive import file_name
from ui.server.belongings import Visitor
from ui.server.places import place_of
from ui.server.uploads import new_folder, read_controls, read_upload
from ui.server.visitors import address_of, is_known, owner_of

FIELDS = GenerationRequest.model_fields


def add_endpoint(engine: Engine, queue: JobQueue, history: History) -> None:
    """Add `/generate` to the page being built. It submits and waits; any number of calls may wait at once."""

    async def generate(request: gr.Request, *values: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        owner, place = owner_of(request), place_of(request)

        def submit() -> JobState:
            wanted = _read(dict(zip(FIELDS, values, strict=True)), engine)
            return queue.submit(engine.library.resolve(wanted), owner, address_of(request))

        job = await asyncio.to_thread(submit)  # pictures are read and masks are made, while pages are served
        try:
            async for state in queue.attach(job.id, owner):
                job = state
                if place.has_left and not is_known(request):
                    break
        finally:
            if not is_known(request):  # if it goes on, nobody could ever find its pictures
                queue.cancel(job.id, owner)
        files = await asyncio.to_thread(_files, job, history, Visitor.of(request))
        return files, await asyncio.to_thread(job.request.model_dump, mode="json")

    gr.on(
        [],
        _named(generate),
        [Api(_default(name), schema, FIELDS[name].title or name) for name, schema in _schemas().items()],
        [Api(None, ListFiles.model_json_schema(), "Pictures"), Api(None, {"type": "object"}, "Request as resolved")],
        preprocess=False,
        postprocess=False,
        api_name="generate",
        api_description="Make pictures: returns their PNG files and the request as resolved, with its real seed.",
        concurrency_limit=None,
    )


def _default(name: str) -> Any:
    """A field's default as JSON has it."""
    return [] if FIELDS[name].default == () else FIELDS[name].default


def _schemas() -> dict[str, dict[str, Any]]:
    """Each field's JSON schema, from the request's own where gradio reads it: it knows no $ref, no closed objects."""
    own: dict[str, dict[str, Any]] = GenerationRequest.model_json_schema()["properties"]
    lists = {name: schema | {"items": {"type": "object"}} for name, schema in own.items() if "items" in schema}
    return own | lists | dict.fromkeys(PICTURES, FileData.model_json_schema())


def _named(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` with the fields as its parameters: gradio takes the endpoint's names and defaults from the signature."""
    fields = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=_default(name), annotation=Any)
        for name in FIELDS
    ]
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    fn.__signature__ = inspect.Signature([request, *fields])  # type: ignore[attr-defined]
    fn.__annotations__ = {"request": gr.Request} | dict.fromkeys(FIELDS, Any)
    return fn


def _read(values: dict[str, Any], engine: Engine) -> GenerationRequest:
    """The request that a call's JSON describes, its uploaded files read."""
    limits = engine.settings.limits
    for name in PICTURES:
        values[name] = read_upload(values[name], limits, name, FIELDS[name].title or name)
    values["controls"] = read_controls(values["controls"], limits)
    return GenerationRequest(**values)


def _files(job: JobState, history: History, visitor: Visitor) -> list[dict[str, Any]]:
    """A done job's pictures as downloads: copies among the uploads, which gradio clears by itself."""
    if job.status is not Status.DONE:
        raise DarkroomError(job.error or f"The job was {job.status.value}.")
    rows = [history.picture(id, visitor.owner) for id in job.pictures.values()]
    folder = new_folder(visitor)
    for row in rows:
        write_file(folder / file_name(row), row.read())
    return [FileData(path=str(folder / file_name(row))).model_dump() for row in rows]
