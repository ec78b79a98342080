"""The second line: what each answer lets a browser do with it."""

from __future__ import annotations

import asyncio

from starlette.responses import HTMLResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from ui.server.policy import hashes, with_policy

HEADER = "Content-Security-Policy"


def test_html_anywhere_else_runs_no_script_and_a_space_may_be_framed_by_its_host() -> None:
    html = "<script>ran = true</script>"
    page = TestClient(with_policy(HTMLResponse(html), "space"))
    framed = "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
    for path in ("/login", "/gradio_api/file=/tmp/a.html", "/pictures/a"):
        policy = page.get(path).headers[HEADER]
        assert policy.startswith("default-src 'none'; ") and policy.endswith(framed)
        assert "script" not in policy
    assert hashes(html.encode())[0] in page.get("/").headers[HEADER]
    assert page.get("/").headers[HEADER].endswith(framed)


def test_only_the_page_waits_until_it_is_whole() -> None:
    async def told(kind: bytes) -> list[tuple[str, bytes]]:
        left: list[tuple[str, bytes]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            for part in (b"<script>a", b"</script>"):
                await send({"type": "http.response.body", "body": part, "more_body": True})
                left.append(("said", part))
            await send({"type": "http.response.body"})

        async def send(message: Message) -> None:
            left.append((message["type"].removeprefix("http.response."), message.get("body", b"")))

        async def receive() -> Message:
            raise AssertionError("nothing is asked")

        await with_policy(app, "local")({"type": "http", "path": "/"}, receive, send)
        return left

    stream = asyncio.run(told(b"text/event-stream"))
    assert [what for what, _ in stream] == ["start", "body", "said", "body", "said", "body"]
    page = asyncio.run(told(b"text/html; charset=utf-8"))
    assert page[2:] == [("start", b""), ("body", b"<script>a</script>")]
