"""Half-sent requests, on real servers over real ports: by hundreds they are closed, and nobody else is hindered."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.darkroom import PATIENT
from tests.test_app import ROOT, free_port
from ui.server.connections import Patience, Watch, raise_handles

QUICK = Patience(head=0.5, body=1, step=1000, grace=0.05)
LONG = Patience(head=60, body=60, step=1000, each=3, grace=0.05)
HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
HALVES = {
    "nothing": b"",
    "half a line": b"GET /liv",
    "half a head": HEAD,
    "half a head of HTTP/1.0": b"GET /livez HTTP/1.0\r\nHost: localhost\r\n",
    "half an upgrade": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "no body": UPLOAD,
    "half a body": UPLOAD + b"x" * 4000,
    "no body though it may come": UPLOAD[:-2] + b"Expect: 100-continue\r\n\r\n",
    "half a chunk": CHUNKED + b"5\r\nab",
    "no last chunk": CHUNKED + b"2\r\nab\r\n",
    "an endless chunk length": CHUNKED + b"0" * 4000,
    "half a trailer": CHUNKED + b"0\r\nA: b",
    "no body to what reads none": HEAD + b"Content-Length: 9\r\n\r\n",
}

SERVER = """
import sys
from types import SimpleNamespace
import gradio as gr
from core.settings import Settings
from ui.server.serving import running

with gr.Blocks(analytics_enabled=False) as page:
    gr.Textbox()
engine = SimpleNamespace(settings=Settings(port=int(sys.argv[1])), detectors=None)
with running(page, engine, SimpleNamespace(ready=True, wake=None), None):
    print("up", flush=True)
    sys.stdin.read()
"""


class App:
    """Answers as our server does: at once, after the whole of a body, or with a stream that is mostly silent."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()
        routes = [
            Route("/livez", self.livez),
            Route("/upload", self.upload, methods=["POST"]),
            Route("/relay", self.relay),
            Route("/ring", self.ring),
        ]
        self.asgi = Starlette(routes=routes)

    async def livez(self, _: Request) -> Response:
        return PlainTextResponse("ok")

    async def upload(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def relay(self, _: Request) -> Response:
        async def said() -> AsyncIterator[str]:
            yield "here"
            await self.rung.wait()
            yield "rung"

        return StreamingResponse(said())

    async def ring(self, _: Request) -> Response:
        self.rung.set()
        return PlainTextResponse("ok")


@contextmanager
def served(patience: Patience) -> Iterator[int]:
    """The port of a server with that patience."""
    port = free_port()
    config = uvicorn.Config(App().asgi, port=port, log_level="warning", timeout_graceful_shutdown=1)
    config.http = Watch(patience).connection  # type: ignore[assignment]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join()


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENT
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


@asynccontextmanager
async def connected(port: int, said: bytes = b"", **how: Any) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **how)
    try:
        writer.write(said)
        yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: StreamReader, within: float = PATIENT) -> bytes:
    """What was still read until the other side closed the connection."""
    read = bytearray()
    async with asyncio.timeout(within):
        try:
            while some := await reader.read(2**16):
                read += some
        except ConnectionResetError:
            pass
    return bytes(read)


async def is_open(reader: StreamReader, for_: float = 0.02) -> bool:
    """Whether the other side does not close the connection within that time; it also sets a slow sender's pace."""
    try:
        await ended(reader, for_)
    except TimeoutError:
        return True
    return False


async def lives(port: int) -> float:
    """How long, in seconds, /livez takes on a connection of its own."""
    began = time.monotonic()
    async with connected(port, HEAD + b"Connection: close\r\n\r\n") as (reader, _):
        assert (await ended(reader)).endswith(b"ok")
    return time.monotonic() - began


async def until_closed(port: int, half: bytes) -> float:
    """How long, in seconds, the server waits for the rest."""
    began = time.monotonic()
    async with connected(port, half) as (reader, _):
        await ended(reader)
    return time.monotonic() - began


def run(trial: Callable[[int], Coroutine[Any, Any, None]], patience: Patience = QUICK) -> None:
    with served(patience) as port:
        asyncio.run(trial(port))


def test_what_never_comes_whole_is_closed() -> None:
    async def trial(port: int) -> None:
        lasted = await asyncio.gather(*[until_closed(port, half) for half in HALVES.values()])
        assert [half for half, time in zip(HALVES, lasted, strict=True) if time < QUICK.head] == []

    run(trial)


def test_half_a_request_after_a_whole_one_is_closed() -> None:
    async def trial(port: int) -> None:
        for half in (HEAD, UPLOAD):
            async with connected(port, HEAD + b"\r\n") as (reader, writer):
                await reader.readuntil(b"ok")
                writer.write(half)
                await ended(reader, 3)  # uvicorn's own timeout, between requests, is five seconds

    run(trial)


def test_a_byte_now_and_then_does_not_hold_a_connection() -> None:
    async def trial(port: int) -> None:
        for half, drop in ((HEAD, b"a"), (UPLOAD, b"x"), (CHUNKED, b"1\r\nx\r\n")):
            began = time.monotonic()
            async with connected(port, half) as (reader, writer):
                while await is_open(reader):
                    assert time.monotonic() < began + PATIENT
                    writer.write(drop)

    run(trial)


def test_a_head_without_end_is_refused() -> None:
    async def trial(port: int) -> None:
        async with connected(port, HEAD + b"A: " + b"a" * 2**20) as (reader, _):
            await ended(reader, 3)

    run(trial, LONG)


