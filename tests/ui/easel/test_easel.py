"""Image to image and inpainting as a person does them: a picture on the easel, a mask painted by mouse and finger."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import open_page
from tests.ui.create.test_browser import wait_for_status

SOURCE = "#stage .easel [name=pictures]"
PLAN = "#dock .plan"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of a size that is no multiple of 8, different at every place."""
    across, down = np.meshgrid(np.arange(150), np.arange(130))
    Image.fromarray(np.stack([across, down, across ^ down], axis=2).astype(np.uint8)).save(tmp_path / "source.png")
    return tmp_path / "source.png"


def put_on_easel(page: Page, task: str, *paths: Path) -> Locator:
    """Give these files to the easel; returns its layer for the task."""
    page.click(f"#mode-{task}-button")
    page.set_input_files(SOURCE, paths)
    wait_for_form(page, "image")
    return page.locator(f"#stage .easel canvas.{'mask' if task == 'inpaint' else 'sketch'}")


def wait_for_form(page: Page, field: str) -> None:
    page.wait_for_function(f"document.querySelector('#form-{field} textarea').value")


def painted(layer: Locator) -> int:
    """How many of the layer's pixels are seen."""
    data = layer.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    return int(np.count_nonzero(data[3::4]))


def in_form(page: Page, field: str) -> list[str]:
    """Where the server has the form's pictures, once all are uploaded."""
    page.evaluate("darkroom.settled()")
    return page.locator(f"#form-{field} textarea").input_value().split()


def size_in_form(page: Page) -> tuple[int, int]:
    with Image.open(in_form(page, "image")[0]) as image:
        return image.size


def paint(layer: Locator, across: float = 0.5) -> None:
    box = layer.bounding_box()
    assert box
    layer.page.mouse.click(box["x"] + box["width"] * across, box["y"] + box["height"] / 2)


def result(page: Page) -> np.ndarray:
    url = page.locator("#stage .picture").get_attribute("src") or ""
    return np.asarray(Image.open(io.BytesIO(page.request.get(f"{page.url}{url}").body())))


def run(page: Page, steps: int = 4) -> np.ndarray:
    page.fill("#field-prompt textarea", "a red circle on a blue background")
    page.fill("#field-seed textarea", "7")
    page.fill("#field-steps input[type=number]", str(steps))
    page.keyboard.press("Tab")
    page.click("#go")
    wait_for_status(page, "Seed 7$")
    return result(page)


def test_a_mask_painted_with_the_mouse_changes_what_it_covers_and_no_other_pixel(page: Page, picture: Path) -> None:
    mask = put_on_easel(page, "inpaint", picture)
    box = mask.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=4)
    page.mouse.up()
    changed, source = run(page), np.asarray(Image.open(picture))  # at once: Generate waits for the mask
    assert changed.shape == source.shape
    differs = (changed != source).any(axis=2)
    scale = 150 / box["width"]
    inner, outer = np.zeros_like(differs), np.ones_like(differs)
    radius, half, (cy, cx) = 20 * scale, 40 * scale, (65, 75)
    inner[round(cy - radius / 2) : round(cy + radius / 2), round(cx - half) : round(cx + half)] = True
    reach = radius + 8 + 4 + 2  # the brush, a latent, the feather, rounding
    outer[int(cy - reach) : int(cy + reach) + 1, int(cx - half - reach) : int(cx + half + reach) + 1] = False
    assert differs[inner].mean() > 0.9
    assert not differs[outer].any()


def test_a_finger_paints_and_undo_takes_it_back(browser: Browser, app_url: str, picture: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    open_page(page, app_url)
    mask = put_on_easel(page, "inpaint", picture)
    expect(page.locator(PLAN)).to_contain_text("Mask: missing")
    mask.scroll_into_view_if_needed()
    box = mask.bounding_box()
    assert box
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator(PLAN)).to_contain_text("Inpaint")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#stage [data-does=undo]").tap()
    expect(page.locator(PLAN)).to_contain_text("Mask: missing")
    context.close()


