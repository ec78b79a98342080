"""What strangers send to a real server: it opens no file for them, asks nobody, and says what was wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.browser import ROOT, wait_until_ready
from tests.test_app import free_port

CANARY = "nobody may read this"
FILE = {"meta": {"_type": "gradio.FileData"}}
OUTSIDE = [
    "http://canary-outbound.invalid/a.png",
    "https://canary-outbound.invalid/a.png",
    "http://2130706433:9/",
    "http://[::1]:9/a.png",
    "http://0x7f000001:9/",
    "http://169.254.169.254/latest/meta-data",
    "HTTP://canary-outbound.invalid/",
    "file:///etc/passwd",
    "/proc/self/environ",
    "/proc/self/fd/0",
    "../../../../etc/passwd",
    "\0",
]


SYSTEM = (Path("/proc"), Path("/sys"), Path("/dev"))


@dataclass
class Watched:
    """The app in a process of its own that notes what it opens and whom it asks, with canaries all around it."""

    client: httpx.Client
    folder: Path

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.client.get("/config").json()["dependencies"]
        return events

    @cached_property
    def values(self) -> dict[int, Any]:
        """What each component of the page shows at first."""
        parts = self.client.get("/config").json()["components"]
        return {part["id"]: part["props"].get("value") for part in parts}

    @property
    def canaries(self) -> list[Path]:
        places = ("home", "start", "tmp", "data/uploads-of-another")
        return [self.folder / place / "canary.txt" for place in places]

    def call(self, event: dict[str, Any], **changes: Any) -> httpx.Response:
        """An event, with what the page would send but for `changes`."""
        data = [self.values.get(part) for part in event["inputs"]]
        call = {"data": data, "fn_index": event["id"], "session_hash": "s", "event_data": None, "trigger_id": None}
        way = "queue/join" if event["queue"] else f"run/{event['api_name']}"
        return self.client.post(f"/gradio_api/{way}", content=json.dumps(call | changes))  # broken Unicode, too

    def generate(self, **fields: Any) -> httpx.Response:
        """The public endpoint as gradio_client calls it: with all of its fields, by the event's number."""
        (event,) = [event for event in self.events if event["api_name"] == "generate"]
        info = self.client.get("/gradio_api/info").json()["named_endpoints"]["/generate"]["parameters"]
        data = [fields.get(each["parameter_name"], each["parameter_default"]) for each in info]
        return self.call(event, data=data)

    def noted(self) -> list[tuple[str, str]]:
        lines = (self.folder / "noted").read_text("utf-8", "replace").splitlines()
        return [(line.partition("\t")[0], line.partition("\t")[2]) for line in lines]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, port = tmp_path_factory.mktemp("watched"), free_port()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        app = Watched(client, folder)
        for canary in app.canaries:
            canary.parent.mkdir(parents=True)
            canary.write_text(CANARY)
        places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.watched", str(folder / "noted"), "--port", str(port)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--data", str(folder / "data")],
                cwd=folder / "start",
                env=os.environ | places,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until_ready(process, str(client.base_url), folder / "log")
            yield app
        finally:
            process.terminate()
            process.wait(timeout=30)


@pytest.fixture(autouse=True)
def kept_to_itself(app: Watched) -> Iterator[None]:
    """Whatever a test sends, no file outside of the app's own folders is opened, and nobody is asked."""
    before = len(app.noted())
    yield
    own = (app.folder / "data", ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix), *SYSTEM)
    for event, about in app.noted()[before:]:
        assert event in ("open", "os.listdir", "os.scandir"), (event, about)
        path = Path(about)
        here = not path.is_absolute()  # the server stands in an empty folder
        assert here or any(path.is_relative_to(folder) for folder in own), (event, about)
        assert path not in app.canaries


def nested(file: Any, key: str) -> list[Any]:
    """A file as a checker that looks at the outermost object alone would miss it."""
    two = {"path": "", key: file}
    return [file, {key: file}, two, {"path": "", key: two}, {key: [file]}, {"path": "", key: [{key: file}]}]


