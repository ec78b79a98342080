"""Uploads: through our gate, into gradio's real server, onto a real disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.routes import App
from starlette.testclient import TestClient

from core.settings import Settings
from tests.darkroom import LIMITS
from ui.server.cookies import OWNER_COOKIE, Owners
from ui.server.guard import Guard
from ui.server.uploads import KEEP_SECONDS, Reception

KB = 1024
SHARES = LIMITS.model_copy(
    update={"uploads_per_owner": 300 * KB, "uploads_per_address": 500 * KB, "uploads_in_all": 700 * KB}
)
ANN, BOB = ({OWNER_COOKIE: letter * 43} for letter in "ab")
Visit = Callable[..., TestClient]


@pytest.fixture
def reception() -> Reception:
    return Reception(SHARES)


@pytest.fixture
def visit(tmp_path: Path, reception: Reception, monkeypatch: pytest.MonkeyPatch) -> Visit:
    """A visitor of a Space, with these cookies and from this address."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setenv("SPACE_ID", "a/b")
    with gr.Blocks() as page:
        gr.Textbox()
    settings = Settings(data=tmp_path)
    app = App.create_app(page, app_kwargs={"routes": reception.routes()})
    served = Guard(settings, None, Owners(settings, lambda _: True)).protect(app)

    def visitor(cookies: dict[str, str] | None = None, address: str = "93.184.216.34") -> TestClient:
        proxy, noted = ("10.0.0.1", 5000), {"X-Forwarded-For": address}
        return TestClient(served, "http://localhost:7860", headers=noted, cookies=cookies, client=proxy)

    return visitor


def send(visitor: TestClient, size: int = 100 * KB, name: str = "a.png") -> Any:
    return visitor.post("/gradio_api/upload", files=[("files", (name, os.urandom(size)))])


def sent(visitor: TestClient, size: int = 100 * KB, ago: float = 0) -> Path:
    """Where the upload lies that `visitor` sends, last used some seconds ago."""
    answer = send(visitor, size)
    assert answer.status_code == 200
    path = Path(answer.json()[0])
    os.utime(path, (time.time() - ago,) * 2)
    return path


def status(visitor: TestClient, path: Path) -> int:
    return visitor.get(f"/gradio_api/file={path}").status_code


def test_what_was_sent_with_a_cookie_is_anothers_no_more_than_what_is_not_there(visit: Visit) -> None:
    path = sent(visit(ANN))
    assert visit(ANN).get(f"/gradio_api/file={path}").content == path.read_bytes()
    foreign, unknown = (visit(BOB).get(f"/gradio_api/file={one}") for one in (path, path.with_name("b.png")))
    assert (
        (foreign.status_code, foreign.text) == (unknown.status_code, unknown.text) == (404, "There is no such file.")
    )
    assert status(visit(), path) == 404


def test_the_same_picture_is_each_ones_own(visit: Visit) -> None:
    files = [("files", ("a.png", b"the same"))]
    paths = [visit(cookies).post("/gradio_api/upload", files=files).json()[0] for cookies in (ANN, BOB)]
    assert len(set(paths)) == 2
    assert [status(visit(BOB), Path(path)) for path in paths] == [404, 200]


def test_what_was_sent_without_a_cookie_is_read_by_who_knows_where_it_is(visit: Visit) -> None:
    path = sent(visit())
    token = path.relative_to(os.environ["GRADIO_TEMP_DIR"]).parts[0].split("-")[2]
    assert len(token) == 32  # 128 bits
    assert status(visit(BOB, "93.184.216.35"), path) == 200


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/hostname", "{uploads}", "{uploads}/../secret.png", "{uploads}/secret.png", "a%00b", "x" * 9999],
)
def test_no_other_file_is_sent(visit: Visit, path: str) -> None:
    uploads = sent(visit(ANN)).parents[2]
    for folder in (uploads, uploads.parent):
        (folder / "secret.png").write_bytes(b"secret")
    assert visit(ANN).get(f"/gradio_api/file={path.format(uploads=uploads)}").status_code == 404


