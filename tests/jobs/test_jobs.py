from __future__ import annotations

import asyncio
import gc
import random
import resource
import sqlite3
import threading
import weakref
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
from PIL import Image

from core.errors import CheckpointError, DarkroomError, NotFound, QueueFull, RequestError, StorageError
from core.jobs.board import FILM_LENGTH
from core.jobs.database import DATABASE
from core.jobs.line import PATIENCE, Job, JobState, Line, Pace
from core.jobs.queue import JobQueue
from core.jobs.records import Status
from core.request.parameters import fingerprint
from core.settings import NEWCOMERS
from tests.darkroom import LIMITS, PATIENT, Darkroom, Engine, Script, draw, request


@pytest.fixture
def start(tmp_path):
    """Starts servers on one folder, one after the other."""
    running = []

    def start(engine: Engine | None = None, **limits: int) -> Darkroom:
        stop()
        running.append(Darkroom(tmp_path, engine, **limits))
        return running[-1]

    def stop() -> None:
        if running:
            running.pop().stop()

    yield start
    stop()


async def until(states, found):
    """The first of `states` for which `found` is true."""
    async with asyncio.timeout(PATIENT):
        async for state in states:
            if found(state):
                await states.aclose()
                return state
    raise AssertionError("it ended before that")


def seen(darkroom: Darkroom, job: str, found, owner: str = "ann") -> JobState:
    """Wait for a state of a job."""
    return asyncio.run(until(darkroom.queue.attach(job, owner), found))


def at_step(step: int):
    return lambda state: state.step == step


def film(darkroom: Darkroom, owner: str = "ann") -> tuple[JobState, ...]:
    return asyncio.run(until(darkroom.queue.follow(owner), lambda _: True))


