"""The server: gradio's own, started behind our gate, with our routes for pictures and health beside the page."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import psutil
from gradio import networking
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from core.control import Detectors
from core.engine import Engine
from core.errors import DarkroomError, NotFound
from core.jobs import History, JobQueue
from core.pictures.work import Canvas
from core.room import CACHES
from core.settings import HOST_OWNER, VERSION, Settings
from ui.bundle import KEEP, file_route, use_own_template
from ui.server.archive import file_name, zip_route
from ui.server.belongings import Belongings
from ui.server.connections import watched
from ui.server.cookies import Owners
from ui.server.gate import Gate
from ui.server.guard import Guard
from ui.server.log import sparing_log
from ui.server.login import Login
from ui.server.outbound import nothing_fetched
from ui.server.places import SLOTS, Places
from ui.server.policy import with_policy
from ui.server.prefix import with_prefix, without_prefix
from ui.server.uploads import Reception

LINK_SECONDS = 60.0  # how long to wait for a public link, which takes a few where it comes at all


@dataclass(frozen=True)
class Running:
    """A server that answers: its page's address on this machine, the public one if there is one, and the login."""

    url: str
    link: str | None
    login: Login | None


def serve(page: gr.Blocks, engine: Engine, queue: JobQueue, history: History, **look: Any) -> None:
    """Serve the page until Ctrl+C or SIGTERM; a second one ends at once. `look`: theme … of `launch`.

    Raises DarkroomError if the address cannot be listened on.
    """
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    with running(page, engine, queue, history, **look) as server:
        print(_greeting(server, engine.settings, history.owns(HOST_OWNER)), flush=True)
        while not stop.wait(1):  # Windows hears Ctrl+C only between waits
            pass
        queue.close()  # first, so that the open pages' streams end and the server need not wait for them


@contextmanager
def running(page: gr.Blocks, engine: Engine, queue: JobQueue, history: History, **look: Any) -> Iterator[Running]:
    """The page on its port, for as long as the context lasts."""
    settings = engine.settings
    reception = Reception(settings.limits)
    ours = [*reception.routes(), *routes(queue, history, engine.detectors)]
    login = Login.for_mode(settings)
    guard = Guard(settings, login, Owners(settings, history.owns) if settings.mode != "local" else None)
    places = Places(page, settings.limits, queue.wake)
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # uvicorn believes what this machine forwards; here the gate alone does
    use_own_template()

    @asynccontextmanager
    async def in_front(app: Starlette) -> AsyncIterator[None]:
        # Middleware given to `launch` would stand behind gradio's; here, at the start, the whole can still be wrapped
        assert app.middleware_stack
        known = Belongings().protect(places.protect(with_prefix(app.middleware_stack)))
        gate = Gate(known, page, ours, settings.limits.upload_bytes)
        app.middleware_stack = without_prefix(with_policy(guard.protect(gate), settings.mode), settings)
        with sparing_log():
            async with reception.tidied(), places.kept(app):
                yield

    launch = partial(
        page.launch,
        app_kwargs={"routes": ours, "lifespan": in_front, "openapi_url": None},
        server_name=_bracketed(settings.address),
        server_port=settings.port,
        share=settings.mode == "share",
        max_file_size=settings.limits.upload_bytes,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        footer_links=[],
        max_threads=SLOTS,
        num_workers=0,  # gradio's extra processes would serve files beside our gate
        **look,
    )
    with nothing_fetched():
        try:
            with watched(page):
                link = _launch_with_link(launch, settings) if settings.mode == "share" else launch()[2]
        except OSError as error:  # somebody was faster than us
            raise _cannot_listen(settings, error) from None
        if link:
            guard.allow(str(urlsplit(link).hostname))
        try:
            local = str(page.local_url).rstrip("/")
            yield Running(local + settings.root_path, link and link + settings.root_path, login)
        finally:
            _close(page)


def _close(page: gr.Blocks) -> None:
    """Stop the server. Open pages hold streams that would never end; they are cut, without a word in the log."""
    page.server.config.timeout_graceful_shutdown = 1  # seconds
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    page.close(verbose=False)