KEYS = ("path", "serial", "ids", "control")


def test_no_event_reads_a_file_that_its_data_names(app: Watched) -> None:
    wrong = [data for key in KEYS for data in nested({"path": str(app.canaries[0]), **FILE}, key)]
    for event in app.events:
        for data in wrong if event["backend_fn"] else wrong[:1]:
            answer = app.call(event, event_data=data)
            assert 400 <= answer.status_code < 500, (event["api_name"], data, answer.text)
            assert CANARY not in answer.text and "gradio_api/file=" not in answer.text
            assert answer.json()["error"]


def test_no_input_of_an_event_is_a_file(app: Watched) -> None:
    file = {"path": str(app.canaries[1]), **FILE}
    for event in app.events:
        for place in range(len(event["inputs"])):
            for value in (file, {"path": "", "value": [file]}):
                data = [app.values.get(part) for part in event["inputs"]]
                answer = app.call(event, data=[*data[:place], value, *data[place + 1 :]])
                assert 400 <= answer.status_code < 500, (event["api_name"], place, answer.text)


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_is_fetched_and_no_other_file_is_taken(app: Watched, path: str) -> None:
    file = {"path": path, **FILE}
    for field in ("image", "mask", "prompt", "loras", "controls"):
        for value in (file, [file], file | {"url": path}, [{"net": "pocket-canny", "image": file}]):
            answer = app.generate(**{field: value})
            assert answer.status_code == 422, (field, value, answer.text)
            by_name = app.client.post("/gradio_api/call/v2/generate", json={field: value})
            assert by_name.status_code == 422, (field, value, by_name.text)


def test_a_link_in_a_text_is_text(app: Watched) -> None:
    files, request = made(app, prompt="http://canary-outbound.invalid/a.png", steps=1, width=64, height=64)
    assert files and request["prompt"] == "http://canary-outbound.invalid/a.png"


def test_the_url_beside_an_upload_is_not_looked_at(app: Watched) -> None:
    """gradio's own client for browsers sends the server's address there."""
    picture = (ROOT / "ui/assets/screenshot.png").read_bytes()
    (path,) = app.client.post("/gradio_api/upload", files={"files": ("a.png", picture)}).json()
    file = {"path": path, "url": "http://canary-outbound.invalid/a.png", "orig_name": "a.png", **FILE}
    files, request = made(app, image=file, strength=0.1, steps=10, width=64, height=64)
    assert files and request["image"].startswith("sha256:")


def made(app: Watched, **fields: Any) -> tuple[list[Any], dict[str, Any]]:
    """What /generate returns by plain HTTP."""
    event = app.client.post("/gradio_api/call/v2/generate", json=fields).json()["event_id"]
    with app.client.stream("GET", f"/gradio_api/call/generate/{event}") as stream:
        data = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    files, request = data[-1]
    return files, request


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([2**70, 10**400, "\ud800", "\0", "16:9"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "self", "meta", "url", "__type__", "x"]), inner)
    ),
    max_leaves=8,
)
PATIENT = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def told(answer: httpx.Response) -> None:
    """An answer says what went wrong, if something did."""
    assert answer.status_code < 500, answer.text
    assert answer.is_success or answer.text != "null"
    assert "null" not in answer.text or answer.is_success or answer.json()["error"]


@PATIENT
@given(st.data())
def test_whatever_an_event_is_sent_it_answers_in_words(app: Watched, data: st.DataObject) -> None:
    event = data.draw(st.sampled_from([event for event in app.events if not event["queue"]]), "event")
    inputs = [app.values.get(part) for part in event["inputs"]]
    for place in data.draw(st.sets(st.integers(0, len(inputs) - 1), max_size=3)) if inputs else ():
        inputs[place] = data.draw(ODD)
    body = {"data": inputs, "fn_index": event["id"], "event_data": data.draw(ODD), "session_hash": "s"}
    answer = app.client.post("/gradio_api/run/predict", content=json.dumps(body))
    told(answer)


