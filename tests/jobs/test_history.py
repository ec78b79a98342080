from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.errors import DarkroomError, NotFound, RequestError, StorageError
from core.events import Finished
from core.jobs.database import DATABASE, MIGRATIONS
from core.jobs.history import MOST_KEPT, History
from core.jobs.inputs import KEEPABLE_MODES, Inputs
from core.jobs.leftovers import MOST_STARTS
from core.jobs.records import Filters, Status
from core.pictures.metadata import read_text
from core.request.generation import GenerationRequest
from core.request.parameters import fingerprint
from core.request.units import Control
from tests.darkroom import draw, request

SOURCE = Image.radial_gradient("L").convert("RGB").resize((70, 50))


@pytest.fixture
def history(tmp_path):
    with closing(History(tmp_path)) as history:
        yield history


def make(history: History, prompt: str = "a red circle", owner: str = "ann", **changes) -> tuple[str, ...]:
    """A done job's pictures."""
    wanted = request(prompt, **changes)
    return save(history, history.add(wanted, owner).id, wanted, owner)


def save(history: History, job: str, wanted: GenerationRequest, owner: str = "ann") -> tuple[str, ...]:
    history.start(job)
    finished = Finished([draw(wanted, k) for k in range(wanted.batch_size)], wanted, {"model_hash": "abc"})
    return tuple(history.save(job, owner, finished, seconds=1.5).values())


def look(folder: Path, sql: str) -> list[tuple]:
    """What another program reads in the database."""
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        return database.execute(sql).fetchall()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Pictures


def test_pictures_are_lossless_and_say_how_they_were_made(history):
    wanted = request(batch_size=2)
    for index, id in enumerate(make(history, batch_size=2)):
        row = history.picture(id, "ann")
        assert (row.index, row.width, row.height, row.favourite) == (index, 64, 64, False)
        assert row.request == wanted
        with Image.open(row.path) as png:
            assert fingerprint(png) == fingerprint(draw(wanted, index))
        info = read_text(row.path)
        assert (info.request, info.index, info.made_with) == (wanted, index, {"model_hash": "abc"})
        assert row.read() == row.path.read_bytes()


def test_thumbnails_are_small_webp(history):
    (id,) = make(history, width=1024, height=512)
    with Image.open(history.picture(id, "ann").thumbnail) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("WEBP", (256, 128))


def test_somebody_elses_picture_is_as_unknown_as_none(history):
    (id,) = make(history, owner="ann", image=SOURCE)
    assert history.input(fingerprint(SOURCE), "ann").tobytes() == SOURCE.tobytes()
    assert history.input_png(fingerprint(SOURCE), "ann") == history.source_png(id, "ann")
    for ask in (
        lambda: history.picture(id, "bob"),
        lambda: history.picture("nonsense", "bob"),
        lambda: history.input(fingerprint(SOURCE), "bob"),
        lambda: history.input_png(fingerprint(SOURCE), "bob"),
        lambda: history.input("../../etc/passwd", "ann"),
        lambda: history.source_png(id, "bob"),
        lambda: history.source_png(make(history)[0], "ann"),
        lambda: history.favourite(id, "bob", True),
        lambda: history.delete([id], "bob"),
    ):
        with pytest.raises(NotFound, match="no such picture"):
            ask()
    job = history.picture(id, "ann").job
    for ask in (history.job, history.request):
        with pytest.raises(NotFound, match="no such job"):
            ask(job, "bob")
    assert history.search("bob") == []
    assert not history.picture(id, "ann").favourite


def test_ended_jobs_are_read_back_page_by_page(history):
    jobs = [history.add(request(str(k)), "ann").id for k in range(5)]
    foreign = history.add(request(), "bob").id
    for job in (*jobs[::2], *jobs[1::2], foreign):
        history.finish(job, Status.CANCELLED)
    ended = [jobs[k] for k in (3, 1, 4, 2, 0)]
    read, before = [], None
    while rows := history.recent("ann", 2, before):
        read += [row.id for row in rows]
        before = read[-1]
    assert read == ended
    assert history.recent("ann", 2, foreign) == history.recent("ann", 2, "unknown") == []


def test_a_picture_deleted_by_hand_is_named(history):
    (id,) = make(history)
    row = history.picture(id, "ann")
    row.path.unlink()
    row.thumbnail.unlink()
    for thumbnail in (False, True):
        with pytest.raises(NotFound, match="no longer on disk"):
            row.read(thumbnail=thumbnail)
    history.delete([id], "ann")
    assert history.search("ann") == []


