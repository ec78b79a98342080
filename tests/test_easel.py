"""Image to image and inpainting as a person does them: a picture on the easel, a mask painted by mouse and finger."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import open_page
from tests.test_browser import wait_for_status

SOURCE = "#stage .easel [name=pictures]"
PLAN = "#dock .plan"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of a size that is no multiple of 8, different at every place."""
    across, down = np.meshgrid(np.arange(150), np.arange(130))
    Image.fromarray(np.stack([across, down, across ^ down], axis=2).astype(np.uint8)).save(tmp_path / "source.png")
    return tmp_path / "source.png"


def put_on_easel(page: Page, task: str, path: Path) -> Locator:
    page.click(f"#mode-{task}-button")
    page.set_input_files(SOURCE, path)
    page.wait_for_function("document.querySelector('#form-image textarea').value")
    return page.locator("#stage .easel canvas.mask")


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
    page.wait_for_function("document.querySelector('#form-image textarea').value")
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
def test_what_is_no_picture_is_refused_by_its_label(page: Page, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    put_on_easel(page, "image", tmp_path / "a.png")
    expect(page.locator(PLAN)).to_have_text(
        "Source picture: “this file” is not allowed; use a PNG, JPEG or WebP picture."
    )
