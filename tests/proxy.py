"""A real reverse proxy on loopback, for what stands at a path of somebody's host."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

METHODS = ["GET", "HEAD", "POST", "OPTIONS"]
HOP = ("connection", "transfer-encoding")  # headers that are about one connection


@dataclass(frozen=True)
class Proxy:
    """Where it listens with what it passes on, and the paths that it was asked for beside them."""

    url: str
    beside: list[str] = field(default_factory=list)


@contextmanager
def proxied(upstream: str, path: str, strips: bool = True, says: Mapping[str, str] | None = None) -> Iterator[Proxy]:
    """A proxy that passes what is below `path` on to `upstream` as it comes, with `path` or without."""
    transport = httpx.AsyncHTTPTransport()  # a client would keep one visitor's cookies for the next

    async def below(request: Request) -> Response:
        asked = request.url.path.removeprefix(path) if strips else request.url.path
        headers = {k: v for k, v in request.headers.items() if k not in HOP}
        headers |= {"x-forwarded-for": "93.184.216.34", **(says or {})}
        content = request.stream() if request.method == "POST" else None
        url = httpx.URL(upstream, path=asked, query=request.url.query.encode())
        answer = await transport.handle_async_request(
            httpx.Request(request.method, url, headers=headers, content=content)
        )

        async def body() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    yield chunk
            finally:
                await answer.aclose()

        passed = StreamingResponse(body(), answer.status_code)
        passed.raw_headers = [pair for pair in answer.headers.raw if pair[0].decode().lower() not in HOP]
        return passed

    def elsewhere(request: Request) -> Response:
        proxy.beside.append(request.url.path)
        return PlainTextResponse("Another page of this host.", 404)

    @asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        yield
        await transport.aclose()

    ways = [path + "/{rest:path}"] if strips else [path, path + "/{rest:path}"]
    routes = [*(Route(way, below, methods=METHODS) for way in ways), Route("/{rest:path}", elsewhere)]
    with listening(Starlette(routes=routes, lifespan=closing)) as url:
        proxy = Proxy(url + path)
        yield proxy


@contextmanager
def listening(app: Starlette) -> Iterator[str]:
    """`app` on a port of its own."""
    config = uvicorn.Config(app, port=0, log_level="critical", proxy_headers=False, timeout_graceful_shutdown=1)
    server, up = uvicorn.Server(config), threading.Event()
    startup = server.startup

    async def started(sockets: object = None) -> None:
        await startup()
        up.set()

    server.startup = started  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    assert up.wait(20)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