def test_only_pictures_are_shown(visit: Visit) -> None:
    for name, kind in (("a.PNG", "inline"), ("a.html", "attachment"), ("a.svg", "attachment")):
        path = send(visit(ANN), 9, name).json()[0]
        assert visit(ANN).get(f"/gradio_api/file={path}").headers["Content-Disposition"].startswith(kind)


def test_nobody_takes_more_than_a_visitors_share(visit: Visit) -> None:
    for _ in range(2):
        sent(visit(ANN))
    refused = send(visit(ANN))
    assert (refused.status_code, "no room" in refused.text) == (507, True)
    assert send(visit(BOB, "93.184.216.35")).status_code == 200


def test_new_cookies_and_none_give_no_larger_share_to_an_address(visit: Visit) -> None:
    answers = [send(visit(cookies)).status_code for cookies in (ANN, BOB, None, {OWNER_COOKIE: "c" * 43}, None)]
    assert answers == [200, 200, 200, 200, 507]
    assert send(visit(None, "93.184.216.35")).status_code == 200


def test_the_oldest_make_way_first_of_all_the_visitors_own(visit: Visit) -> None:
    oldest = sent(visit(BOB, "93.184.216.35"), ago=3 * KEEP_SECONDS)
    own = [sent(visit(ANN), ago=ago) for ago in (KEEP_SECONDS * 1.5, KEEP_SECONDS * 2)]
    sent(visit(ANN))
    assert [path.exists() for path in (oldest, *own)] == [True, True, False]
    others = [sent(visit(None, "93.184.216.36"), 150 * KB) for _ in range(3)]
    assert [path.exists() for path in (oldest, own[0], *others)] == [False, True, True, True, True]


def test_what_a_form_has_looked_at_lately_stays(visit: Visit) -> None:
    shown, forgotten = (sent(visit(ANN), ago=2 * KEEP_SECONDS) for _ in range(2))
    assert status(visit(ANN), shown) == 200
    sent(visit(ANN))
    assert (shown.exists(), forgotten.exists()) == (True, False)
    assert send(visit(ANN)).status_code == 507


def test_a_visitors_share_goes_along_to_another_address(visit: Visit) -> None:
    for last in (34, 35):
        sent(visit(ANN, f"93.184.216.{last}"))
    assert send(visit(ANN, "93.184.216.36")).status_code == 507


def test_what_nobody_uses_for_a_day_goes(visit: Visit, reception: Reception) -> None:
    day = 86400
    old, used = sent(visit(ANN), ago=day + 1), sent(visit(), ago=day - 9)
    reception.expire()
    assert (old.exists(), used.exists()) == (False, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_told_and_nothing_half_sent_stays(
    visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def on_a_full_disk(delete: bool, dir: Path) -> Any:
        (dir / "half.png").symlink_to("/dev/full")
        opened.append((dir / "half.png").open("wb"))
        return opened[0]

    monkeypatch.setattr("gradio.route_utils.NamedTemporaryFile", on_a_full_disk)
    answer = send(visit(ANN))
    with suppress(OSError):
        opened[0].close()
    assert (answer.status_code, answer.text) == (507, "The data folder is full; it needs more room.")
    assert not list((tmp_path / "uploads").iterdir())


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ({"files": {"other": ("a.png", b"x")}}, 200),  # gradio reads no other field
        ({"data": {"files": "text"}, "files": {"other": ("a.png", b"x")}}, 400),
        ({"json": {}}, 400),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=" + "-" * 300}}, 400),
        ({"files": {"files": ("a.png", bytes(LIMITS.upload_bytes + 1))}}, 507),
    ],
)
def test_of_what_is_no_upload_nothing_stays(visit: Visit, tmp_path: Path, body: dict[str, Any], refused: int) -> None:
    assert visit(ANN).post("/gradio_api/upload", **body).status_code == refused
    assert not list((tmp_path / "uploads").glob("*"))