def test_two_fingers_paint_nothing_and_move_the_board(browser: Browser, app_url: str, picture: Path) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page, send = context.new_page(), "Input.dispatchTouchEvent"
    fingers = context.new_cdp_session(page)
    open_page(page, app_url)
    mask, board = put_on_easel(page, "inpaint", picture), page.locator("#stage .easel .board")
    for _ in range(3):
        page.locator("#stage [data-does=larger]").tap()
    page.evaluate("scrollTo(0, 0)")
    box = board.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers.send(send, {"type": "touchStart", "touchPoints": [{"x": x, "y": y, "id": 0}]})
    assert painted(mask)
    for by in range(0, 80, 8):
        points = [{"x": x - by, "y": y, "id": 0}, {"x": x + 60 - by, "y": y - by, "id": 1}]
        fingers.send(send, {"type": "touchMove" if by else "touchStart", "touchPoints": points})
    fingers.send(send, {"type": "touchEnd", "touchPoints": []})
    page.wait_for_function("document.querySelector('#stage .easel .board').scrollLeft === 72")
    assert board.evaluate("node => node.scrollTop") == 72
    assert not painted(mask)
    expect(page.locator("#stage [data-does=undo]")).to_be_disabled()
    page.touchscreen.tap(x, y)  # the next finger paints again
    assert painted(mask)
    context.close()


def test_the_line_over_generate_counts_the_steps_and_says_how_the_size_was_rounded(page: Page, picture: Path) -> None:
    put_on_easel(page, "image", picture)
    expect(page.locator(PLAN)).to_contain_text("Image to image")
    expect(page.locator(PLAN)).to_contain_text("144 × 128, of 150 × 130")
    expect(page.locator(PLAN)).to_contain_text("15 of 20 steps")
    page.click("#mode-control-button")  # an addition: the task stays
    expect(page.locator(PLAN)).to_contain_text("Image to image")
    page.click("#mode-text-button")
    expect(page.locator(PLAN)).to_contain_text("Text to image")
    expect(page.locator("#stage .room")).to_be_visible()


def test_a_result_is_sent_to_the_easel_and_extended(page: Page) -> None:
    drawn = run(page)
    page.click("#stage .actions [data-does=inpaint]")
    expect(page.locator("#mode-inpaint-button")).to_have_attribute("aria-selected", "true")
    page.click("#extend button")
    page.fill("#field-outpaint-right input[type=number]", "64")
    page.keyboard.press("Tab")
    expect(page.locator(PLAN)).to_contain_text(f"{drawn.shape[1] + 64} × {drawn.shape[0]}")
    layers, frame = (page.locator(f"#stage .easel .{part}").bounding_box() for part in ("layers", "frame"))
    assert layers and frame
    assert layers["width"] / frame["width"] == pytest.approx(256 / 320, abs=0.01)
    page.click("#redraw label:has-text('Masked area')")
    expect(page.locator("#stage .easel .region")).to_be_visible()


def test_colours_painted_on_an_empty_canvas_are_the_source(page: Page) -> None:
    page.click("#mode-image-button")
    page.click("#stage [data-does=blank]")
    wait_for_form(page, "image")
    page.fill("#field-strength input[type=number]", "0.25")
    box = page.locator("#stage .easel canvas.sketch").bounding_box()
    assert box
    page.evaluate("document.querySelector('#stage .easel [name=size]').value = 200")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    drawn = run(page, steps=8)
    red, _, blue = drawn[128, 128].astype(int)
    assert red > blue + 60  # the brush's own red, where the middle was white
    assert drawn[8, 8].min() > 150


