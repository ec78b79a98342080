"""Many pictures in one download."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from tempfile import TemporaryFile
from typing import IO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from core.errors import DarkroomError, NotFound
from core.jobs import History, PictureRow

MOST = 1000  # pictures in one archive
BLOCK = 2**18  # bytes


def file_name(row: PictureRow) -> str:
    """What a picture is called when it is downloaded."""
    return f"darkroom-{row.id}.png"


def zip_route(history: History) -> Route:
    """POST /pictures.zip with the form field `ids`, separated by spaces: pictures, if they are the visitor's."""

    async def download(request: Request) -> Response:
        ids = list(dict.fromkeys(str((await request.form()).get("ids", "")).split()))
        if not 0 < len(ids) <= MOST:
            return PlainTextResponse(f"An archive holds 1 to {MOST:,} pictures.", 400)
        try:
            rows = await run_in_threadpool(lambda: [history.picture(id, request.state.owner) for id in ids])
            file = await run_in_threadpool(_archive, rows)
        except NotFound as error:
            return PlainTextResponse(str(error), 404)
        except (DarkroomError, OSError):
            return PlainTextResponse("The archive could not be written: there is no room for it.", 507)
        size = file.seek(0, 2)
        file.seek(0)
        headers = {"Content-Disposition": 'attachment; filename="darkroom.zip"', "Content-Length": str(size)}
        return StreamingResponse(
            _blocks(file), headers=headers | {"Cache-Control": "no-store"}, media_type="application/zip"
        )

    return Route("/pictures.zip", download, methods=["POST"])


def _archive(rows: Sequence[PictureRow]) -> IO[bytes]:
    """The pictures in a temporary file that goes away when it is closed, one in memory at a time.

    Not compressed again: they are PNGs. Those deleted by hand are named in missing.txt.
    """
    file = TemporaryFile()  # noqa: SIM115 (closed by who sends it)
    missing = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for row in rows:
            try:
                archive.writestr(file_name(row), row.read())
            except NotFound:
                missing.append(file_name(row))
        if missing:
            archive.writestr("missing.txt", "No longer on disk:\n" + "\n".join(missing) + "\n")
    return file


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while block := file.read(BLOCK):
            yield block
