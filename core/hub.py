"""Models from the hub: what the catalogue names, and nothing else, is brought into models/ and checked on the way.

Only `presets/models.yaml` says what can be asked for; a visitor gives a name of it. Files are safetensors, configs
and tokenizers. They gather in models/.downloads and move to their place when the last one's hash is right; what was
stopped or cut goes on where it ended.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any, Literal

import httpx2
import yaml
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, tqdm  # type: ignore[attr-defined]
from huggingface_hub.utils.sha import git_hash
from pydantic import BaseModel, ConfigDict, field_validator

from core.errors import DarkroomError, HubError, RequestError, StorageError
from core.library import READ_ONLY, shelves
from core.settings import ROOT, Settings
from core.sizes import MB, in_words

log = logging.getLogger(__name__)
CATALOGUE = ROOT / "presets" / "models.yaml"
SAFE_FILE = re.compile(r"(?:[\w-][\w.-]*/)*[\w-][\w.-]*\.(?:safetensors|json|txt)", re.ASCII)
WEIGHTS = ".safetensors"
ANSWER_SECONDS = 1.8  # within which the hub says what a repository holds, or counts as out of reach
SPARE = 256 * MB  # of the disk, left free
OFFLINE = "Darkroom was started with --offline: it asks the hub for nothing."
UNREACHABLE = "The hub cannot be reached. Is this machine online? What is in the models folder works without it."
GATED = (
    "The hub gives {repo} only to those who accepted its terms there. Do so, then start Darkroom with HF_TOKEN set."
)
MISSING = "The hub has no {repo} any more, or not what the catalogue names of it."


class Entry(BaseModel):
    """One model of the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["checkpoints", "controlnet", "loras", "preprocessors", "previews", "vae"]
    family: str
    repo: str
    revision: str | None = None
    files: tuple[str, ...]
    size: str
    licence: str
    use: str

    @field_validator("files")
    @classmethod
    def _nothing_that_runs(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if not all(SAFE_FILE.fullmatch(file) for file in files) or not any(file.endswith(WEIGHTS) for file in files):
            raise ValueError("safetensors, and beside them only .json and .txt")
        return files

    def place(self, name: str) -> Path:
        """Where the model called `name` stands below models/: a file, or a folder if it has several."""
        return Path(self.kind) / (name + WEIGHTS if len(self.files) == 1 else name)


def read_catalogue(path: Path = CATALOGUE) -> dict[str, Entry]:
    return {name: Entry(**values) for name, values in yaml.safe_load(path.read_text("utf-8")).items()}


@dataclass(frozen=True)
class Download:
    """How far one has come, in bytes. `size` is 0 until the hub has said it."""

    name: str
    done: int = 0
    size: int = 0
    state: Literal["running", "finished", "stopped", "failed"] = "running"
    problem: str | None = None


class Hub:
    """The catalogue, and the one download that goes on in a thread of its own."""

    def __init__(self, settings: Settings, catalogue: Mapping[str, Entry] | None = None) -> None:
        self.catalogue = read_catalogue() if catalogue is None else catalogue
        self._settings = settings
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.last: Download | None = None  # the one that runs or ran last

    @property
    def is_allowed(self) -> bool:
        """Who sits at this machine alone fills its disk."""
        return self._settings.mode == "local"

    def has(self, name: str) -> bool:
        return (self._settings.models / self.catalogue[name].place(name)).exists()

    def start(self, name: str) -> None:
        """Begin, or go on with, the download of a model of the catalogue. `last` tells what becomes of it."""
        with self._lock:
            self._check(name)
            self._stopping.clear()
            self.last = Download(name)
            self._thread = threading.Thread(target=self._run, args=[name], name="download", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the download that runs; what has come is kept, for the next start."""
        self._stopping.set()

    def wait(self) -> Download | None:
        """The last download when it has ended."""
        if self._thread:
            self._thread.join()
        return self.last

    def _check(self, name: str) -> None:
        if not self.is_allowed:
            raise HubError("Models are downloaded only by who sits at this machine.")
        if self._settings.offline:
            raise HubError(OFFLINE)
        if name not in self.catalogue:
            raise RequestError("name", name, "a name of presets/models.yaml", "Model")
        if not shelves(self._settings.model_folders).is_own(self.catalogue[name].kind):
            raise HubError(f"Nothing is downloaded: {READ_ONLY}")
        if self._thread and self._thread.is_alive():
            raise HubError("Another model is being downloaded. Wait for it, or cancel it first.")
        if self.has(name):
            raise HubError(f"{name} is already in the models folder.")

    def _run(self, name: str) -> None:
        started = Download(name)

        def report(done: int, size: int) -> None:
            self.last = replace(started, done=done, size=size)
            if self._stopping.is_set():
                raise _Stopped

        try:
            fetch(self.catalogue[name], name, self._settings.models, report)
            self.last = replace(self.last or started, state="finished")
        except _Stopped:
            self.last = replace(self.last or started, state="stopped")
        except DarkroomError as error:
            self.last = replace(self.last or started, state="failed", problem=str(error))
        except Exception:
            log.exception("the download of %s failed", name)
            self.last = replace(
                self.last or started, state="failed", problem="The download failed; the log says why."
            )


def fetch(entry: Entry, name: str, models: Path, report: Callable[[int, int], None]) -> None:
    """Bring `entry` into the folder `models`. `report` gets the bytes that are there and in all; what it raises
    ends the download.

    Raises HubError or StorageError.
    """
    with _explained(entry):
        commit, listed = _listed(entry)
        sizes = {file: listed[file].size or 0 for file in entry.files}
        parts = models / ".downloads" / name / commit
        _forget_others(parts)
        total, done = sum(sizes.values()), sum(_size(parts / file) for file in entry.files)
        report(done, total)
        free = shutil.disk_usage(models).free
        if free < total - done + SPARE:
            raise StorageError(f"{name} needs {in_words(total - done)} more on the disk; {in_words(free)} are free.")
        before = 0
        for file, size in sizes.items():
            _fetch_file(
                hf_hub_url(entry.repo, file, revision=commit),
                parts / file,
                size,
                lambda came, before=before: report(before + came, total),  # type: ignore[misc]
            )
            _check_hash(parts / file, listed[file])
            before += size
        place = models / entry.place(name)
        place.parent.mkdir(exist_ok=True)
        os.replace(parts / entry.files[0] if len(entry.files) == 1 else parts, place)
        shutil.rmtree(parts.parent, ignore_errors=True)


class _Stopped(Exception):
    """Somebody cancelled."""


class _Bar(tqdm):
    """A progress bar that tells its bytes to `report` and draws nothing."""

    def __init__(self, report: Callable[[int], None], initial: int, **_: Any) -> None:
        super().__init__(disable=True)  # type: ignore[no-untyped-call]
        self._report, self._came = report, initial

    def update(self, n: float | None = 1) -> None:
        self._came += int(n or 0)
        self._report(self._came)


def _listed(entry: Entry) -> tuple[str, dict[str, RepoSibling]]:
    """The commit, and what the hub knows about its files. Raises HubError if one of the entry's is not among them."""
    ask = HfApi().model_info
    info = _answer(lambda: ask(entry.repo, revision=entry.revision, files_metadata=True, timeout=ANSWER_SECONDS))
    listed = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    commit = re.fullmatch(r"[0-9a-f]{40}", info.sha or "")
    if not commit or not set(entry.files) <= listed.keys():
        raise HubError(MISSING.format(repo=entry.repo))
    return commit[0], listed


def _answer(ask: Callable[[], Any]) -> Any:
    """What `ask` returns or raises, in time: name servers and each of a host's addresses have limits of their own."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return answer.result(ANSWER_SECONDS)


def _fetch_file(url: str, path: Path, size: int, report: Callable[[int], None]) -> None:
    """Load what `path` still lacks. A connection that is cut is taken up again there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        http_get(
            url,
            file,
            resume_size=file.tell(),
            headers=build_hf_headers() | {"Accept-Encoding": "identity"},  # ranges of what is packed would not fit
            expected_size=size,
            tqdm_class=lambda initial=0, **rest: _Bar(report, initial, **rest),  # type: ignore[arg-type]
        )


def _check_hash(path: Path, listed: RepoSibling) -> None:
    """Compare with the hub's SHA-256, or git's hash for small files; a wrong file is deleted."""
    if listed.lfs:
        with path.open("rb") as file:
            right = file_digest(file, "sha256").hexdigest() == listed.lfs.sha256
    else:
        right = git_hash(path.read_bytes()) == listed.blob_id
    if not right:
        path.unlink()
        raise HubError(f"{path.name} did not come as the hub describes it (wrong hash) and was deleted. Try again.")


def _forget_others(parts: Path) -> None:
    """Delete what came of a model's other commits."""
    for other in parts.parent.glob("*"):
        if other != parts:
            shutil.rmtree(other)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _explained(entry: Entry) -> Iterator[None]:
    """What the network, the hub and the disk raise, in words."""
    try:
        yield
    except (httpx2.TransportError, OfflineModeIsEnabled, TimeoutError):
        raise HubError(UNREACHABLE) from None
    except GatedRepoError:
        raise HubError(GATED.format(repo=entry.repo)) from None
    except (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError):
        raise HubError(MISSING.format(repo=entry.repo)) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        words = {401: GATED, 403: GATED, 404: MISSING}.get(
            status, f"The hub answered with {status}. Try again later."
        )
        raise HubError(words.format(repo=entry.repo)) from None
    except OSError as error:
        if error.errno is None:  # huggingface_hub's word for a file that is shorter or longer than announced
            raise HubError("The download broke off. Start it again: it goes on from there.") from None
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        problem = "the disk is full" if full else "the models folder cannot be written to"
        raise StorageError(f"The download ended: {problem}. What has come is kept.") from None
