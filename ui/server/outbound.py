"""Nothing is fetched on a visitor's behalf: gradio downloads whatever it takes for a URL, past all our limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from gradio import processing_utils, routes

from core.errors import DarkroomError

DOWNLOADS = (
    (processing_utils, "async_ssrf_protected_get"),
    (processing_utils, "async_ssrf_protected_download"),
    (processing_utils, "ssrf_protected_download"),
    (processing_utils, "save_url_to_cache"),
    (processing_utils, "unsafe_download"),
    (routes, "secure_url_stream_response"),
)
"""All that fetch, in the modules through which gradio calls them."""


def _refuse(*_: object, **__: object) -> NoReturn:
    raise DarkroomError("Files of other servers are not fetched; send the file itself.")


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Inside, gradio's downloads refuse. Raises AttributeError where this gradio has another one in its place."""
    real = [(module, name, getattr(module, name)) for module, name in DOWNLOADS]
    for module, name in DOWNLOADS:
        setattr(module, name, _refuse)
    try:
        yield
    finally:
        for module, name, download in real:
            setattr(module, name, download)
