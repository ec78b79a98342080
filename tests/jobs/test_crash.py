"""What a killed server leaves behind, with real processes."""

from __future__ import annotations

import multiprocessing
import random
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from PIL import Image

from core.jobs.database import DATABASE
from core.jobs.history import History
from core.jobs.leftovers import MOST_STARTS
from core.jobs.records import Status
from core.request.parameters import fingerprint
from tests.crashing import live
from tests.darkroom import draw

KILLS = 20
PROCESSES = multiprocessing.get_context("forkserver")  # fresh ones, from a server that has imported everything
PROCESSES.set_forkserver_preload(["pytest", "tests.crashing"])
TERMINAL = {"done", "failed", "cancelled", "interrupted"}


class Life:
    """One server's life: it is killed when it has said `lines` lines, or left to end by itself."""

    def __init__(self, folder: Path, lines: int | None) -> None:
        ears, mouth = PROCESSES.Pipe(duplex=False)
        server = PROCESSES.Process(target=live, args=(folder, mouth))
        server.start()
        mouth.close()
        self.said: list[list[str]] = []
        with open(ears.fileno(), closefd=False) as heard:
            for line in heard:
                self.said.append(line.split())
                if len(self.said) == lines:
                    server.kill()
        ears.close()
        server.join()
        self.code = server.exitcode

    def ids(self, word: str) -> set[str]:
        return {said[1] for said in self.said if said[0] == word}


def rows(folder: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        return database.execute(sql).fetchall()


def check_pictures(history: History, owner: str) -> set[str]:
    """That every picture of an owner is whole and the right one. Returns their ids."""
    found = history.search(owner, limit=1000)
    for row in found:
        wanted = history.request(row.job, owner)
        with Image.open(row.path) as png, Image.open(row.thumbnail) as thumbnail:
            assert fingerprint(png) == fingerprint(draw(wanted, row.index))
            thumbnail.load()
    return {row.id for row in found}


def test_a_server_killed_again_and_again_loses_nothing(tmp_path):
    chance = random.Random(11)
    submitted, ended, begun = set(), {}, 0
    for _ in range(KILLS):
        life = Life(tmp_path, lines=chance.randrange(1, 120))
        assert life.code in (-signal.SIGKILL, 0)
        submitted |= life.ids("submitted")
        jobs = {id: (status, ended) for id, status, ended in rows(tmp_path, "SELECT id, status, ended FROM jobs")}
        assert submitted <= jobs.keys()
        assert all(jobs[id][0] in TERMINAL for id in life.ids("ended"))
        assert ended.items() <= jobs.items()  # how one ended never changes
        ended = {id: job for id, job in jobs.items() if job[0] in TERMINAL}
        begun += sum(status == "running" for status, _ in jobs.values())
    assert begun >= KILLS / 4  # else this test looked at nothing

    last = Life(tmp_path, lines=None)
    assert last.code == 0
    statuses = rows(tmp_path, "SELECT status, starts FROM jobs")
    assert all(
        status == Status.DONE or (status, starts) == (Status.INTERRUPTED, MOST_STARTS) for status, starts in statuses
    )
    with closing(History(tmp_path)) as history:
        assert history.notices == ()
        owners = {owner for (owner,) in rows(tmp_path, "SELECT owner FROM jobs")}
        pictures = set().union(*(check_pictures(history, owner) for owner in owners))
    done = sum(status == Status.DONE for status, _ in statuses)
    assert len(pictures) == 2 * done
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == pictures
    assert {path.stem for path in (tmp_path / "thumbnails").iterdir()} == pictures
    inputs = rows(tmp_path, "SELECT DISTINCT substr(fingerprint, 8) FROM inputs")
    assert {path.stem for path in (tmp_path / "inputs").iterdir()} == {name for (name,) in inputs}
