"""History, PNG info and presets as a person meets them: the real page, server, queue and history, a real browser."""

from __future__ import annotations

import io
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, Locator, Page, Route, expect
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from core.engine import Engine, LocalRunner
from core.events import Finished
from core.jobs.history import History
from core.jobs.queue import JobQueue
from core.request.generation import GenerationRequest
from core.request.units import Hires
from core.settings import Settings
from tests.browser import open_page, visit
from tests.test_app import free_port
from tests.ui.create.test_browser import HOSTILE
from ui.app import THEME, build_page
from ui.server.archive import zip_route
from ui.server.serving import running

pytestmark = [  # gradio's own, of pandas
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
RESOLVED = GenerationRequest(
    prompt="a red circle",
    checkpoint="pocket",
    sampler="DDIM",
    guidance_scale=4.0,
    width=64,
    height=64,
    seed=1,
    steps=2,
)
A1111 = """a lighthouse, dusk
Negative prompt: people
Steps: 17, Sampler: Euler a, CFG scale: 6.5, Seed: 42, Size: 320x256, Model: unheard-of, Face restoration: GFPGAN"""


@dataclass(frozen=True)
class Studio:
    url: str
    history: History
    queue: JobQueue
    data: Path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server with 68 pictures, newest first: hostile, of another model, from a picture, a favourite, 64 alike."""
    data = tmp_path_factory.mktemp("data")
    settings = Settings(port=free_port(), data=data)
    (data / "history.sqlite").write_bytes(b"damaged" * 1000)
    (data / "presets").mkdir()
    (data / "presets" / "styles.yaml").write_text("Broken:\n  promt: typo\n")
    with closing(History(data)) as history:
        for batch in range(4):
            add(history, RESOLVED.replace(seed=batch * 100, batch_size=16))
        favourite = add(history, RESOLVED.replace(prompt="two GREEN trees", negative_prompt="snow", seed=2**64 - 1))
        history.favourite(favourite, "local", True)
        add(history, RESOLVED.replace(prompt="from a picture", image=Image.new("RGB", (64, 64)), strength=1.0))
        add(history, RESOLVED.replace(prompt="another model", checkpoint="gone"))
        add(history, RESOLVED.replace(prompt=HOSTILE))
        engine = Engine(settings)
        with closing(JobQueue(LocalRunner(engine), history, settings.limits)) as queue:
            page = build_page(engine, queue, history)
            with running(page, engine, queue, history, theme=THEME) as server:
                yield Studio(server.url, history, queue, data)


@pytest.fixture(scope="module")
def app_url(studio: Studio) -> str:
    return studio.url


def add(history: History, request: GenerationRequest) -> str:
    """A done job of `request`; returns its first picture's id."""
    job = history.add(request, "local")
    history.start(job.id)
    colours = [(40 * k % 256, 90, 160) for k in range(request.batch_size)]
    images = [Image.new("RGB", (64, 64), colour) for colour in colours]
    return history.save(job.id, "local", Finished(images, request, {"torch": "0"}), 1.0)[0]


@pytest.fixture
def gallery(page: Page) -> Locator:
    page.get_by_role("tab", name="History").click()
    expect(tiles(page).first).to_be_visible()
    return page.locator("#gallery")


def tiles(page: Page) -> Locator:
    return page.locator("#gallery [role=option]")


def chosen(page: Page) -> list[int]:
    """The places of the chosen tiles."""
    states = tiles(page).evaluate_all("all => all.map(one => one.ariaSelected)")
    return [place for place, state in enumerate(states) if state == "true"]


def png(**texts: str) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (16, 16)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def drop(page: Page, data: bytes) -> Locator:
    """Give a file to the PNG info page."""
    page.get_by_role("tab", name="PNG info").click()
    page.locator("#info input").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": data})
    return page.locator("#info")


def test_what_the_history_found_at_the_start_is_told_once(page: Page) -> None:
    toast = page.get_by_test_id("toast-text")
    expect(toast).to_contain_text("The history could not be read.")
    page.get_by_test_id("toast-close").click()
    expect(toast).to_be_hidden()
    page.reload(wait_until="domcontentloaded")
    expect(page.locator("#machine b")).not_to_be_empty()
    expect(toast).to_be_hidden()


# History


def test_only_a_page_of_pictures_is_read_and_the_rest_by_scrolling(page: Page, gallery: Locator) -> None:
    expect(gallery.locator(".count")).to_have_text("60+")
    assert tiles(page).count() == 60
    tiles(page).last.scroll_into_view_if_needed()
    expect(gallery.locator(".count")).to_have_text("68")
    numbers = tiles(page).evaluate_all("all => all.map(one => one.dataset.id)")
    assert len(set(numbers)) == 68


def test_search_and_filters(page: Page, gallery: Locator) -> None:
    tools = gallery.locator(".tools")
    text, checkpoint, task = (tools.locator(f"[name={name}]") for name in ("text", "checkpoint", "task"))
    text.fill("green TWO")
    expect(tiles(page)).to_have_count(1)
    text.fill("no such words")
    expect(gallery.locator(".none")).to_have_text("No picture is like that.")
    text.fill("model")
    expect(tiles(page)).to_have_count(1)
    checkpoint.select_option(label="Pocket")
    expect(tiles(page)).to_have_count(0)
    text.fill("")
    task.select_option(label="Image to image")
    expect(tiles(page)).to_have_count(1)
    task.select_option(label="All tasks")
    tools.get_by_label("Favourites").check()
    expect(tiles(page)).to_have_count(1)


def test_text_from_people_is_never_markup(page: Page, gallery: Locator) -> None:
    tiles(page).first.click()
    assert gallery.locator(".prompt").inner_text() == HOSTILE
    gallery.get_by_role("searchbox").fill(HOSTILE)
    expect(tiles(page)).to_have_count(1)
    info = drop(page, png(parameters=f"{HOSTILE}\nSteps: 5, {HOSTILE}: {HOSTILE}", comment=HOSTILE))
    expect(info.locator(".prompt")).to_have_text(HOSTILE)
    info.get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value(HOSTILE)
    assert page.evaluate("window.hit") is None


def test_choosing_with_mouse_and_keyboard(page: Page, gallery: Locator) -> None:
    tiles(page).nth(1).click()
    assert chosen(page) == [1]
    tiles(page).nth(3).click(modifiers=["Control"])
    assert chosen(page) == [1, 3]
    tiles(page).nth(5).click(modifiers=["Shift"])
    assert chosen(page) == [3, 4, 5]
    page.keyboard.press("ArrowRight")
    assert chosen(page) == [6]
    page.keyboard.press("Shift+ArrowRight")
    assert chosen(page) == [6, 7]
    page.keyboard.press("Control+ArrowLeft")
    page.keyboard.press("Space")
    assert chosen(page) == [7]
    page.keyboard.press("Control+a")
    assert len(chosen(page)) == 60
    page.keyboard.press("Escape")
    assert chosen(page) == []
    page.keyboard.press("Home")
    assert chosen(page) == [0]
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog", name="The picture, large")
    expect(large).to_be_visible()
    before = large.get_by_role("img").get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert chosen(page) == [1] and large.get_by_role("img").get_attribute("src") != before
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()


def test_a_favourite_is_kept(page: Page, gallery: Locator, studio: Studio) -> None:
    tiles(page).nth(10).click()
    id = tiles(page).nth(10).get_attribute("data-id") or ""
    page.keyboard.press("f")
    expect(gallery.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "true")
    assert studio.history.picture(id, "local").favourite
    gallery.get_by_role("button", name="Favourite").click()
    expect(gallery.get_by_role("button", name="Favourite")).to_have_attribute("aria-pressed", "false")
    assert not studio.history.picture(id, "local").favourite


def test_deleting_asks_and_removes_the_files(page: Page, gallery: Locator, studio: Studio) -> None:
    ids = [add(studio.history, RESOLVED.replace(prompt="to be deleted", seed=seed)) for seed in (5, 6)]
    files = [
        file for id in ids for row in [studio.history.picture(id, "local")] for file in (row.path, row.thumbnail)
    ]
    gallery.get_by_role("searchbox").fill("deleted")
    expect(tiles(page)).to_have_count(2)
    tiles(page).first.click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.get_by_role("button", name="Keep").click()
    assert all(file.is_file() for file in files)
    expect(tiles(page)).to_have_count(2)
    gallery.get_by_role("button", name="Delete").click()
    expect(gallery.get_by_role("heading", name="Delete 2 pictures?")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(gallery.locator(".none")).to_have_text("No picture is like that.")
    deadline = time.monotonic() + 10  # rows go before files, and the page may look in between
    while any(file.exists() for file in files) and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert not any(file.exists() for file in files)


def test_a_picture_deleted_by_hand_is_gone_from_the_film(browser: Browser, page: Page, studio: Studio) -> None:
    source = page.locator("#stage .film li img").first.get_attribute("src") or ""
    thumbnail = studio.history.picture(source.split("/")[1], "local").thumbnail
    away = thumbnail.rename(thumbnail.with_suffix(".away"))
    with visit(browser, studio.url) as other:
        expect(other.locator("#stage .film li").first).to_have_text("gone")
    away.rename(thumbnail)


def test_downloads_of_one_and_of_many(page: Page, gallery: Locator, studio: Studio) -> None:
    tiles(page).nth(2).click()
    with page.expect_download() as one:
        gallery.get_by_role("link", name="Download").click()
    row = studio.history.picture(tiles(page).nth(2).get_attribute("data-id") or "", "local")
    assert one.value.path().read_bytes() == row.path.read_bytes()
    tiles(page).nth(4).click(modifiers=["Shift"])
    with page.expect_download() as many:
        gallery.get_by_role("button", name="Download zip").click()
    with zipfile.ZipFile(many.value.path()) as archive:
        assert len(archive.namelist()) == 3
        assert archive.read(f"darkroom-{row.id}.png") == row.path.read_bytes()


def test_two_pictures_are_compared(page: Page, gallery: Locator) -> None:
    tiles(page).nth(4).click()
    expect(gallery.get_by_role("button", name="Compare")).to_be_hidden()
    tiles(page).nth(6).click(modifiers=["Control"])
    gallery.get_by_role("button", name="Compare").click()
    dialog = page.get_by_role("dialog", name="Compare two pictures")
    pictures = dialog.get_by_test_id("imageslider-image")
    expect(pictures).to_have_count(2)
    wanted = {f"pictures/{tiles(page).nth(place).get_attribute('data-id')}" for place in (4, 6)}
    assert {pictures.nth(k).get_attribute("src") for k in (0, 1)} == wanted
    handle = dialog.locator(".outer")
    before = handle.bounding_box()
    dialog.get_by_role("slider").press("Home")
    expect(handle).not_to_have_attribute("style", re.compile(f"{before and before['x']}px"))
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


def test_a_result_is_upscaled_and_seen_beside_what_it_was(page: Page, gallery: Locator, studio: Studio) -> None:
    tiles(page).nth(4).click()
    id = tiles(page).nth(4).get_attribute("data-id") or ""
    expect(gallery.get_by_role("button", name="Before / after")).to_be_hidden()
    gallery.get_by_role("button", name="Upscale 2×").click()
    expect(page.locator("#stage .words span")).to_contain_text("128 × 128 · 1 step ·", timeout=30_000)
    large = studio.history.search("local", limit=1)[0]
    was = studio.history.picture(id, "local")
    assert (large.width, large.height) == (128, 128)
    assert studio.history.request(large.job, "local").seed == was.request.seed + was.index
    page.locator("#stage").get_by_role("button", name="Before / after").click()
    pictures = page.get_by_role("dialog", name="Compare two pictures").get_by_test_id("imageslider-image")
    expect(pictures).to_have_count(2)
    assert [pictures.nth(k).get_attribute("src") for k in (0, 1)] == [
        f"pictures/{large.id}/source",
        f"pictures/{large.id}",
    ]
    before = Image.open(io.BytesIO(page.request.get(f"{page.url}pictures/{large.id}/source").body()))
    assert before.tobytes() == Image.open(io.BytesIO(was.read())).tobytes()


def test_a_second_pass_is_switched_on_in_the_page(page: Page, studio: Studio) -> None:
    page.fill("#field-steps input[type=number]", "2")
    expect(page.locator("#second-pass")).to_be_hidden()
    page.check("#field-hires input")
    page.fill("#field-hires-scale input[type=number]", "1.25")
    page.fill("#field-hires-strength input[type=number]", "0.1")
    page.keyboard.press("Tab")
    expect(page.locator("#dock .plan")).to_contain_text("Hires: Strength: 0.1 is not allowed; use at least 0.5")
    page.fill("#field-hires-steps input[type=number]", "10")
    page.keyboard.press("Tab")
    expect(page.locator("#dock .plan")).to_contain_text("320 × 3202 + 1 steps")
    page.click("#go")
    expect(page.locator("#stage .words span")).to_contain_text("320 × 320 · 3 steps", timeout=30_000)
    made = studio.history.search("local", limit=1)[0]
    assert (made.width, made.request.hires) == (320, Hires(scale=1.25, strength=0.1, steps=10))


def test_settings_and_a_new_seed_from_the_history(page: Page, gallery: Locator) -> None:
    gallery.get_by_role("searchbox").fill("green")
    expect(tiles(page)).to_have_count(1)
    tiles(page).first.click()
    gallery.get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("two GREEN trees")
    expect(page.locator("#field-negative_prompt textarea")).to_have_value("snow")
    expect(page.locator("#field-seed textarea")).to_have_value(str(2**64 - 1))
    page.get_by_role("tab", name="History").click()
    gallery.get_by_role("button", name="New seed").click()
    expect(page.locator("#stage .words b")).to_have_text(re.compile("^Seed "), timeout=30_000)
    page.get_by_role("tab", name="History").click()
    expect(tiles(page)).to_have_count(2)  # it is there without a new search


def test_a_zip_holds_only_the_askers_pictures_and_names_what_is_gone(tmp_path: Path) -> None:
    with closing(History(tmp_path)) as history:
        ids = [add(history, RESOLVED.replace(seed=seed)) for seed in (1, 2)]
        history.picture(ids[1], "local").path.unlink()
        app = Starlette(routes=[zip_route(history)])

        async def owned(scope: Scope, receive: Receive, send: Send) -> None:
            who = dict(scope["headers"])[b"who"].decode()
            await app({**scope, "state": {"owner": who}}, receive, send)

        client = TestClient(owned)

        def ask(who: str, asked: str) -> httpx.Response:
            return client.post("/pictures.zip", data={"ids": asked}, headers={"who": who})

        with zipfile.ZipFile(io.BytesIO(ask("local", " ".join(ids)).content)) as archive:
            assert archive.namelist() == [f"darkroom-{ids[0]}.png", "missing.txt"]
            assert ids[1] in archive.read("missing.txt").decode()
        assert ask("other", ids[0]).status_code == 404
        assert ask("local", f"{ids[0]} unknown").status_code == 404
        assert ask("local", "").status_code == 400


# PNG info


def test_settings_of_another_tool_are_shown_and_used(page: Page) -> None:
    page.fill("#field-width input", "512")
    info = drop(page, png(parameters=A1111))
    expect(info.locator(".source")).to_have_text("Made with A1111")
    expect(info.locator(".settings")).to_contain_text("320 × 256")
    expect(info.locator(".unknown")).to_contain_text("Face restoration")
    expect(info.locator(".missing")).to_contain_text("“unheard-of” is not on this machine")
    expect(info.get_by_role("button", name="Replay")).to_be_hidden()
    info.get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("a lighthouse, dusk")
    expect(page.locator("#field-seed textarea")).to_have_value("42")
    expect(page.locator("#field-width input")).to_have_value("320")
    expect(page.locator("#field-steps input[type=number]")).to_have_value("17")
    expect(page.locator("#field-checkpoint input")).to_have_value(re.compile("Pocket"))


def test_of_two_pictures_the_later_one_counts_however_long_the_first_takes(page: Page) -> None:
    held: list[Route] = []
    page.route("**/upload*", lambda route: route.continue_() if held else held.append(route))
    drop(page, png(parameters="slow\nSteps: 5"))
    info = drop(page, png(parameters="fast\nSteps: 5"))
    expect(info.locator(".prompt")).to_have_text("fast")
    with page.expect_response("**/upload*") as late:
        held[0].continue_()
    late.value.finished()
    page.evaluate("new Promise(requestAnimationFrame)")
    info.get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("fast")
    page.unroute("**/upload*")


def bomb() -> bytes:
    """A small PNG with 64 MB of text."""
    data = b"parameters\0\0" + zlib.compress(b"a" * 2**26)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    whole = png()
    return whole[:33] + chunk + whole[33:]


@pytest.mark.parametrize("data", [b"no picture at all", bomb()], ids=["text", "zTXt bomb"])
def test_a_bad_file_is_refused_in_words(page: Page, data: bytes) -> None:
    info = drop(page, data)
    expect(info.locator(".verdict")).to_contain_text("use a PNG, JPEG or WebP picture with less than 1 MB of text")
    expect(info.locator(".right")).to_be_hidden()
    drop(page, png())
    expect(info.locator(".source")).to_contain_text("nothing about its making")


def test_replay_makes_the_same_picture_again(page: Page, studio: Studio) -> None:
    page.fill("#field-prompt textarea", "a green tree")
    page.fill("#field-steps input[type=number]", "3")
    page.fill("#field-batch_size input[type=number]", "2")
    page.keyboard.press("Tab")
    page.click("#go")
    expect(page.locator("#stage .words b")).to_have_text(re.compile("^Seed "), timeout=30_000)
    second = studio.history.search("local", limit=1)[0]
    assert second.index == 1
    info = drop(page, second.read())
    info.get_by_role("button", name="Replay").click()
    expect(info.locator(".verdict")).to_have_text("Identical: every pixel is the same.", timeout=30_000)
    forged = io.BytesIO()
    texts = PngInfo()
    texts.add_text("darkroom", Image.open(io.BytesIO(second.read())).info["darkroom"])
    Image.new("RGB", (second.width, second.height)).save(forged, "PNG", pnginfo=texts)
    drop(page, forged.getvalue())
    info.get_by_role("button", name="Replay").click()
    expect(info.locator(".verdict")).to_contain_text("Not identical", timeout=30_000)
    expect(info.locator(".verdict")).to_contain_text("Model, versions and machine are the same.")


def test_a_picture_that_began_from_others_replays_and_its_settings_make_it_again(page: Page, studio: Studio) -> None:
    across, down = np.meshgrid(np.arange(110), np.arange(90))
    source = Image.fromarray(np.stack([across, down, across ^ down], axis=2).astype(np.uint8))  # no multiples of 8
    mask = Image.linear_gradient("L").resize(source.size)  # greys: how much may change
    fields = {"image": source, "mask": mask, "strength": 1.0, "mask_feather": 2, "width": None, "height": None}
    job = studio.queue.submit(RESOLVED.replace(prompt="a green tree", **fields), "local")
    (id,) = studio.queue.wait(job.id, "local").pictures.values()
    first = studio.history.picture(id, "local").read()
    info = drop(page, first)
    info.get_by_role("button", name="Replay").click()
    expect(info.locator(".verdict")).to_have_text("Identical: every pixel is the same.", timeout=30_000)
    info.get_by_role("button", name="Use settings").click()
    expect(page.locator("#mode-inpaint-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#dock .plan")).to_contain_text("Inpaint110 × 902 of 2 steps", timeout=30_000)
    page.click("#go")
    expect(page.locator("#stage .words b")).to_have_text("Seed 1", timeout=30_000)
    again = studio.history.search("local", limit=1)[0]
    assert again.id != id
    assert Image.open(io.BytesIO(again.read())).tobytes() == Image.open(io.BytesIO(first)).tobytes()
    page.locator("#stage").get_by_role("button", name="New seed").click()
    expect(page.locator("#stage .words b")).to_have_text(re.compile("^Seed (?!1$)"), timeout=30_000)
    drawn = studio.history.search("local", limit=1)[0]
    assert studio.history.request(drawn.job, "local").mask == mask


# Presets


def test_styles_go_around_the_prompt_that_is_sent(page: Page, studio: Studio) -> None:
    page.fill("#field-prompt textarea", "a boat")
    page.fill("#field-steps input[type=number]", "2")
    page.click("#styles input")
    for name in ("Watercolour", "At sea · pocket model"):
        page.get_by_role("option", name=name).click()
    page.keyboard.press("Escape")
    page.click("#go")
    expect(page.locator("#stage .words b")).to_have_text(re.compile("^Seed "), timeout=30_000)
    request = studio.history.search("local", limit=1)[0].request
    assert request.prompt == "a boat, watercolor painting, wet on wet, soft edges, paper texture on the sea"
    assert request.negative_prompt == "photograph, 3d render, sharp lines"
    assert page.locator("#field-prompt textarea").input_value() == "a boat"
    page.locator("#stage").get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value(request.prompt)
    expect(page.locator("#styles .token")).to_have_count(0)  # or they would go around it once more


def test_settings_fill_the_form(page: Page) -> None:
    page.click("#setting input")
    page.get_by_role("option", name="Draft").click()
    expect(page.locator("#field-steps input[type=number]")).to_have_value("10")
    expect(page.locator("#field-batch_size input[type=number]")).to_have_value("4")
    page.fill("#field-steps input[type=number]", "11")
    page.keyboard.press("Tab")
    expect(page.locator("#setting input")).to_have_value("")


def test_presets_are_saved_and_overwritten_only_when_asked(page: Page, studio: Studio) -> None:
    file = studio.data / "presets" / "settings.yaml"
    save = page.get_by_role("button", name="Save these settings")
    dialog = page.locator("#presets dialog")
    for steps, press in ((33, "Save"), (34, "Overwrite it")):
        page.fill("#field-steps input[type=number]", str(steps))
        page.keyboard.press("Tab")
        save.click()
        dialog.get_by_label("Name").fill("My own")
        dialog.get_by_role("button", name="Save").click()
        if press != "Save":
            expect(dialog.locator(".problem")).to_have_text("“My own” is there already.")
            assert "steps: 33" in file.read_text()
            dialog.get_by_role("button", name=press).click()
        expect(dialog).to_be_hidden()
        assert f"steps: {steps}" in file.read_text()
    save.click()
    dialog.get_by_label("Name").fill("a/b")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.locator(".problem")).to_contain_text("a name without slashes")
    dialog.get_by_role("button", name="Delete My own").click()
    expect(dialog.locator(".own")).to_be_hidden()
    assert "My own" not in file.read_text()


def test_a_broken_preset_is_named(page: Page) -> None:
    expect(page.locator("#presets .problems")).to_contain_text("“Broken” in styles.yaml is skipped.")


# The film


def test_the_film_scrolls_back_through_the_history(browser: Browser, studio: Studio) -> None:
    ids = [add(studio.history, RESOLVED.replace(prompt=f"frame {k:03}")) for k in range(66)]
    studio.history.delete(ids[-1:], "local")  # which tells the queue to look again
    page = browser.new_page()
    open_page(page, studio.url)
    frames = page.locator("#stage .film li")
    expect(frames.first.get_by_role("button")).to_have_accessible_name("Show: frame 064")
    assert frames.count() == 60
    oldest = page.get_by_role("button", name="Show: frame 000", exact=True)
    scroll = "() => { const film = document.querySelector('#stage .film'); film.scrollTop = film.scrollHeight; }"
    page.wait_for_function(
        f"() => {{ ({scroll})(); return document.querySelectorAll('#stage .film li').length > 66; }}"
    )
    names = [
        name for name in frames.locator(".frame").evaluate_all("all => all.map(one => one.title)") if "frame " in name
    ]
    assert names == [f"frame {k:03}" for k in range(64, -1, -1)]
    oldest.click()
    expect(page.locator("#stage .picture")).to_have_attribute("src", f"pictures/{ids[0]}")
    page.get_by_role("tab", name="History").click()
    page.get_by_role("searchbox").fill("frame 000")
    expect(tiles(page)).to_have_count(1)
    tiles(page).first.click()
    page.keyboard.press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("tab", name="Create").click()
    expect(oldest).to_have_count(0)
    page.close()


# Looks


@pytest.mark.parametrize("tab", ["History", "PNG info"])
def test_the_layout_on_a_phone(browser: Browser, app_url: str, tab: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    open_page(page, app_url)
    page.get_by_role("tab", name=tab).click()
    if tab == "History":
        tiles(page).nth(1).tap()
        expect(page.locator("#gallery .card")).to_be_in_viewport()
        heights = page.locator("#gallery .card button:visible").evaluate_all(
            "all => all.map(one => one.offsetHeight)"
        )
        assert min(heights) >= 44
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


def test_rows_are_as_high_as_elsewhere(page: Page, gallery: Locator) -> None:
    tiles(page).first.click()
    parts = gallery.locator(".tools input:visible, .tools select, .actions > *:visible")
    assert set(parts.evaluate_all("all => all.map(one => one.offsetHeight)")) == {32}