def test_delete_removes_rows_files_and_the_words(history, tmp_path):
    first, second = make(history, "the secret word", batch_size=2)
    (other,) = make(history, "another")
    history.delete([first], "ann")
    assert [row.id for row in history.search("ann")] == [other, second]
    history.delete([second, second], "ann")
    assert names(tmp_path / "pictures") == {f"{other}.png"}
    assert names(tmp_path / "thumbnails") == {f"{other}.webp"}
    assert look(tmp_path, "SELECT prompt FROM jobs") == [("another",)]
    history.close()
    assert b"secret" not in (tmp_path / DATABASE).read_bytes()


def test_delete_is_all_or_nothing(history):
    (id,) = make(history)
    with pytest.raises(NotFound):
        history.delete([id, "nonsense"], "ann")
    assert history.picture(id, "ann").read()


# Search


def test_search_finds_all_words_in_any_case_and_order(history):
    make(history, "Ein Österreicher MIT Hut")
    make(history, "100% of _a_ hat")
    assert [row.request.prompt for row in history.search("ann", Filters("hut österr"))] == [
        "Ein Österreicher MIT Hut"
    ]
    assert [row.request.prompt for row in history.search("ann", Filters("0% _a"))] == ["100% of _a_ hat"]
    assert history.search("ann", Filters("hut hat")) == []
    assert len(history.search("ann", Filters("  "))) == 2


def test_search_filters(history):
    (text,) = make(history, checkpoint="pocket")
    (image,) = make(history, checkpoint="other", image=Image.new("RGB", (64, 64)))
    history.favourite(text, "ann", True)

    def found(**filters):
        return [row.id for row in history.search("ann", Filters(**filters))]

    assert found() == [image, text]
    assert found(checkpoint="other") == [image]
    assert found(task="text") == [text]
    assert found(task="inpaint") == []
    assert found(favourites=True) == [text]
    history.favourite(text, "ann", False)
    assert found(favourites=True) == []


def test_search_pages_without_gaps_while_pictures_come_and_go(history):
    ids = [make(history, f"{k}")[0] for k in range(7)][::-1]
    first = history.search("ann", limit=3)
    make(history, "new")
    history.delete([first[-1].id], "ann")
    second = history.search("ann", Filters(before=first[-1].number), limit=3)
    third = history.search("ann", Filters(before=second[-1].number), limit=3)
    assert [row.id for row in (*first, *second, *third)] == ids


# Inputs


@pytest.mark.parametrize("mode", KEEPABLE_MODES)
@settings(max_examples=8, deadline=None)
@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), data=st.randoms())
def test_inputs_keep_their_fingerprint(tmp_path_factory, mode, size, data):
    blank = Image.new(mode, size)
    image = Image.frombytes(mode, size, data.randbytes(len(blank.tobytes())))
    inputs = Inputs(tmp_path_factory.mktemp("inputs"))
    inputs.put(fingerprint(image), image)
    assert fingerprint(inputs.get(fingerprint(image))) == fingerprint(image)


def test_a_job_comes_back_whole(history):
    wanted = request(
        image=Image.linear_gradient("L").convert("RGB"),
        mask=Image.new("L", (256, 256), 255),
        controls=[Control(net="canny", image=Image.radial_gradient("L"), weight=0.5)],
    )
    row = history.add(wanted, "ann")
    again = history.request(row.id, "ann")
    assert again.model_dump_json() == wanted.model_dump_json()
    assert again.mask.mode == "L"
    assert (row.request.task, row.request.image.size) == ("inpaint", (1, 1))


@pytest.mark.parametrize("mode", ["CMYK", "F", "P", "I"])
def test_a_picture_that_a_png_would_change_is_refused(history, tmp_path, mode):
    with pytest.raises(RequestError, match=f"mode {mode}.* is not allowed") as refused:
        history.add(request(controls=[Control(net="canny", image=Image.new(mode, (8, 8)))]), "ann")
    assert refused.value.field == "controls[0].image"
    assert history.open_jobs() == []
    assert names(tmp_path / "inputs") == set()


def test_inputs_go_with_the_last_job_that_used_them(history, tmp_path):
    shared, own = Image.new("RGB", (8, 8), "red"), Image.new("L", (8, 8), 255)
    (first,) = make(history, image=shared, mask=own)
    (second,) = make(history, image=shared)
    assert len(names(tmp_path / "inputs")) == 2
    history.delete([first], "ann")
    assert names(tmp_path / "inputs") == {f"{fingerprint(shared).removeprefix('sha256:')}.png"}
    history.delete([second], "ann")
    assert names(tmp_path / "inputs") == set()