@pytest.mark.parametrize("data", [b"", b"MZ not a picture"])
def test_what_is_no_picture_is_refused_by_its_name(page: Page, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    page.click("#mode-image-button")
    page.set_input_files(SOURCE, tmp_path / "a.png")
    words = "a.png is no picture that can be read: PNG, JPEG or WebP"
    expect(page.locator("#stage .easel .drop .hint").first).to_have_text(words)
    expect(page.locator("#stage .easel .layers img")).to_be_hidden()
    assert page.locator("#form-image textarea").input_value() == ""


def test_what_a_browser_can_read_and_the_server_does_not_is_refused_by_its_label(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png", "BMP")
    put_on_easel(page, "image", tmp_path / "a.png")
    expect(page.locator(PLAN)).to_have_text(
        "Source picture: “this file” is not allowed; use a PNG, JPEG or WebP picture."
    )


def test_a_page_that_is_loaded_anew_has_its_picture_mask_and_styles(page: Page, picture: Path, app_url: str) -> None:
    mask = put_on_easel(page, "inpaint", picture)
    paint(mask)
    wait_for_form(page, "mask")
    before = painted(mask)
    page.locator("#styles input").fill("Watercolour")
    page.get_by_role("option", name="Watercolour").click()
    open_page(page, app_url)
    wait_for_form(page, "mask")
    expect(page.get_by_role("tab", name="Inpaint")).to_have_attribute("aria-selected", "true")
    assert before / 2 < painted(mask) <= before  # without the brush's smooth rim, which is no wish for half a change
    expect(page.locator(PLAN)).to_contain_text("Inpaint")
    expect(page.locator("#styles")).to_contain_text("Watercolour")


def test_what_is_done_with_mask_and_picture_comes_back_with_them(page: Page, picture: Path, app_url: str) -> None:
    paint(put_on_easel(page, "inpaint", picture))
    page.get_by_label("Invert mask").check()
    page.get_by_label("Noise").check()
    page.get_by_label("Masked area").check()
    page.get_by_role("button", name="Extend the picture").click()
    page.fill("#field-outpaint-right input[type=number]", "64")
    page.keyboard.press("Tab")
    expect(page.locator(PLAN)).to_contain_text("214 × 130")
    open_page(page, app_url)
    wait_for_form(page, "mask")
    for label in ("Invert mask", "Noise", "Masked area"):
        expect(page.get_by_label(label)).to_be_checked()
    expect(page.locator(PLAN)).to_contain_text("214 × 130")


def test_a_photo_with_more_pixels_than_the_server_takes_is_made_smaller(page: Page, tmp_path: Path) -> None:
    Image.new("RGB", (6000, 3000), "teal").save(tmp_path / "photo.png")
    put_on_easel(page, "image", tmp_path / "photo.png")
    expect(page.locator("#stage .easel .frame")).to_have_attribute("data-more", "made smaller, to 5792 × 2896")
    assert size_in_form(page) == (5792, 2896)


def drop(page: Page, place: str, file: Path) -> None:
    data = page.evaluate_handle(
        """([bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            return data;
        }""",
        [list(file.read_bytes())],
    )
    for kind in ("dragover", "drop"):
        page.dispatch_event(place, kind, {"dataTransfer": data})


def test_a_picture_dropped_anywhere_is_taken_to_begin_from_or_read(page: Page, picture: Path) -> None:
    page.click("#mode-image-button")
    page.click("#stage [data-look=picture]")
    drop(page, "#dock", picture)
    assert size_in_form(page) == (150, 130)
    page.click("#mode-text-button")
    drop(page, "#field-prompt textarea", picture)
    expect(page.locator("#info .source")).to_have_text("It says nothing about its making that Darkroom can read.")
    expect(page.get_by_role("tab", name="PNG info")).to_have_attribute("aria-selected", "true")


def test_letters_are_shortcuts_though_a_slider_was_moved(page: Page, picture: Path) -> None:
    put_on_easel(page, "inpaint", picture)
    page.get_by_label("Size of the brush").press("ArrowRight")
    page.keyboard.press("e")
    expect(page.get_by_role("button", name="Eraser")).to_have_attribute("aria-pressed", "true")


def test_a_size_of_ones_own_takes_the_place_of_the_pictures(page: Page, picture: Path) -> None:
    put_on_easel(page, "image", picture)
    expect(page.locator(PLAN)).to_contain_text("144 × 128")
    page.fill("#field-width input", "320")
    page.keyboard.press("Tab")
    expect(page.locator(PLAN)).to_contain_text("320 × 256")
    expect(page.get_by_label("Crop")).to_be_checked()


def test_a_stroke_on_the_first_of_two_pictures_leaves_the_second(page: Page, picture: Path, tmp_path: Path) -> None:
    Image.new("RGB", (150, 130)).save(tmp_path / "second.png")
    sketch = put_on_easel(page, "image", picture, tmp_path / "second.png")
    first, second = in_form(page, "image")
    paint(sketch)
    stroked, other = in_form(page, "image")
    assert stroked != first
    assert other == second
    expect(page.locator(PLAN)).to_contain_text("2 pictures")


def test_what_is_seen_of_the_colours_is_sent_though_undo_forgot_them(page: Page, picture: Path) -> None:
    sketch = put_on_easel(page, "image", picture)
    bare = in_form(page, "image")
    undo = page.locator("#stage [data-does=undo]")
    for stroke in range(22):
        paint(sketch, stroke / 22)
    while undo.is_enabled():
        undo.click()
    assert painted(sketch)
    assert in_form(page, "image") != bare
    page.click("#stage [data-does=clear]")
    assert in_form(page, "image") == bare


def test_undo_brings_the_greys_of_a_mask_back(page: Page, picture: Path, tmp_path: Path) -> None:
    put_on_easel(page, "inpaint", picture)
    Image.linear_gradient("L").resize((150, 130)).save(tmp_path / "mask.png")
    page.set_input_files("#stage .easel [name=mask]", tmp_path / "mask.png")
    wait_for_form(page, "mask")
    (soft,) = in_form(page, "mask")
    assert len(np.unique(np.asarray(Image.open(soft).convert("L")))) > 100
    page.click("#stage [data-does=clear]")
    assert in_form(page, "mask") == []
    page.click("#stage [data-does=undo]")
    assert in_form(page, "mask") == [soft]


def test_what_could_not_be_sent_is_told_and_generate_tries_again(page: Page, picture: Path) -> None:
    mask, words = put_on_easel(page, "inpaint", picture), page.locator("#stage .words b")
    page.route("**/upload*", lambda route: route.abort())
    paint(mask)
    expect(words).to_have_text("Not sent")
    page.click("#stage [data-look=picture]")
    page.click("#go")
    expect(mask).to_be_visible()
    expect(words).to_have_text("Not sent")
    page.unroute("**/upload*")
    assert (run(page) != np.asarray(Image.open(picture))).any()


CAMERA = """() => {
  window.streams = [];
  navigator.mediaDevices.getUserMedia = async () => {
    const canvas = document.createElement('canvas');
    canvas.getContext('2d').fillRect(0, 0, 300, 150);
    streams.push(canvas.captureStream());
    return streams.at(-1);
  };
}"""
CLOSED = "streams.length && streams.every(stream => stream.getTracks().every(track => track.readyState === 'ended'))"


def open_camera(page: Page) -> Locator:
    page.click("#create-button")
    page.click("#mode-image-button")
    page.click("#stage [data-look=source]")
    page.evaluate(CAMERA)
    page.click("#stage [data-does=camera]")
    video = page.locator("#stage .easel video")
    expect(video).to_be_visible()
    return video


def test_the_camera_takes_the_source_picture(page: Page) -> None:
    video = open_camera(page)
    page.wait_for_function("document.querySelector('#stage .easel video').videoWidth")
    video.click()
    wait_for_form(page, "image")
    (taken,) = in_form(page, "image")
    assert np.asarray(Image.open(taken)).shape[:2] == (150, 300)
    expect(video).to_be_hidden()
    assert page.evaluate(CLOSED)


def test_the_camera_is_closed_by_whatever_leaves_it(page: Page, picture: Path) -> None:
    for button in ("#mode-text-button", "#stage [data-look=picture]", "#history-button"):
        video = open_camera(page)
        page.click(button)
        page.wait_for_function(CLOSED)
    video = open_camera(page)
    page.evaluate("document.querySelector('#stage [data-does=camera]').click()")  # once more, before it was there
    page.wait_for_function("streams.length === 2 && streams[0].getTracks()[0].readyState === 'ended'")
    page.set_input_files(SOURCE, picture)
    page.wait_for_function(CLOSED)
    expect(video).to_be_hidden()


def test_escape_closes_the_camera_and_stops_no_run(page: Page) -> None:
    words = page.locator("#stage .words b")
    page.fill("#field-steps input[type=number]", "150")
    page.keyboard.press("Tab")
    page.click("#go")
    wait_for_status(page, "Step")
    video = open_camera(page)
    page.keyboard.press("Escape")
    expect(video).to_be_hidden()
    assert page.evaluate(CLOSED)
    told = words.text_content() or ""
    for _ in range(3):  # it goes on
        expect(words).not_to_have_text(told)
        told = words.text_content() or ""
        assert told.startswith("Step")
    page.keyboard.press("Escape")
    expect(page.locator("html")).not_to_have_class(re.compile("busy"))