def check_address(settings: Settings) -> None:
    """Raises DarkroomError if `settings`' address and port cannot be listened on; gradio would find out late."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.address, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            if os.name == "posix":  # elsewhere it would let two servers share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise _cannot_listen(settings, error) from None


def _cannot_listen(settings: Settings, error: OSError) -> DarkroomError:
    reason = (error.strerror or "address already in use").lower()
    return DarkroomError(
        f"Cannot listen on {settings.address}, port {settings.port}: {reason}. Choose another with --port or --host."
    )


def _launch_with_link(launch: Callable[[], tuple[Any, str, str | None]], settings: Settings) -> str | None:
    """Launch with a public link. The page is up on this machine even if none comes within LINK_SECONDS."""
    # else in the working directory, where nothing may be written
    networking.CERTIFICATE_PATH = str(settings.data / CACHES / "share.pem")
    print("Asking for a public link, which may take a minute …", flush=True)
    launched: Future[str | None] = Future()

    def run() -> None:
        try:
            launched.set_result(launch()[2])
        except BaseException as error:
            launched.set_exception(error)

    threading.Thread(target=run, name="public link", daemon=True).start()
    try:
        return launched.result(LINK_SECONDS)
    except TimeoutError:
        return None


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _greeting(server: Running, settings: Settings, has_own: bool) -> str:
    """What one wants to know at the start: where the page is, how to get in, where models and pictures lie, and where
    those are that the host `has_own`, made when nobody else could come.
    """
    rows = {"Page": server.url}
    if settings.address in ("0.0.0.0", "::"):
        own = [a.address for net in psutil.net_if_addrs().values() for a in net if a.family == socket.AF_INET]
        rows["Network"] = ", ".join(
            f"http://{a}:{settings.port}{settings.root_path}" for a in own if not a.startswith("127.")
        )
    if settings.mode == "share":
        rows["Public"] = server.link or "no link came up; the page is on this machine only"
    if server.login:
        user, _, password = server.login.user_and_password.partition(":")
        rows["Login"] = f"{user} / {password}" if settings.auth is None else f"{user}, with your password"
    if settings.hosts and not settings.trusted_proxy and settings.mode == "lan":
        rows["Proxy"] = "name its address with --trusted-proxy, so that the visitors it brings are told apart"
    rows |= {"Models": ", ".join(map(str, settings.model_folders)), "Pictures": str(settings.data)}
    if has_own and settings.mode != "local":
        rows["Your own"] = (
            "pictures made on this machine alone: start it without --host, --hosts and --share to see them"
        )
    lines = [f"  {name:9} {value}" for name, value in rows.items() if value]
    return "\n".join([f"Darkroom {VERSION}", *lines, "Ctrl+C stops it; waiting pictures go on at the next start."])


def routes(queue: JobQueue, history: History, detectors: Detectors) -> list[Route]:
    """What we serve beside the page. An unknown id, and one that belongs to somebody else, get the same answer."""

    def picture(request: Request) -> Response:
        row = history.picture(request.path_params["id"], request.state.owner)
        as_file = {"Content-Disposition": f'attachment; filename="{file_name(row)}"'}
        asked = request.query_params.get("download") == "1"
        return Response(row.read(), media_type="image/png", headers=KEEP | (as_file if asked else {}))

    def thumbnail(request: Request) -> Response:
        row = history.picture(request.path_params["id"], request.state.owner)
        return Response(row.read(thumbnail=True), media_type="image/webp", headers=KEEP)

    def source(request: Request) -> Response:
        png = history.source_png(request.path_params["id"], request.state.owner)
        return Response(png, media_type="image/png", headers=KEEP)

    def kept_input(request: Request) -> Response:
        png = history.input_png(request.path_params["fingerprint"], request.state.owner)
        return Response(png, media_type="image/png", headers=KEEP)

    def control_map(request: Request) -> Response:
        """What a ControlNet of the picture's job saw, made again of what the job keeps: the same bits every time."""
        owner = request.state.owner
        made_by = history.request(history.picture(request.path_params["id"], owner).job, owner)
        units = {str(index): unit for index, unit in enumerate(made_by.controls)}
        if request.path_params["index"] not in units:
            raise NotFound("There is no such map.")
        file = BytesIO()
        Canvas(made_by).control(units[request.path_params["index"]], detectors).save(file, "PNG")
        return Response(file.getvalue(), media_type="image/png", headers=KEEP)

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ok") if queue.ready else PlainTextResponse("starting", 503)

    return [
        file_route(),
        zip_route(history),
        Route("/pictures/{id}", _or_missing(picture)),
        Route("/pictures/{id}/thumbnail", _or_missing(thumbnail)),
        Route("/pictures/{id}/source", _or_missing(source)),
        Route("/pictures/{id}/maps/{index}", _or_missing(control_map)),
        Route("/inputs/{fingerprint}", _or_missing(kept_input)),
        Route("/livez", livez),
        Route("/readyz", readyz),
    ]


def _or_missing(endpoint: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        try:
            return endpoint(request)
        except DarkroomError:  # also what was deleted by hand, and a map whose network is gone
            return PlainTextResponse("There is no such picture.", 404, {"Cache-Control": "no-store"})

    return answer