def test_an_input_deleted_by_hand_is_named(history, tmp_path):
    job = history.add(request(image=Image.new("RGB", (8, 8))), "ann").id
    for path in (tmp_path / "inputs").iterdir():
        path.write_bytes(b"not a picture")
    with pytest.raises(StorageError, match="began from is no longer on disk"):
        history.request(job, "ann")


# What stays when the server does not


def test_how_a_job_ended_is_never_overwritten(history):
    wanted = request()
    job = history.add(wanted, "ann").id
    history.finish(job, Status.CANCELLED)
    history.start(job)
    history.finish(job, Status.FAILED, "late")
    assert (history.job(job, "ann").status, history.job(job, "ann").error) == (Status.CANCELLED, None)
    (id,) = make(history)
    history.finish(history.picture(id, "ann").job, Status.FAILED, "late")
    assert history.job(history.picture(id, "ann").job, "ann").status is Status.DONE


def test_interrupted_jobs_come_first_and_are_given_up_when_they_always_end_the_server(tmp_path):
    with closing(History(tmp_path)) as history:
        waiting, deadly = history.add(request("waiting"), "ann").id, history.add(request("deadly"), "ann").id
        assert history.notices == ()
    for times in range(1, MOST_STARTS + 1):
        with closing(History(tmp_path)) as history:
            expected = [waiting, deadly] if times == 1 else [deadly, waiting]
            assert [row.id for row in history.open_jobs()] == expected
            history.start(deadly)
    with closing(History(tmp_path)) as history:
        assert [row.id for row in history.open_jobs()] == [waiting]
        assert history.job(deadly, "ann").status is Status.INTERRUPTED
        assert "not tried again" in history.job(deadly, "ann").error
        assert history.notices == (
            "1 job waiting since before the server's last stop, going on.",
            f"1 job given up after {MOST_STARTS} interrupted runs.",
        )


def test_a_stop_in_good_order_does_not_count(tmp_path):
    for _ in range(MOST_STARTS + 1):
        with closing(History(tmp_path)) as history:
            job = history.open_jobs()[0].id if history.open_jobs() else history.add(request(), "ann").id
            history.start(job)
            history.pause(job)
    with closing(History(tmp_path)) as history:
        assert [row.id for row in history.open_jobs()] == [job]
        assert history.notices == ("1 job interrupted by the server's last stop, started again.",)


def test_a_start_sweeps_what_has_no_row_and_leaves_other_files(tmp_path):
    with closing(History(tmp_path)) as history:
        (id,) = make(history, image=Image.new("RGB", (8, 8)))
        kept = {*names(tmp_path / "pictures"), *names(tmp_path / "thumbnails"), *names(tmp_path / "inputs")}
    orphan = "20260101-000000-0123456789abcdef"
    for leftover in (f"pictures/{orphan}.png", f"pictures/{orphan}.tmp", f"thumbnails/{orphan}.webp", "inputs/x.tmp"):
        (tmp_path / leftover).write_bytes(b"half")
    (tmp_path / "inputs" / f"{'0' * 64}.png").write_bytes(b"whole")
    (tmp_path / "pictures" / "my own notes.txt").write_bytes(b"mine")
    with closing(History(tmp_path)) as history:
        found = {*names(tmp_path / "pictures"), *names(tmp_path / "thumbnails"), *names(tmp_path / "inputs")}
        assert found == {*kept, "my own notes.txt"}
        assert history.picture(id, "ann").read()


def test_old_jobs_without_pictures_are_forgotten(tmp_path):
    with closing(History(tmp_path)) as history:
        make(history, "kept")
        old, young = history.add(request(image=Image.new("L", (8, 8))), "ann").id, history.add(request(), "ann").id
        history.finish(old, Status.FAILED, "no")
        history.finish(young, Status.CANCELLED)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
        weeks_ago = time.time() - 30 * 86400
        database.execute("UPDATE jobs SET ended = ? WHERE id != ?", (weeks_ago, young))
    with closing(History(tmp_path)) as history:
        assert {row.request.prompt for row in history.recent("ann")} == {"kept", "a red circle"}
        assert names(tmp_path / "inputs") == set()


def test_two_servers_never_share_a_folder(tmp_path):
    with closing(History(tmp_path)), pytest.raises(StorageError, match="Another Darkroom uses this data folder"):
        History(tmp_path)
    History(tmp_path).close()


