"""How a visitor is told what went wrong: in one sentence and with the right status, whatever gradio makes of it."""

from __future__ import annotations

import html
import logging
from typing import Any

import gradio as gr
from starlette.responses import JSONResponse

from core.errors import DarkroomError, NotFound, QueueFull, RequestError, StorageError

log = logging.getLogger(__name__)

STATUSES: tuple[tuple[type[DarkroomError], int], ...] = (
    (RequestError, 422),
    (NotFound, 404),
    (QueueFull, 429),
    (StorageError, 507),
)
FAILED = "Something went wrong; the server's log says what."


def status_of(error: DarkroomError) -> int:
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 400)


def refusal(status: int, text: str) -> JSONResponse:
    """As gradio's clients look for it: "error" after an event that answers at once, "detail" after others."""
    return JSONResponse({"error": text, "detail": text}, status)


def refused(error: DarkroomError) -> JSONResponse:
    """The same for a call; gradio's clients read the reason of a 422 like that of gradio's validators."""
    if not isinstance(error, RequestError):
        return refusal(status_of(error), str(error))
    reason = {"__type__": "validate", "is_valid": False, "parameter_name": error.field, "message": str(error)}
    return JSONResponse({"error": str(error), "detail": [reason]}, status_of(error))


class Page(gr.Blocks):  # type: ignore[misc]
    """gradio's page, each of whose events fails with our own words, or with the word that the log says more."""

    async def process_api(self, block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await super().process_api(block_fn, inputs, *more, **options)
            return answer
        except gr.Error:
            raise
        except DarkroomError as error:
            _note(options.get("request"), status_of(error))
            text = html.escape(str(error), quote=False)  # gradio renders messages as HTML
            raise gr.Error(text, print_exception=False) from None
        except Exception:
            log.exception("The event %s failed", block_fn)
            raise gr.Error(FAILED, print_exception=False) from None


def _note(request: object, status: int) -> None:
    """Keep `status` for the gate (ui/server/gate.py): gradio itself answers 500, whatever went wrong."""
    if isinstance(request, gr.Request) and request.request:
        request.request.state.status = status