@PATIENT
@given(st.data())
def test_whatever_a_route_is_sent_it_answers_in_words(app: Watched, data: st.DataObject) -> None:
    routes = ["run/predict", "run/x", "api/generate", "queue/join", "call/generate", "call/x", "call/v2/generate"]
    route = data.draw(st.sampled_from([*routes, "call/v2/plan", "cancel", "reset", "upload", "component_server"]))
    names = st.sampled_from(
        ["data", "fn_index", "session_hash", "event_data", "event_id", "trigger_id", "prompt", "x"]
    )
    body = data.draw(ODD | st.dictionaries(names, ODD))
    told(app.client.post(f"/gradio_api/{route}", content=json.dumps(body)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b"[" * 200_000,
        b'{"data": ' + b"9" * 9000 + b"}",
        b"\xff\xfe",
        b'{"data":[]}' * 2,
        b'{"\\ud800": 1}',
        b'{"data": [{"\\ud800": 1}]}',
    ],
)
def test_what_is_no_json_is_refused_in_words(app: Watched, body: bytes) -> None:
    for route in ("run/predict", "queue/join", "call/generate", "call/v2/generate", "cancel", "reset"):
        answer = app.client.post(f"/gradio_api/{route}", content=body)
        assert answer.status_code in (413, 422), (route, answer.text)


@pytest.mark.parametrize("name", ["follow_model", "match"])
def test_what_no_answer_could_hold_is_refused(app: Watched, name: str) -> None:
    (event,) = [event for event in app.events if event["api_name"] == name]
    data = [app.values.get(part) for part in event["inputs"]]
    for place in range(len(data)):
        for value in (2**64, 10**400, "\ud800", ["\ud800"]):
            answer = app.call(event, data=[*data[:place], value, *data[place + 1 :]])
            assert answer.status_code == 422, (place, value, answer.text)


def test_nothing_of_what_was_sent_is_written_to_the_log(app: Watched) -> None:
    """gradio warns of values that it does not know, and Python keeps each such text for good."""
    for event in app.events:
        data = [app.values.get(part) for part in event["inputs"]]
        for place in () if event["queue"] else range(len(data)):
            app.call(event, data=[*data[:place], CANARY, *data[place + 1 :]])
    assert CANARY not in (app.folder / "log").read_text("utf-8")


def test_how_much_may_be_sent_depends_on_the_route(app: Watched) -> None:
    def status(route: str, size: int) -> int:
        return app.client.post(route, content=b" " * size).status_code

    assert status("/gradio_api/queue/join", 2**20) == 422
    assert status("/gradio_api/queue/join", 2**20 + 1) == 413
    assert status("/gradio_api/cancel", 2**16) == 422
    assert status("/gradio_api/cancel", 2**16 + 1) == 413
    assert status("/pictures.zip", 2**16 + 1) == 413


CLOSED = [
    "/gradio_api/component_server",
    "/gradio_api/deep_link?session_hash=s",
    "/gradio_api/file/https://canary-outbound.invalid/",
    "/gradio_api/file=http://canary-outbound.invalid/",
    "/gradio_api/proxy=https://a.hf.space/",
    "/gradio_api/process_recording",
    "/gradio_api/vibe-code/",
    "/gradio_api/stream/x",
    "/gradio_api/runs",
    "/gradio_api/token",
    "/gradio_api/dev/reload",
    "/gradio_api/profiling/traces",
    "/custom_component/x/client/component/index.js",
    "/monitoring/summary",
    "/login",
    "/login/",
    "/login/huggingface",
    "/logout",
    "/docs",
    "/openapi.json",
    "//gradio_api/info",
]


@pytest.mark.parametrize("path", CLOSED)
def test_what_is_not_on_the_list_of_open_ways_is_closed(app: Watched, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert app.client.request(method, path).status_code in (404, 405), method


def test_a_file_is_served_only_from_the_uploads(app: Watched) -> None:
    for path in [*map(str, app.canaries), "/etc/passwd", str(app.folder / "data" / "history.sqlite")]:
        answer = app.client.get(f"/gradio_api/file={path}")
        assert answer.status_code in (403, 404) and CANARY not in answer.text
