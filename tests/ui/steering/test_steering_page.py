"""The ControlNet tab as a person uses it: a drawing is dropped, its map is seen, the picture follows it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect

from tests.browser import open_page
from tests.control.test_control import BOX, overlap
from tests.ui.easel.test_easel import PLAN, result, run

MAP = "#steering img.map"
CHIP = "#additions li"


@pytest.fixture
def drawing(tmp_path: Path) -> Path:
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).ellipse(BOX, fill=(40, 120, 60))
    picture.save(tmp_path / "drawing.png")
    return tmp_path / "drawing.png"


def put(page: Page, path: Path) -> None:
    page.click("#mode-control-button")
    page.set_input_files("#steering [name=control]", path)
    page.wait_for_selector(f"{MAP}:not([hidden])")


def form(page: Page) -> list[dict[str, Any]]:
    units: list[dict[str, Any]] = json.loads(page.locator("#form-controls textarea").input_value())
    return units


def seen_map(page: Page) -> np.ndarray:
    uri = page.locator(MAP).get_attribute("src") or ""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_a_picture_follows_a_drawing_and_its_settings_come_back(page: Page, drawing: Path) -> None:
    put(page, drawing)
    edges = seen_map(page)[..., 0] > 0
    assert edges[:, BOX[0] - 2 : BOX[0] + 3].any() and not edges[:, BOX[2] + 3 :].any()
    (unit,) = form(page)
    assert (unit["net"], unit["preprocessor"], unit["threshold_a"], unit["threshold_b"]) == (
        "pocket-canny",
        "canny",
        60,
        140,
    )
    expect(page.locator(CHIP)).to_contain_text("ControlNetPocket Canny1.0")
    expect(page.locator("#mode-control-button")).to_have_attribute("data-on", "")
    run(page, steps=6)
    assert overlap(Image.fromarray(result(page)), Image.open(drawing)) > 0.7

    kept = f"{page.url}{page.locator('#stage .picture').get_attribute('src')}/maps"
    assert (
        np.asarray(Image.open(io.BytesIO(page.request.get(f"{kept}/0").body())))[..., 0] > 0
    ).tolist() == edges.tolist()
    assert [page.request.get(f"{kept}/{name}").status for name in ("1", "-1", "x", "9" * 5000)] == [404] * 4

    page.click(f"{CHIP} .close")
    expect(page.locator(CHIP)).to_have_count(0)
    assert form(page) == []
    page.reload(wait_until="domcontentloaded")
    page.locator("#stage .film .frame").first.click()
    page.click("#stage .actions [data-does=use]")
    expect(page.locator(CHIP)).to_contain_text("Pocket Canny")
    page.wait_for_function("JSON.parse(document.querySelector('#form-controls textarea').value)[0].image.path")
    page.click("#mode-control-button")
    page.wait_for_selector(f"{MAP}:not([hidden])")
    assert (seen_map(page)[..., 0] > 0).tolist() == edges.tolist()


def test_units_survive_a_reload(page: Page, drawing: Path) -> None:
    put(page, drawing)
    page.fill("#steering [data-row=weight] [type=number]", "0.5")
    edges, (before,) = seen_map(page), form(page)
    page.reload(wait_until="domcontentloaded")
    expect(page.locator(f"{CHIP} b")).to_have_text("0.5")
    page.wait_for_function("JSON.parse(document.querySelector('#form-controls textarea').value)[0].image.path")
    (unit,) = form(page)
    assert unit | {"image": None} == before | {"image": None}
    page.click("#mode-control-button")
    page.wait_for_selector(f"{MAP}:not([hidden])")
    assert seen_map(page).tolist() == edges.tolist()


def test_all_tabs_are_within_reach_on_a_phone(browser: Browser, app_url: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    open_page(page, app_url)
    boxes = [tab.bounding_box() for tab in page.locator("#modes .tab-container button").all()]
    assert len({box["y"] for box in boxes if box}) == 1
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
    page.tap("#mode-control-button")
    expect(page.locator("#steering [name=net]")).to_have_value("pocket-canny")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    context.close()


def test_thresholds_weight_and_a_second_unit_from_the_canvas(page: Page, drawing: Path) -> None:
    put(page, drawing)
    faint = page.locator(MAP).get_attribute("src")
    page.select_option("#steering [name=preprocessor]", "threshold")
    page.fill("#steering [data-row=weight] [type=number]", "0.5")
    expect(page.locator(MAP)).not_to_have_attribute("src", faint or "")
    expect(page.locator(f"{CHIP} b")).to_have_text("0.5")
    assert [(unit["preprocessor"], unit["threshold_a"], unit["weight"]) for unit in form(page)] == [
        ("threshold", None, 0.5)
    ]
    page.click("#steering .units button:nth-child(2)")
    page.click("#steering [data-row=own] button:has-text('Source picture')")
    page.click("#steering .on")
    expect(page.locator(PLAN)).to_have_text(
        "ControlNet 2: Control picture: missing; use a picture, or begin from a source picture."
    )
    page.click("#mode-image-button")
    page.set_input_files("#stage .easel [name=pictures]", drawing)
    expect(page.locator(PLAN)).to_contain_text("Image to image")
    assert [unit["image"] is None for unit in form(page)] == [False, True]
    page.click("#mode-control-button")
    page.wait_for_selector(f"{MAP}:not([hidden])")
    assert (seen_map(page)[..., 0] > 0).any()
