"""The page's own style, script and font as files, and the HTML that asks for them.

A file's name holds a hash of what is in it: browsers keep it for good, and never show an older one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from gradio.routes import STATIC_TEMPLATE_LIB, templates
from jinja2 import DictLoader
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ui.controls import HELP
from ui.live import HERE, file_of

SHARED = {"js": "parts.js", "css": "style.css"}  # before those of the pages' folders
KEEP = {"Cache-Control": "private, max-age=31536000, immutable"}  # what is named by an id or a hash never changes
BEFORE = '<script type="module"'  # gradio's own script, which runs once the page is read; ours must have run by then


@dataclass(frozen=True)
class File:
    name: str
    content: bytes
    media_type: str


def _file(name: str, content: bytes, media_type: str) -> File:
    stem, _, kind = name.partition(".")
    return File(f"{stem}-{sha256(content).hexdigest()[:16]}.{kind}", content, media_type)


def _joined(kind: str) -> str:
    """All scripts, or all styles: what is shared, then each folder's own."""
    shared = file_of(SHARED[kind])
    own = sorted(file for file in HERE.glob(f"*/*.{kind}") if file != shared)
    return "\n".join(file.read_text("utf-8") for file in (shared, *own))


FONT = _file("geist.woff2", file_of("geist.woff2").read_bytes(), "font/woff2")
STYLE = _file("style.css", _joined("css").replace("geist.woff2", FONT.name).encode(), "text/css")
SCRIPT = _file("script.js", _joined("js").replace("HELP", json.dumps(HELP)).encode(), "text/javascript")
FILES = {file.name: file for file in (FONT, STYLE, SCRIPT)}
HEAD = f"""<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
<link rel="icon" href="./favicon.ico">
<link rel="preload" href="./page/{FONT.name}" as="font" type="{FONT.media_type}" crossorigin>
<link rel="stylesheet" href="./page/{STYLE.name}">
<script defer src="./page/{SCRIPT.name}"></script>
"""


def file_route() -> Route:
    """GET /page/{name}: the page's own files. Their addresses are relative, as a proxy may serve us below a path."""

    async def answer(request: Request) -> Response:
        file = FILES.get(request.path_params["name"])
        if file is None:
            return PlainTextResponse("There is no such file.", 404, {"Cache-Control": "no-store"})
        return Response(file.content, media_type=file.media_type, headers=KEEP)

    return Route("/page/{name}", answer)


def use_own_template() -> None:
    """Make gradio serve its page with our HEAD in it, on a public link too.

    What gradio's own `head` adds comes late, from a script, and there inline only. And while a link is up its page
    has its scripts from another server, which our policy rightly refuses.
    """
    page = (Path(STATIC_TEMPLATE_LIB) / "frontend" / "index.html").read_text("utf-8")
    if page.count(BEFORE) != 1:
        raise RuntimeError(f"gradio's page has no {BEFORE}, or more than one")
    ours = page.replace(BEFORE, HEAD + BEFORE).replace('href="/manifest.json"', 'href="./manifest.json"')
    templates.env.loader = DictLoader({"frontend/index.html": ours, "frontend/share.html": ours})