@contextmanager
def full_disk():
    """No file of this process can grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# A job's way


def test_a_job_becomes_pictures(start):
    darkroom = start()
    wanted = request("two", batch_size=2)
    done = darkroom.queue.wait(darkroom.queue.submit(wanted, "ann").id, "ann")
    assert (done.status, done.step, done.total, done.place, done.preview) == (Status.DONE, 4, 4, None, None)
    assert done.seconds > 0 and done.request == wanted
    for index, id in done.pictures.items():
        with Image.open(darkroom.history.picture(id, "ann").path) as png:
            assert fingerprint(png) == fingerprint(draw(wanted, index))


def test_submit_has_written_the_job_when_it_returns(start, tmp_path):
    darkroom = start(Engine(gated=True))
    state = darkroom.queue.submit(request(image=Image.new("RGB", (8, 8), "red")), "ann")
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        ((id, owner),) = database.execute("SELECT id, owner FROM jobs").fetchall()
    assert (id, owner) == (state.id, "ann") == (state.id, state.owner)
    assert state.request.image.size == (8, 8)
    assert len(darkroom.files()) == 1


def test_a_run_begins_from_the_whole_request(start):
    got = []

    def run(wanted):
        got.append(wanted)
        yield from Engine().run(wanted)

    darkroom = start()
    wanted = request(image=draw(request()), mask=Image.new("L", (64, 64), 255))
    with closing(JobQueue(Script(run), darkroom.history, LIMITS)) as queue:
        queue.wait(queue.submit(wanted, "ann").id, "ann")
    assert got[0].model_dump_json() == wanted.model_dump_json()


def test_what_runs_need_is_made_ready_once_in_the_workers_thread(start):
    darkroom, calls, go = start(), [], threading.Event()

    def prepare():
        assert go.wait(PATIENT)
        calls.append(threading.current_thread())

    with closing(JobQueue(Script(Engine().run, prepare), darkroom.history, LIMITS)) as queue:
        assert not queue.ready
        go.set()
        for _ in range(2):
            queue.wait(queue.submit(request(), "ann").id, "ann")
        assert queue.ready
    assert [thread.name for thread in calls] == ["worker"]


def test_the_next_job_runs_while_pictures_are_saved(start, monkeypatch):
    saving, go_on = threading.Event(), threading.Event()
    darkroom = start()
    save = darkroom.history.save

    def slow(*args):
        saving.set()
        assert go_on.wait(PATIENT)
        return save(*args)

    monkeypatch.setattr(darkroom.history, "save", slow)
    first = darkroom.submit("first")
    assert saving.wait(PATIENT)
    second = darkroom.submit("second")
    assert seen(darkroom, second, at_step(4)).status is Status.RUNNING
    assert film(darkroom)[1].status is Status.RUNNING  # only what is on disk is done
    go_on.set()
    assert [darkroom.queue.wait(job, "ann").status for job in (first, second)] == [Status.DONE] * 2


# Those who look on


def test_attach_gives_the_latest_at_once_then_live_to_the_end(start):
    darkroom = start(Engine(gated=True))
    wanted = request(image=Image.new("RGB", (8, 8), "red"))  # strength 0.75
    job = darkroom.queue.submit(wanted, "ann").id
    darkroom.engine.let_pass(1)
    assert seen(darkroom, job, lambda state: state.doing).doing == "Loading Pocket"
    darkroom.engine.let_pass(2)
    seen(darkroom, job, at_step(2))

    async def look():
        states = []
        async with asyncio.timeout(PATIENT):
            async for state in darkroom.queue.attach(job, "ann"):
                states.append(state)
                darkroom.engine.let_pass(1)
        return states

    states = asyncio.run(look())
    assert [state.step for state in states if state.status is Status.RUNNING][:3] == [2, 3, 4]
    assert states[0].preview.getpixel((0, 0)) == (2, 0, 0) and states[0].doing is None
    assert states[-1].status is Status.DONE and states[-1].pictures
    assert all(state.request == states[0].request and state.request.image.size == (8, 8) for state in states)


def test_attach_to_a_job_that_ended_gives_its_end(start):
    darkroom = start()
    made = darkroom.make("done", seed=2**64 - 1)
    darkroom.engine.failures["failed"] = CheckpointError("Model: gone.")
    failed = darkroom.make("failed")
    darkroom = start()
    for before in (made, failed):
        after = seen(darkroom, before.id, lambda _: True)
        assert replace(after, step=0, total=0).__dict__ == replace(before, step=0, total=0).__dict__
        assert darkroom.queue.wait(before.id, "ann").pictures == before.pictures


def test_the_film_is_waiting_running_ended_newest_first(start):
    darkroom = start(Engine(gated=True))
    for prompt in ("a", "b", "c", "d"):
        darkroom.submit(prompt)
        darkroom.submit("somebody else's", "bob")
    darkroom.engine.let_pass(6)
    (a,) = [state.id for state in film(darkroom) if state.request.prompt == "a"]
    darkroom.queue.wait(a, "ann")
    b = next(state for state in film(darkroom) if state.request.prompt == "b")
    darkroom.queue.cancel(b.id, "ann")
    darkroom.engine.let_pass(1)
    states = film(darkroom)
    assert [(s.request.prompt, s.status, s.place) for s in states] == [
        ("d", Status.QUEUED, 3),
        ("c", Status.QUEUED, 1),
        ("b", Status.CANCELLED, None),
        ("a", Status.DONE, None),
    ]


def test_the_film_is_as_long_after_a_restart(start):
    darkroom = start()
    ids = [darkroom.make(f"{k}").id for k in range(FILM_LENGTH + 5)][::-1]
    states = film(start())
    assert [state.id for state in states] == ids[:FILM_LENGTH]
    assert all(state.status is Status.DONE and state.pictures and state.step == state.total for state in states)


def test_deleted_pictures_leave_the_film_of_those_who_look_on(start):
    darkroom = start()

    async def look():
        film = darkroom.queue.follow("ann")
        assert await anext(film) == ()
        made = await asyncio.to_thread(darkroom.make, batch_size=2)
        await until_film(film, lambda states: states and states[0].pictures == made.pictures)
        await asyncio.to_thread(darkroom.history.delete, [made.pictures[0]], "ann")
        await until_film(film, lambda states: states[0].pictures == {1: made.pictures[1]})  # it keeps its seed
        await asyncio.to_thread(darkroom.history.delete, [made.pictures[1]], "ann")
        await until_film(film, lambda states: states == ())
        await film.aclose()

    async def until_film(film, found):
        async with asyncio.timeout(PATIENT):
            while not found(await anext(film)):
                pass

    asyncio.run(look())


def test_a_viewer_who_does_not_read_costs_nothing_and_then_gets_the_latest(start):
    darkroom = start()

    async def look():
        loop, calls = asyncio.get_running_loop(), []
        schedule = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *args: calls.append(args) or schedule(*args)
        stalled = darkroom.queue.follow("ann")
        await anext(stalled)
        viewer = next(iter(darkroom.queue._board.films["ann"].viewers))
        made = [await asyncio.to_thread(darkroom.make, steps=150) for _ in range(5)]
        assert len([call for call in calls if call[0] == viewer._news.set]) == 1
        states = await anext(stalled)  # 750 steps later
        assert [state.id for state in states] == [state.id for state in made][::-1]
        assert all(state.status is Status.DONE for state in states)
        await stalled.aclose()

    asyncio.run(look())


def test_sixty_viewers_share_one_snapshot_and_no_thread_each(start):
    darkroom = start(Engine(gated=True))
    job = darkroom.submit(steps=3)

    async def look():
        pages = [darkroom.queue.follow("ann") for _ in range(60)]
        await asyncio.gather(*(anext(page) for page in pages))
        threads = threading.active_count()
        for events, step in ((2, 1), (1, 2), (1, 3)):
            darkroom.engine.let_pass(events)
            latest = await asyncio.gather(*(asyncio.create_task(step_of(page, step)) for page in pages))
            assert len({id(states) for states in latest}) == 1
        assert threading.active_count() <= threads
        await asyncio.gather(*(page.aclose() for page in pages))

    async def step_of(page, step):
        async with asyncio.timeout(PATIENT):
            while (states := await anext(page))[0].step != step:
                pass
            return states

    asyncio.run(look())
    assert darkroom.queue._board.films == {}
    darkroom.engine.let_pass(1)
    assert darkroom.queue.wait(job, "ann").status is Status.DONE


def test_viewers_whose_loop_is_gone_disturb_nobody(start):
    darkroom = start()
    loop = asyncio.new_event_loop()
    page = darkroom.queue.follow("ann")
    loop.run_until_complete(anext(page))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert darkroom.make().status is Status.DONE
    page.aclose().close()


def test_somebody_elses_job_is_as_unknown_as_none(start):
    darkroom = start(Engine(gated=True))
    running, waiting = darkroom.submit(), darkroom.submit()
    for job in (running, waiting, "nonsense"):
        for ask in (
            lambda job=job: darkroom.queue.cancel(job, "bob"),
            lambda job=job: darkroom.queue.wait(job, "bob"),
            lambda job=job: seen(darkroom, job, lambda _: True, "bob"),
        ):
            with pytest.raises(NotFound, match="no such job"):
                ask()
    assert film(darkroom, "bob") == ()
    darkroom.engine.let_pass(12)
    assert darkroom.queue.wait(waiting, "ann").status is Status.DONE


# Cancelling


def test_cancel_while_waiting_loading_and_running(start):
    darkroom = start(Engine(gated=True))
    loading, running, waiting = (darkroom.submit(prompt) for prompt in ("loading", "running", "waiting"))
    darkroom.queue.cancel(waiting, "ann")
    assert darkroom.queue.wait(waiting, "ann").status is Status.CANCELLED
    darkroom.engine.let_pass(1)
    seen(darkroom, loading, lambda state: state.doing)
    darkroom.queue.cancel(loading, "ann")
    darkroom.engine.let_pass(1)  # the next event, whatever it is, is the last
    assert darkroom.queue.wait(loading, "ann").status is Status.CANCELLED
    darkroom.engine.let_pass(3)
    seen(darkroom, running, at_step(2))
    darkroom.queue.cancel(running, "ann")
    darkroom.engine.let_pass(1)
    assert darkroom.queue.wait(running, "ann").step == 2
    assert darkroom.engine.ran == darkroom.engine.closed == ["loading", "running"]
    darkroom.queue.cancel(running, "ann")  # once more changes nothing


def test_an_ended_job_stays_as_it_is(start):
    darkroom = start()
    done = darkroom.make()
    darkroom.queue.cancel(done.id, "ann")
    assert darkroom.queue.wait(done.id, "ann").status is Status.DONE


def test_a_hundred_cancels_at_random_moments(start):
    engine = Engine(gated=True)
    darkroom, chance = start(engine), random.Random(3)
    for number in range(100):
        step = chance.randrange(-1, 6)  # of 4: -1 before it begins, 5 while it ends
        engine.gate = threading.Semaphore(step + 1)
        job = darkroom.submit(f"{number}")
        if 0 <= step <= 4:
            seen(darkroom, job, at_step(step))
        darkroom.queue.cancel(job, "ann")
        engine.let_pass(10)
        ended = darkroom.queue.wait(job, "ann")
        assert ended.status is Status.CANCELLED or (step == 5 and ended.status is Status.DONE)
        assert ended.step <= max(step, 0)
    assert darkroom.make().status is Status.DONE
    assert engine.ran == engine.closed
    assert darkroom.queue._board.open == darkroom.queue._board.films == darkroom.queue._board.line._jobs == {}


# Failures


def test_a_failed_run_says_why_and_the_next_one_runs(start, caplog):
    darkroom = start()
    darkroom.engine.failures = {"known": CheckpointError("Model: it is gone."), "unknown": KeyError("/home/secret")}
    known, unknown = darkroom.make("known"), darkroom.make("unknown")
    assert (known.status, known.error) == (Status.FAILED, "Model: it is gone.")
    assert unknown.status is Status.FAILED and "secret" not in unknown.error and "went wrong" in unknown.error
    assert "/home/secret" in caplog.text and "Traceback" in caplog.text
    assert darkroom.make().status is Status.DONE


def test_a_run_without_an_end_fails(start):
    darkroom = start()
    with closing(JobQueue(Script(lambda _: (event for event in ())), darkroom.history, LIMITS)) as queue:
        state = queue.wait(queue.submit(request(), "ann").id, "ann")
    assert state.error == "The run ended without a picture."


def test_a_runner_of_two_has_two_runs_at_once_and_is_closed_with_its_queue(start):
    darkroom, both, closed = start(), threading.Barrier(2), []

    def run(wanted):
        both.wait(PATIENT)
        yield from Engine().run(wanted)

    runner = Script(run, close=lambda: closed.append(True), capacity=2)
    with closing(JobQueue(runner, darkroom.history, LIMITS)) as queue:
        jobs = [queue.submit(request(), owner) for owner in ("ann", "bob")]
        assert [queue.wait(job.id, job.owner).status for job in jobs] == [Status.DONE] * 2
    assert closed == [True]


def test_a_failed_run_leaves_nothing_in_memory(start):
    class Tensor:
        pass

    tensors = []

    def run(wanted):
        tensor = Tensor()
        tensors.append(weakref.ref(tensor))
        yield from Engine().run(wanted)
        raise DarkroomError("too late")

    def fail(wanted):
        tensor = Tensor()
        tensors.append(weakref.ref(tensor))
        raise DarkroomError("at once")
        yield

    darkroom = start()
    gc.disable()
    try:
        for source in (run, fail):
            with closing(JobQueue(Script(source), darkroom.history, LIMITS)) as queue:
                queue.wait(queue.submit(request(), "ann").id, "ann")
    finally:
        gc.enable()
    assert [tensor() for tensor in tensors] == [None, None]


def test_what_cannot_be_made_ready_ends_no_worker(start, caplog):
    darkroom = start()

    def prepare():
        raise ImportError("no torch")

    with closing(JobQueue(Script(Engine().run, prepare), darkroom.history, LIMITS)) as queue:
        assert queue.wait(queue.submit(request(), "ann").id, "ann").status is Status.DONE
        assert not queue.ready
    assert "no torch" in caplog.text


def test_pictures_that_cannot_be_saved_are_still_shown_and_the_next_job_runs(start, tmp_path):
    darkroom = start()
    (tmp_path / "pictures").rmdir()
    (tmp_path / "pictures").write_text("in the way")
    failed = darkroom.make(batch_size=2)
    assert (failed.status, failed.error) == (Status.FAILED, "The data folder cannot be read or written.")
    assert [darkroom.history.picture(id, "ann").read()[:4] for id in failed.pictures.values()] == [b"\x89PNG"] * 2
    assert film(darkroom)[0].pictures == failed.pictures
    (tmp_path / "pictures").unlink()
    (tmp_path / "pictures").mkdir()
    assert darkroom.make().status is Status.DONE


def test_a_full_disk_refuses_new_jobs_and_loses_no_picture(start):
    darkroom = start(Engine(gated=True))
    running, waiting = darkroom.submit("running"), darkroom.submit("waiting")
    darkroom.engine.let_pass(3)
    seen(darkroom, running, at_step(2))
    before = [state.id for state in film(darkroom)]
    with full_disk():
        with pytest.raises(StorageError):
            darkroom.submit("refused")
        assert [state.id for state in film(darkroom)] == before
        darkroom.queue.cancel(waiting, "ann")
        assert darkroom.queue.wait(waiting, "ann").status is Status.CANCELLED
        darkroom.engine.let_pass(10)
        failed = darkroom.queue.wait(running, "ann")
        assert failed.status is Status.FAILED and darkroom.history.picture(failed.pictures[0], "ann").read()
        assert {state.id: state.status for state in film(darkroom)} == {
            waiting: Status.CANCELLED,
            running: Status.FAILED,
        }
    darkroom.engine.let_pass(10)
    assert darkroom.make("room again").status is Status.DONE
    assert [darkroom.history.job(job, "ann").status for job in (running, waiting)] == ["failed", "cancelled"]


def test_a_picture_that_cannot_be_kept_is_refused_and_nothing_changes(start):
    darkroom = start()
    with pytest.raises(RequestError, match="mode CMYK"):
        darkroom.submit(image=Image.new("CMYK", (8, 8)))
    assert film(darkroom) == ()
    assert darkroom.files() == set()


# Limits and turns


def test_one_address_has_no_more_jobs_however_many_owners_it_makes_up(start):
    darkroom = start(Engine(gated=True), jobs_per_address=2)
    for owner in ("ann", "bob"):
        darkroom.queue.submit(request(), owner, "1.2.3.4")
    with pytest.raises(QueueFull, match="2 jobs of your network, or of programs without a cookie, are open"):
        darkroom.queue.submit(request(), "eve", "1.2.3.4")
    darkroom.queue.submit(request(), "eve", "1.2.3.5")
    for owner in ("joe", "kim", "lee"):
        darkroom.queue.submit(request(), owner)  # an address that is not known is not counted


def test_visitors_who_came_just_now_leave_places_to_others_however_many_they_are(start):
    darkroom = start(Engine(gated=True), jobs_per_address=1, jobs_of_newcomers=2, jobs_in_all=4)
    for owner in ("ann", "bob"):
        darkroom.queue.submit(request(), owner, NEWCOMERS)
    with pytest.raises(QueueFull, match="2 jobs of new visitors are open"):
        darkroom.queue.submit(request(), "eve", NEWCOMERS)
    darkroom.queue.submit(request(), "joe")
    darkroom.queue.submit(request(), "kim", "1.2.3.4")


def test_limits_per_owner_and_in_all(start):
    darkroom = start(Engine(gated=True), jobs_per_owner=2, jobs_in_all=3)
    first = darkroom.submit()
    darkroom.submit()
    with pytest.raises(QueueFull, match="You have 2 open jobs, as many as this server allows"):
        darkroom.submit()
    darkroom.submit(owner="bob")
    with pytest.raises(QueueFull, match="The queue is full with 3 jobs"):
        darkroom.submit(owner="eve")
    darkroom.engine.let_pass(6)
    darkroom.queue.wait(first, "ann")
    darkroom.submit(owner="eve")


def test_limits_hold_when_many_submit_at_once(start):
    darkroom = start(Engine(gated=True), jobs_per_owner=5)
    refused = []

    def submit():
        try:
            darkroom.submit()
        except QueueFull as error:
            refused.append(error)

    threads = [threading.Thread(target=submit) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENT)
    assert len(refused) == 7 and len(film(darkroom)) == 5


def waiting(*jobs: tuple[str, str]) -> Line:
    """A line of (owner, checkpoint); the prompts count the jobs from 0."""
    line = Line()
    for number, (owner, checkpoint) in enumerate(jobs):
        wanted = request(f"{number}", checkpoint=checkpoint)
        line.add(Job(JobState(f"{number}", owner, wanted, Status.QUEUED, created=number)))
    return line


def owners(jobs: list[Job]) -> str:
    return "".join(job.state.owner for job in jobs)


def test_owners_take_turns():
    line = waiting(*[("a", "m")] * 4, *[("b", "m")] * 2, ("c", "m"))
    # one model: it is always in memory, so that nobody is passed over
    assert owners(line.in_order()) == "abcabaa"


def test_who_comes_late_waits_for_one_round_not_for_all():
    line = waiting(*[("a", "m")] * 50, *[("b", "m")] * 50)
    line.take()
    line.add(Job(JobState("new", "c", request(checkpoint="m"), Status.QUEUED, created=0)))
    assert owners(line.in_order())[:3] == "bac"


def test_three_people_with_three_models_do_not_thrash_them():
    line = waiting(*[(owner, owner) for _ in range(12) for owner in "abc"])
    order = owners(line.in_order())
    loads = 1 + sum(before != after for before, after in pairwise(order))
    assert loads <= len(order) / 3
    for owner in "abc":  # and nobody waits for more than each other's turn, PATIENCE times prolonged
        turns = [-1, *(place for place, other in enumerate(order) if other == owner)]
        assert max(after - before for before, after in pairwise(turns)) <= 2 * (PATIENCE + 1) + 1


def test_nobody_is_passed_over_for_ever():
    line = waiting(("a", "big"), *[("b", "small")] * 30, *[("c", "small")] * 30)
    line._checkpoint = "small"
    assert owners(line.in_order()).index("a") == PATIENCE


@pytest.mark.parametrize("seed", range(5))
def test_places_are_the_real_order(seed):
    chance = random.Random(seed)
    line = waiting(*[(chance.choice("abcd"), chance.choice("xyz")) for _ in range(40)])
    for _ in range(5):
        line.take()
    line.remove(line.in_order()[7])
    expected = line.in_order()
    assert [line.take() for _ in expected] == expected and not line


def test_the_queue_runs_in_the_order_it_tells(start):
    darkroom = start(Engine(gated=True))
    last = [darkroom.submit(f"{owner}{k}", owner, checkpoint=owner) for k in range(4) for owner in "abc"][-1]
    places = {s.place: s.request.prompt for owner in "abc" for s in film(darkroom, owner) if s.place}
    darkroom.engine.let_pass(100)
    darkroom.queue.wait(last, "c")
    told = [places[place] for place in sorted(places)]
    assert darkroom.engine.ran[-len(told) :] == told


# Estimates


def test_estimates_come_from_runs_of_the_checkpoint(start):
    darkroom = start()
    assert darkroom.queue.estimate(request()) is None
    seconds = darkroom.make().seconds
    assert darkroom.queue.estimate(request()) == pytest.approx(seconds)
    assert darkroom.queue.estimate(request(steps=8, batch_size=2)) == pytest.approx(4 * seconds)
    assert darkroom.queue.estimate(request(width=128)) == pytest.approx(2 * seconds)
    assert darkroom.queue.estimate(request(checkpoint="another")) is None
    assert start().queue.estimate(request()) == pytest.approx(seconds)


def test_one_slow_run_does_not_spoil_the_estimate():
    pace = Pace()
    for seconds in (1.0, 1.1, 60.0, 0.9):
        pace.measured(request(), seconds)
    assert pace.estimate(request()) == pytest.approx(1.05)


def test_time_left_adds_up_along_the_line(start):
    engine = Engine()
    darkroom = start(engine)
    darkroom.make()
    engine.gate = threading.Semaphore(0)
    one = darkroom.queue.estimate(request())
    running = darkroom.submit()
    engine.let_pass(1)
    seen(darkroom, running, lambda state: state.doing)
    darkroom.submit()
    darkroom.submit(steps=8)
    last, first, now, _ = film(darkroom)
    assert (now.seconds_left, first.seconds_left, last.seconds_left) == pytest.approx((one, 2 * one, 4 * one))
    engine.let_pass(3)
    assert seen(darkroom, running, at_step(3)).seconds_left > 0


# Stopping and starting


def test_open_jobs_go_on_after_a_restart_the_begun_one_first(start):
    darkroom = start(Engine(gated=True))
    wanted = request("begun", steps=150, image=draw(request()))
    begun = darkroom.queue.submit(wanted, "bob").id
    darkroom.engine.let_pass(3)
    seen(darkroom, begun, at_step(2), "bob")
    waiting = [darkroom.submit(f"{k}") for k in range(3)]
    darkroom = start()
    assert darkroom.history.notices == (
        "1 job interrupted by the server's last stop, started again.",
        "3 jobs waiting since before the server's last stop, going on.",
    )
    assert [darkroom.queue.wait(job, "ann").status for job in waiting] == [Status.DONE] * 3
    assert darkroom.engine.ran == ["begun", "0", "1", "2"]
    again = darkroom.queue.wait(begun, "bob")
    assert again.status is Status.DONE and again.request.model_dump_json() == wanted.model_dump_json()


def test_pictures_that_are_done_while_the_server_stops_are_kept(start):
    darkroom = start(Engine(gated=True))
    job = darkroom.submit()
    darkroom.engine.let_pass(5)
    seen(darkroom, job, at_step(4))
    darkroom.stop()
    assert len(start().history.search("ann")) == 1


def test_whoever_waits_is_told_that_the_server_stops(start):
    darkroom = start(Engine(gated=True))
    job = darkroom.submit(steps=150)
    told = []

    def wait():
        try:
            darkroom.queue.wait(job, "ann")
        except DarkroomError as error:
            told.append(str(error))

    waiter = threading.Thread(target=wait)
    waiter.start()

    async def look():
        ended = asyncio.create_task(asyncio.to_thread(darkroom.stop))
        async with asyncio.timeout(PATIENT):
            async for states in darkroom.queue.follow("ann"):
                assert states[0].status is not Status.DONE
        await ended

    asyncio.run(look())
    waiter.join(PATIENT)
    assert told == ["The server stops; this job goes on when it is started again."]
    start()
