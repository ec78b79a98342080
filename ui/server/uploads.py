"""Files that visitors send and programs fetch: where they lie on this machine, whose they are, who may read them.

    {gradio's folder}/{address}-{owner}-{token}/…/{name}

A file's folder tells whose it is and what counts for whom, so nothing else need be remembered. What comes without our
cookie is read by who knows the token, which nobody guesses.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from stat import S_ISREG
from typing import Any

from gradio.context import LocalContext
from gradio.route_utils import upload_fn
from gradio.utils import get_upload_folder
from PIL.Image import Image
from python_multipart.exceptions import FormParserError
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core.errors import RequestError, StorageError
from core.pictures import read_mask, read_picture
from core.request import Control, GenerationRequest, allowed, bounds, reject
from core.settings import Limits
from core.storage import storage
from ui.server.belongings import Visitor

KEEP_SECONDS, HOUR, DAY = 600.0, 3600.0, 86400.0
LEAST_BYTES = 2**16  # that a file counts, so that a million empty ones are none to go through
MOST_CONTROLS: int = bounds(GenerationRequest.model_fields["controls"])["max_length"]
FOLDER = re.compile(r"[0-9a-f]{16}-(?P<owner>[^-/]+)-[0-9a-f]{32}/")
ANYONE = "anyone"  # in the place of an owner who keeps no cookie
NOBODY = Visitor("", False, "")
SHOWN = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}  # else a download
NO_ROOM = "This server has no room for more pictures now; try again in ten minutes."


def new_folder(visitor: Visitor) -> Path:
    """An empty folder for files that `visitor` sends or fetches. Raises StorageError."""
    folder = _root() / f"{_at(visitor)}-{_whose(visitor)}-{secrets.token_hex(16)}"
    with storage():
        folder.mkdir(mode=0o700, parents=True)
    return folder


def _own_folder(visitor: Visitor) -> Path:
    """The one that needs no token, for uploads of who is known by our cookie."""
    return _root() / f"{_at(visitor)}-{_whose(visitor)}-{'0' * 32}"


def _at(visitor: Visitor) -> str:
    return hashlib.sha256(visitor.address.encode()).hexdigest()[:16]


def _whose(visitor: Visitor) -> str:
    return visitor.owner if visitor.is_known else ANYONE


def _root() -> Path:
    return Path(os.path.abspath(get_upload_folder()))


def _is_upload(path: str) -> bool:
    """Whether `path` leads below the uploads; by its text alone, nothing else on this machine is even looked at."""
    return "\0" not in path and Path(os.path.abspath(path)).is_relative_to(_root())


def find(path: str, visitor: Visitor) -> Path | None:
    """The file at `path` if it is an upload that `visitor` may read; it counts as in use from now on."""
    if not _is_upload(path):
        return None
    file = Path(os.path.abspath(path))
    ours = FOLDER.match(file.relative_to(_root()).as_posix())
    if ours is None or ours["owner"] not in (ANYONE, _whose(visitor)):
        return None
    try:
        os.utime(file)
        return file if file.is_file() else None
    except (OSError, ValueError):  # it is gone, or its name is none
        return None


def uploaded(value: Any, field: str, label: str) -> Path:
    """Where a file lies that the visitor whose event this is has uploaded, or knows of.

    Whatever else a caller names, no other file of this machine is opened.
    """
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or not _is_upload(path):
        raise RequestError(field, "this value", "a picture sent as a file (gradio_client's handle_file)", label)
    request = LocalContext.request.get(None)
    file = find(path, Visitor.of(request) if request else NOBODY)
    if file is None:
        raise RequestError(field, "a file that is gone", "a picture that is sent again", label)
    return file


@dataclass(frozen=True)
class Held:
    """A file among the uploads, when it was last used, and whose it is."""

    path: Path
    used: float
    size: int

    @property
    def folder(self) -> str:
        return self.path.relative_to(_root()).parts[0]


def _is_at(folder: str, visitor: Visitor) -> bool:
    return folder.startswith(f"{_at(visitor)}-")


def _is_of(folder: str, visitor: Visitor) -> bool:
    """Those without a cookie are one for each address."""
    return f"-{_whose(visitor)}-" in folder and (visitor.is_known or _is_at(folder, visitor))


class Reception:
    """Takes uploads in, as far as there is room: for a visitor, for those of one address, and for all together."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turn = threading.Lock()
        self._coming: dict[str, int] = {}  # folders of files on their way, and how large they may get

    def routes(self) -> list[Route]:
        """In the place of gradio's own, which know no owners."""
        return [
            Route("/gradio_api/upload", self._upload, methods=["POST"]),
            Route("/gradio_api/file={path:path}", _send_file),
        ]

    async def _upload(self, request: Request) -> Response:
        """As gradio's: form data with `files` is answered with their paths."""
        visitor, length = Visitor.of(request), request.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else self._limits.upload_bytes
        try:
            folder = await run_in_threadpool(self._take, visitor, size)
        except StorageError as error:
            return PlainTextResponse(str(error), 507)
        if folder is None:
            return PlainTextResponse(NO_ROOM, 507)
        files: list[str] = []
        try:
            with storage():
                came, _, _ = await upload_fn(request, folder, self._limits.upload_bytes, None)
                files = await run_in_threadpool(self._settle, came, folder, visitor)
        except MultiPartException as error:
            return PlainTextResponse(error.message, 413 if "maximum allowed size" in error.message else 400)
        except FormParserError:
            return PlainTextResponse("This is no form data with files.", 400)
        except TypeError:
            return PlainTextResponse("The field “files” is not allowed to be text; send files.", 400)
        except StorageError as error:
            return PlainTextResponse(str(error), 507)
        except ClientDisconnect:
            return PlainTextResponse("The upload broke off.", 400)
        finally:
            del self._coming[folder.name]
            if not any(Path(file).is_relative_to(folder) for file in files):  # and nothing of one that failed stays
                shutil.rmtree(folder, ignore_errors=True)
        return JSONResponse(files)

    def _take(self, visitor: Visitor, size: int) -> Path | None:
        """A folder for `size` bytes of `visitor`, others' reserved meanwhile; None if there is no room."""
        with self._turn:
            if not self._make_way(visitor, size):
                return None
            folder = new_folder(visitor)
            self._coming[folder.name] = size
            return folder

    def _settle(self, files: list[str], folder: Path, visitor: Visitor) -> list[str]:
        """Where files that came into `folder` stay. What a visitor sends again lies where it lay."""
        if not visitor.is_known:
            return files
        places = [_own_folder(visitor) / Path(file).relative_to(folder) for file in files]
        with self._turn:
            for file, place in zip(files, places, strict=True):
                if Path(file).is_file():  # else it came twice at once
                    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    os.replace(file, place)
        return [str(place) for place in places]

    def _make_way(self, visitor: Visitor, size: int) -> bool:
        """Whether there is room for `size` bytes, once the oldest uploads have made way: the visitor's own first.

        What was used in the last KEEP_SECONDS stays: it may be on somebody's canvas, or just coming in. What a job
        begins from is kept elsewhere.
        """
        shares: list[tuple[float, Callable[[str], bool]]] = [(self._limits.uploads_in_all, lambda folder: True)]
        if visitor.address:
            shares.insert(0, (self._limits.uploads_per_address, lambda folder: _is_at(folder, visitor)))
        if visitor.is_known:
            shares.insert(0, (self._limits.uploads_per_owner, lambda folder: _is_of(folder, visitor)))
        if all(most == inf for most, _ in shares):
            return True
        held = sorted(self._look(), key=lambda one: (not _is_of(one.folder, visitor), one.used))
        return all(self._shrink(held, most - size, counts) for most, counts in shares)

    def _shrink(self, held: list[Held], most: float, counts: Callable[[str], bool]) -> bool:
        """Remove files of `held`, in their order, until those that count have `most` bytes; whether they have."""
        size = sum(max(one.size, LEAST_BYTES) for one in held if counts(one.folder))
        size += sum(coming for folder, coming in tuple(self._coming.items()) if counts(folder))
        stay = []
        for one in held:
            if size > most and counts(one.folder) and _is_removed(one, KEEP_SECONDS):
                size -= max(one.size, LEAST_BYTES)
            else:
                stay.append(one)
        held[:] = stay
        return size <= most

    @asynccontextmanager
    async def tidied(self) -> AsyncIterator[None]:
        """As long as the context lasts, what nobody has used for a day is removed every hour."""
        tidying = asyncio.create_task(self._tidy())
        try:
            yield
        finally:
            tidying.cancel()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(HOUR)
            await run_in_threadpool(self.expire)

    def expire(self) -> None:
        with self._turn:
            for one in self._look():
                _is_removed(one, DAY)

    def _look(self) -> list[Held]:
        """The files that there are. Folders that lost theirs go, too."""
        held: list[Held] = []
        for folder in _root().glob("*"):
            files = []
            for path in folder.rglob("*"):
                with suppress(FileNotFoundError):  # gradio clears up, too
                    stat = path.stat()
                    if S_ISREG(stat.st_mode):
                        files.append(Held(path, stat.st_mtime, stat.st_size))
            held += files
            if not files and folder.name not in self._coming:
                with suppress(FileNotFoundError):
                    if time.time() - folder.stat().st_mtime > KEEP_SECONDS:  # else somebody is about to fill it
                        shutil.rmtree(folder, ignore_errors=True)
        return held