@pytest.mark.parametrize("damage", ["text", "page"])
def test_a_damaged_database_is_put_aside_with_its_pictures(tmp_path, damage):
    with closing(History(tmp_path)) as history:
        for k in range(40):
            history.add(request(f"{k} " * 500), "ann")
        (id,) = make(history)
    database = tmp_path / DATABASE
    content = database.read_bytes()
    database.write_bytes(b"nonsense" * 999 if damage == "text" else content[:4096] + b"\xff" * 8192 + content[12288:])
    with closing(History(tmp_path)) as history:
        (notice,) = history.notices
        (aside,) = tmp_path.glob("damaged-*")
        assert aside.name in notice and str(tmp_path) not in notice
        assert names(aside) >= {DATABASE, "pictures", "thumbnails"}
        assert names(aside / "pictures") == {f"{id}.png"}
        assert history.recent("ann") == []
        make(history)
    with closing(History(tmp_path)) as history:
        assert history.notices == ()


def test_pictures_are_put_aside_when_their_database_is_gone(tmp_path):
    with closing(History(tmp_path)) as history:
        (id,) = make(history)
    (tmp_path / DATABASE).unlink()
    with closing(History(tmp_path)) as history:
        (aside,) = tmp_path.glob("damaged-*")
        assert names(aside / "pictures") == {f"{id}.png"}
        assert len(history.notices) == 1


def test_a_newer_version_of_the_database_is_left_alone(tmp_path):
    with closing(History(tmp_path)) as history:
        make(history)
    assert look(tmp_path, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert look(tmp_path, "PRAGMA journal_mode") == [("wal",)]
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer version"):
        History(tmp_path)
    assert len(look(tmp_path, "SELECT * FROM pictures")) == 1


def test_requests_that_are_no_longer_allowed_hide_only_their_own_job(tmp_path):
    with closing(History(tmp_path)) as history:
        history.add(request("open"), "ann")
        (id,) = make(history, "done")
        make(history, "fine")
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
        database.execute("UPDATE jobs SET request = '{\"gone\": 1}' WHERE prompt != 'fine'")
    with closing(History(tmp_path)) as history:
        assert history.open_jobs() == []
        assert [row.request.prompt for row in history.recent("ann")] == ["fine"]
        assert history.picture(id, "ann").read()
        assert look(tmp_path, "SELECT status FROM jobs WHERE prompt = 'open'") == [("failed",)]


# Full and unwritable folders


def test_a_folder_that_cannot_be_used_is_named_without_its_path(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError) as refused:
        History(tmp_path / "file")
    assert str(refused.value) == "The data folder cannot be read or written."


def test_pictures_that_cannot_be_saved_stay_in_memory(history, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    wanted = request(batch_size=2)
    job = history.add(wanted, "ann").id
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(StorageError, match=r"^The data folder is full; it needs more room\.$"):
            save(history, job, wanted)
    assert names(tmp_path / "pictures") | names(tmp_path / "thumbnails") == set()
    history.finish(job, Status.FAILED, "full")
    assert history.job(job, "ann").pictures == history.kept(job) != {}
    first, second = (history.picture(id, "ann") for id in history.kept(job).values())
    assert first.read().startswith(b"\x89PNG") and first.read(thumbnail=True).startswith(b"RIFF")
    with pytest.raises(NotFound):
        history.picture(first.id, "bob")
    history.delete([first.id], "ann")
    assert history.kept(job) == {1: second.id}
    history.delete([second.id], "ann")
    with pytest.raises(NotFound):
        history.job(job, "ann")


def test_only_the_last_unsaved_pictures_stay_in_memory(history, tmp_path):
    (tmp_path / "pictures").rmdir()
    (tmp_path / "pictures").write_text("in the way")
    jobs = []
    for _ in range(MOST_KEPT + 2):
        with pytest.raises(DarkroomError, match="cannot be read or written"):
            make(history)
        jobs.append(history.open_jobs()[-1].id)
    assert [bool(history.kept(job)) for job in jobs] == [False] * 2 + [True] * MOST_KEPT
    (tmp_path / "pictures").unlink()
    (tmp_path / "pictures").mkdir()
    assert history.picture(make(history)[0], "ann").path.exists()


def test_every_method_says_so_when_the_database_cannot_be_used(tmp_path):
    history = History(tmp_path)
    history.close()
    for use in (lambda: history.add(request(), "ann"), lambda: history.search("ann"), lambda: history.start("x")):
        with pytest.raises(StorageError, match="cannot be read or written"):
            use()
