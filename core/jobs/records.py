"""What the history knows of a job and of a picture."""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass, field
from enum import StrEnum
from io import BytesIO
from pathlib import Path

from PIL import Image as Pillow

from core.errors import NotFound
from core.events import Finished
from core.pictures import encode_png
from core.request import GenerationRequest, Task
from core.storage import storage, write_file

THUMBNAIL_SIDE = 256  # pixels


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


def outline(request: str) -> GenerationRequest:
    """A stored request with stand-ins of 1 × 1 for its pictures, which stay on disk.

    Enough to show what a job is about; `History.request` reads the whole. Raises RequestError if it was stored by a
    version of Darkroom that allowed other values.
    """
    return GenerationRequest.from_json(request, lambda _: Pillow.new("1", (1, 1)))


@dataclass(frozen=True)
class JobRow:
    """`pictures` are ids by their place in the batch: picture k has seed + k, whichever others were deleted."""

    id: str
    owner: str
    request: GenerationRequest  # an outline
    status: Status
    error: str | None
    created: float
    seconds: float | None
    pictures: dict[int, str]


@dataclass(frozen=True)
class Encoded:
    """A picture as the bytes of its two files."""

    png: bytes
    thumbnail: bytes

    @classmethod
    def of(cls, finished: Finished, index: int) -> Encoded:
        image = finished.images[index]
        small, file = image.copy(), BytesIO()
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2)
        small.save(file, "WEBP", quality=80)
        return cls(encode_png(image, finished.request, index, finished.made_with), file.getvalue())


@dataclass(frozen=True)
class Filters:
    """What a search is for: pictures whose prompts have all words of `text`, in any case and order; `before` is the
    `number` of the last picture of the page before.
    """

    text: str = ""
    checkpoint: str | None = None
    task: Task | None = None
    favourites: bool = False
    before: int | None = None


@dataclass(frozen=True)
class PictureRow:
    """Picture `index` of a job's batch. `number` grows with time.

    `kept` holds what could not be written to `path` and `thumbnail`. A file may be missing if it was deleted by hand.
    """

    id: str
    job: str
    owner: str
    index: int
    number: int
    width: int
    height: int
    created: float
    favourite: bool
    path: Path
    thumbnail: Path
    stored_request: str = field(repr=False)
    kept: Encoded | None = field(default=None, repr=False)

    @classmethod
    def of(cls, row: sqlite3.Row, folder: Path) -> PictureRow:
        """From the database's row, for the data folder `folder`."""
        names = ("id", "job", "owner", "number", "width", "height", "created")
        return cls(
            **{name: row[name] for name in names},
            index=row["position"],
            favourite=bool(row["favourite"]),
            path=folder / "pictures" / f"{row['id']}.png",
            thumbnail=folder / "thumbnails" / f"{row['id']}.webp",
            stored_request=row["request"],
        )

    @classmethod
    def new(cls, folder: Path, whose: tuple[str, str], finished: Finished, index: int) -> PictureRow:
        """Of a job and its owner. Encoded, not yet on disk.

        Ids begin with the time, so that the folder's files sort as they were made.
        """
        now, image = time.time(), finished.images[index]
        id = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(8)}"
        return cls(
            id=id,
            job=whose[0],
            owner=whose[1],
            index=index,
            number=0,
            created=now,
            width=image.width,
            height=image.height,
            favourite=False,
            path=folder / "pictures" / f"{id}.png",
            thumbnail=folder / "thumbnails" / f"{id}.webp",
            stored_request=finished.request.model_dump_json(),
            kept=Encoded.of(finished, index),
        )

    @property
    def request(self) -> GenerationRequest:
        """An `outline` of the job's request, made anew at each look."""
        return outline(self.stored_request)

    @property
    def size_bytes(self) -> int:
        """What `kept` takes on disk."""
        assert self.kept
        return len(self.kept.png) + len(self.kept.thumbnail)

    def write(self) -> None:
        """`kept` to its files."""
        assert self.kept
        with storage():
            write_file(self.path, self.kept.png)
            write_file(self.thumbnail, self.kept.thumbnail)

    def remove(self) -> None:
        """The files, from disk."""
        with storage():
            self.path.unlink(missing_ok=True)
            self.thumbnail.unlink(missing_ok=True)

    def read(self, *, thumbnail: bool = False) -> bytes:
        """The PNG, or the WebP thumbnail. Raises NotFound if its file was deleted by hand."""
        if self.kept:
            return self.kept.thumbnail if thumbnail else self.kept.png
        try:
            return (self.thumbnail if thumbnail else self.path).read_bytes()
        except OSError:
            raise NotFound("This picture's file is no longer on disk.") from None
