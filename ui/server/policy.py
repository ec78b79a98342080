"""What a browser may load and run of our answers: the second line, should a visitor's text ever become markup.

Scripts are files of this server. gradio's page has a few inline as well, and one of them, its config, differs by the
name the server was asked by: those are hashed as they leave. It evaluates the `js` of events and of live parts, hence
'unsafe-eval', and sets styles on elements, hence 'unsafe-inline' for styles.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.settings import Mode

OWN = "'self'"
FRAMES = {"space": f"{OWN} https://huggingface.co https://*.hf.space"}  # by mode; else only our own pages
ASKED = {"space": f"{OWN} https://huggingface.co/api/spaces/"}  # where gradio asks whether its Space is awake
PAGE = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)
NO_SCRIPTS = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'self'"
AS_FILE = f"{NO_SCRIPTS}; sandbox allow-same-origin"  # our page reads in its frame why an archive was refused


def with_policy(app: ASGIApp, mode: Mode) -> ASGIApp:
    """`app`, whose every answer says what a browser may do with it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, _Leaving(send, mode, is_page=scope.get("path") == "/"))

    return answer


class _Leaving:
    """The `send` of one answer. The page is held until it is whole; nothing else waits for anything.

    Only in the page are scripts looked for: HTML that a visitor sent would run none, wherever it were served.
    """

    def __init__(self, send: Send, mode: Mode, is_page: bool) -> None:
        self._send = send
        self._mode = mode
        self._is_page = is_page
        self._held: Message | None = None
        self._html = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            is_html = Headers(raw=message["headers"]).get("content-type", "").startswith("text/html")
            if is_html and self._is_page:
                self._held = message
                return
            self._allow(message, NO_SCRIPTS if is_html else AS_FILE)
        elif self._held:
            self._html += message.get("body", b"")
            if message.get("more_body"):
                return
            scripts = " ".join((f"script-src {OWN} 'unsafe-eval'", *hashes(self._html)))
            self._allow(self._held, f"{PAGE}; {scripts}; connect-src {ASKED.get(self._mode, OWN)}")
            await self._send(self._held)
            message["body"] = self._html
        await self._send(message)

    def _allow(self, start: Message, policy: str) -> None:
        frames = FRAMES.get(self._mode, OWN)
        MutableHeaders(scope=start)["Content-Security-Policy"] = f"{policy}; frame-ancestors {frames}"


class _Scripts(HTMLParser):
    """The text of each script that stands in a page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and "src" not in dict(attrs)
        if self._inside:
            self.inline.append("")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.inline[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def hashes(html: bytes) -> list[str]:
    """A source expression for each inline script of `html`, of its text as browsers read it."""
    scripts = _Scripts()
    scripts.feed(html.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd"))
    scripts.close()
    return [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in scripts.inline]
