"""Where the program stands while it serves: in an empty room of its data folder.

A web library like gradio hands out any file below the working directory and below the system's temporary folder that
an answer happens to name. Started from a home folder that would be everything; so a server stands where nothing is:

    data/running/{start}/empty      the working directory; read-only
    data/running/{start}/temporary  for files without names, such as an archive on its way to a visitor
    data/running/{start}/uploads    what visitors send, and what programs fetch
    data/caches/                    what other libraries would keep in one of the first two
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.storage import private_folder, storage

RUNNING, CACHES = "running", "caches"
CACHES_OF = {
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",  # it would be in the temporary folder; triton's is in it
    "MPLCONFIGDIR": "matplotlib",  # there too, where a home cannot be written
    "NUMBA_CACHE_DIR": "numba",
}
PATHS = (
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE"),
    *("HF_XET_CACHE", "HF_MODULES_CACHE", "HF_TOKEN_PATH", "TORCH_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
"""Variables of other libraries that may be relative to where the program was started."""


@contextmanager
def empty_room(data: Path) -> Iterator[None]:
    """Stand in an empty room of the folder `data`, an absolute path, until the context ends; then the room is gone.

    To be entered before gradio and torch are imported: some of what is set here they read only then.
    Raises StorageError if there can be none.
    """
    room = data / RUNNING / secrets.token_hex(4)  # short: sockets in the temporary folder may have 100 letters
    try:
        with storage():
            private_folder(data)
            for name in ("empty", "temporary", "uploads"):
                (room / name).mkdir(parents=True, mode=0o700)
            if os.name == "posix":  # elsewhere what is read-only could not be removed
                (room / "empty").chmod(0o500)
        _point_to(room, data / CACHES)
        os.chdir(room / "empty")
        yield
    finally:
        with suppress(OSError):  # Windows removes no folder in which somebody stands
            os.chdir(data)
        shutil.rmtree(room, ignore_errors=True)
        with suppress(OSError):  # another room is there
            room.parent.rmdir()


def _point_to(room: Path, caches: Path) -> None:
    """Tell the libraries of this process, and of those that it starts, where to put what they write."""
    for name in PATHS:
        if value := os.environ.get(name):
            os.environ[name] = os.path.abspath(os.path.expanduser(value))
    for name, folder in CACHES_OF.items():
        os.environ[name] = os.path.abspath(os.environ.get(name) or caches / folder)
    os.environ["GRADIO_TEMP_DIR"] = str(room / "uploads")
    os.environ["TMPDIR"] = tempfile.tempdir = str(room / "temporary")


def sweep(data: Path) -> None:
    """Remove the rooms of servers that were killed. Only for who holds the data folder: others' rooms are in use."""
    own = Path.cwd().parent.name
    for room in (data / RUNNING).iterdir():
        if room.name != own:
            shutil.rmtree(room, ignore_errors=True)