def _is_removed(one: Held, unused: float) -> bool:
    """Remove a file that nobody has used for so many seconds; whether it is gone."""
    if time.time() - one.used <= unused:
        return False
    with suppress(OSError):  # Windows keeps what is being read
        one.path.unlink(missing_ok=True)
    return not one.path.exists()


def _send_file(request: Request) -> Response:
    """As gradio's: pictures are shown, everything else is a download."""
    file = find(request.path_params["path"], Visitor.of(request))
    if file is None:
        return PlainTextResponse("There is no such file.", 404)
    shown = SHOWN.get(file.suffix.lower())
    return FileResponse(
        file,
        headers={"Cache-Control": "private"},
        media_type=shown or "application/octet-stream",
        filename=file.name,
        content_disposition_type="inline" if shown else "attachment",
    )


def read_upload(value: Any, limits: Limits, field: str, label: str) -> Image | None:
    """The picture of an uploaded file as JSON describes it, a mask for the field "mask"; None for none."""
    if value is None:
        return None
    reader = read_mask if field == "mask" else read_picture
    return reader(uploaded(value, field, label), max_pixels=limits.max_pixels, field=field, label=label)


def read_controls(units: Any, limits: Limits) -> Any:
    """ControlNet units as JSON has them, their pictures read; what is no list of objects the request refuses."""
    if not isinstance(units, list):
        return units
    if len(units) > MOST_CONTROLS:
        raise reject("controls", units, allowed(GenerationRequest.model_fields["controls"]))
    return [_with_picture(unit, k, limits) if isinstance(unit, dict) else unit for k, unit in enumerate(units)]


def _with_picture(unit: dict[str, Any], index: int, limits: Limits) -> dict[str, Any]:
    field, label = f"controls[{index}].image", f"ControlNet {index + 1}: {Control.model_fields['image'].title}"
    if unit.get("image") == "":  # a unit of the page that waits for its own picture
        raise RequestError(field, None, "a picture that you drop, paste or choose, or the source picture", label)
    return unit | {"image": read_upload(unit.get("image"), limits, field, label)}