def test_what_comes_after_the_answer_is_not_taken_for_ever() -> None:
    refused = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def trial(port: int) -> None:
        began = time.monotonic()
        async with connected(port, refused) as (reader, writer):
            await reader.readuntil(b"405")
            while await is_open(reader):
                assert time.monotonic() < began + PATIENT
                writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    run(trial)


def test_a_slow_upload_comes_through() -> None:
    async def trial(port: int) -> None:
        began = time.monotonic()
        async with connected(port, UPLOAD) as (reader, writer):
            for _ in range(17):
                writer.write(b"x" * 500)
                assert await is_open(reader, QUICK.body / 8)
            writer.write(b"x" * 500)
            assert (await reader.readuntil(b"9000")).startswith(b"HTTP/1.1 200")
        assert time.monotonic() > began + 2 * QUICK.body

    run(trial)


def test_what_came_whole_lives_on_in_silence() -> None:
    async def trial(port: int) -> None:
        async with connected(port, b"GET /relay HTTP/1.1\r\nHost: localhost\r\n\r\n") as (relay, _):
            await relay.readuntil(b"here")
            for _ in range(3):
                async with connected(port, UPLOAD) as (reader, _):  # as long as the server waits for anything
                    await ended(reader)
            async with connected(port, b"GET /ring HTTP/1.1\r\nHost: localhost\r\n\r\n"):
                await relay.readuntil(b"rung")

    run(trial)


async def opened(port: int, *halves: bytes, **how: Any) -> list[tuple[StreamReader, StreamWriter]]:
    """Connections that said these, each before the next one came."""
    lines = []
    for half in halves:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **how)
        writer.write(half)
        await lives(port)
        lines.append((reader, writer))
    return lines


async def still_open(lines: list[tuple[StreamReader, StreamWriter]], which: list[int]) -> list[int]:
    states = await asyncio.gather(*[is_open(lines[index][0], 2 * LONG.grace) for index in which])
    return [index for index, lives_on in zip(which, states, strict=True) if lives_on]


async def which_live(lines: list[tuple[StreamReader, StreamWriter]], most: int) -> list[int]:
    """The indices of the connections that are left once no more than `most` are."""
    left = list(range(len(lines)))
    async with asyncio.timeout(PATIENT):
        while len(left) > most:
            left = await still_open(lines, left)
    left = await still_open(lines, left)
    for _, writer in lines:
        writer.transport.abort()
    return left


def test_the_oldest_of_too_many_is_closed_first() -> None:
    async def trial(port: int) -> None:
        lines = await opened(port, HEAD, UPLOAD, b"", HEAD, UPLOAD)
        assert await which_live(lines, LONG.each) == [2, 3, 4]
        assert await lives(port) < 1

    run(trial, LONG)


def test_an_upload_that_goes_on_is_younger_than_what_stands_still() -> None:
    async def trial(port: int) -> None:
        lines = await opened(port, UPLOAD)
        lines[0][1].write(b"x" * LONG.step)
        lines += await opened(port, *[HEAD] * 5)
        assert await which_live(lines, LONG.each) == [0, 4, 5]

    run(trial, LONG)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_each_address_has_its_own_share() -> None:
    async def trial(port: int) -> None:
        lines = await opened(port, *[HEAD] * 3)
        lines += await opened(port, *[HEAD] * 5, local_addr=("127.0.0.2", 0))
        assert await which_live(lines, 6) == [0, 1, 2, 5, 6, 7]

    run(trial, LONG)


def test_all_addresses_together_have_a_share() -> None:
    async def trial(port: int) -> None:
        lines = await opened(port, *[HEAD] * 5)
        assert await which_live(lines, 3) == [2, 3, 4]

    run(trial, replace(LONG, each=60, in_all=3))


def test_none_is_one_too_many_at_once() -> None:
    """Each has its time, also where the server looks through them just after it came."""
    patience = Patience(each=0, grace=0.3)

    async def trial(port: int) -> None:
        end = time.monotonic() + 2 * patience.grace
        waits = []
        while time.monotonic() < end:
            waits.append(asyncio.create_task(until_closed(port, HEAD)))
            await lives(port)
        assert patience.grace <= min(await asyncio.gather(*waits))

    run(trial, patience)


def test_many_at_once_that_come_whole_are_all_answered() -> None:
    async def trial(port: int) -> None:
        await asyncio.gather(*[lives(port) for _ in range(100)])

    run(trial, Patience(each=3))


@contextmanager
def limited(limit: str, errors: Path) -> Iterator[int]:
    """The port of our server in a process of its own, under that option of `ulimit`; `errors` gets its log."""
    port = free_port()
    command = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", sys.executable, "-c", SERVER, str(port)]
    with (
        errors.open("w") as log,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as server,
    ):
        assert server.stdin and server.stdout
        assert server.stdout.readline() == b"up\n"
        yield port
        server.stdin.close()
        assert server.wait(PATIENT) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sets no limit of handles")
@pytest.mark.parametrize(
    ("limit", "halves", "seconds"),
    [("-S -n 256", 2000, 1), ("-n 256", 400, PATIENT)],
    ids=["a limit to be raised", "a limit that stays"],
)
def test_thousands_of_half_sent_requests_hinder_nobody(
    tmp_path: Path, limit: str, halves: int, seconds: float
) -> None:
    if raise_handles() < halves + 500:
        pytest.skip("this system allows too few handles")

    async def trial(port: int) -> None:
        lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(halves)]
        for _, writer in lines:
            writer.write(HEAD)
        assert sorted([await lives(port) for _ in range(3)])[1] < seconds  # the machine may be busy otherwise
        assert len(await which_live(lines, Patience.each)) > 0

    with limited(limit, tmp_path / "log") as port:
        asyncio.run(trial(port))
    assert len((tmp_path / "log").read_text()) < 4000
