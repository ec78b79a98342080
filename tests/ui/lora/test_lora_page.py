"""The LoRA tab in a real browser: switching changes the picture, the chip shows it, off again is the base's bits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DConditionModel
from gradio_client import Client
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests import loras, tiny
from tests.browser import started, visit
from tests.ui.create.test_browser import wait_for_status
from tests.ui.easel.test_easel import result

SMALL: dict[str, Any] = {"prompt": "a red circle", "seed": 7, "steps": 2, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket model with two LoRAs for it, one for another model, and a broken file."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    os.symlink(tiny.POCKET, folder / "checkpoints" / "pocket")
    layers = loras.weights(UNet2DConditionModel.from_pretrained(tiny.POCKET / "unet"), ("attn1.to_q", "attn2.to_k"))
    for seed, name in enumerate(("ink", "style/wash")):
        tags = {"10_it": {f"{name[-3:]} style": 9, "<b>paper</b>": 4}}
        state = loras.lora({"lora_unet": layers}, seed)
        loras.write(folder / "loras" / f"{name}.safetensors", state, ss_tag_frequency=tags)
    wide = loras.lora({"lora_unet": {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (320, 768)}})
    loras.write(folder / "loras" / "other.safetensors", wide)
    (folder / "loras" / "broken.safetensors").write_bytes(b"PK")
    Image.new("RGB", (90, 60), "teal").save(folder / "loras" / "ink.png")
    return folder


@pytest.fixture(scope="module")
def url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("app"), "--models", str(models)) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with visit(browser, url) as page:
        page.fill("#field-prompt textarea", "a red circle on a blue background")
        page.fill("#field-seed textarea", "7")
        page.fill("#field-steps input[type=number]", "3")
        page.keyboard.press("Tab")
        page.click("#mode-lora-button")
        yield page


def draw(page: Page) -> np.ndarray:
    page.click("#go")
    wait_for_status(page, r"(Waiting|Loading|Starting|Step)")
    wait_for_status(page, "Seed 7$")
    return result(page)


def test_one_of_few_steps_brings_its_settings_and_takes_them_along_again(page: Page, models: Path) -> None:
    guidance, sampler = page.locator("#field-guidance_scale input[type=number]"), page.locator("#field-sampler input")
    before = guidance.input_value(), sampler.input_value()
    os.symlink(models / "loras" / "ink.safetensors", models / "loras" / "ink_lightning_4step.safetensors")
    try:
        page.click("#rescan")
        box = page.get_by_role("checkbox", name="ink_lightning_4step")
        box.check()
        expect(guidance).to_have_value("1")
        expect(sampler).to_have_value("Euler SGM Uniform")
        expect(page.locator("#field-steps input[type=number]")).to_have_value("3")  # set by hand
        box.uncheck()
        expect(guidance).to_have_value(before[0])
        expect(sampler).to_have_value(before[1])
    finally:
        (models / "loras" / "ink_lightning_4step.safetensors").unlink()
        page.click("#rescan")


def test_a_switched_lora_changes_the_picture_and_off_again_gives_the_bases_bits(page: Page) -> None:
    base = draw(page)
    page.get_by_role("checkbox", name="ink").check()
    page.get_by_label("Weight of ink, as a number", exact=True).fill("1.5")
    page.keyboard.press("Tab")
    chip = page.locator("#additions li")
    expect(chip).to_have_text(re.compile(r"LoRA\s*ink\s*1\.5"))
    expect(page.locator("#mode-lora-button")).to_have_attribute("data-on", "")
    assert not np.array_equal(draw(page), base)
    page.get_by_role("button", name="Use settings").click()
    expect(chip).to_have_text(re.compile(r"LoRA\s*ink\s*1\.5"))
    page.get_by_role("button", name="Switch off ink").click()
    expect(chip).to_have_count(0)
    expect(page.get_by_role("checkbox", name="ink")).not_to_be_checked()
    assert np.array_equal(draw(page), base)


def test_a_weight_counts_as_soon_as_it_is_typed_and_stays_when_the_page_is_loaded_anew(page: Page) -> None:
    page.get_by_role("checkbox", name="ink").check()
    page.get_by_label("Weight of ink, as a number", exact=True).fill("0.4")
    page.keyboard.press("Control+Enter")
    wait_for_status(page, "Seed 7$")
    page.get_by_role("button", name="Use settings").click()
    chip = page.locator("#additions li")
    expect(chip).to_have_text(re.compile(r"LoRA\s*ink\s*0\.4"))
    page.reload(wait_until="domcontentloaded")
    expect(chip).to_have_text(re.compile(r"LoRA\s*ink\s*0\.4"), timeout=30_000)
    page.get_by_role("button", name="Switch off ink").click()


def test_weights_are_set_by_keys_alone(page: Page) -> None:
    box, weight = page.get_by_role("checkbox", name="ink"), page.get_by_label("Weight of ink", exact=True)
    box.press("Space")
    expect(weight).to_be_visible()
    expect(box).to_be_focused()
    weight.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(weight).to_have_value("1.1")
    expect(page.locator("#additions li")).to_have_text(re.compile(r"LoRA\s*ink\s*1\.1"))
    box.press("Space")


def test_the_list_is_searched_filtered_gives_words_and_takes_files(page: Page, models: Path, tmp_path: Path) -> None:
    names = page.locator("#lora li b")
    expect(names).to_have_text(["ink", "style/wash", "broken"])
    expect(page.locator("#lora li", has_text="broken")).to_contain_text("It is a pickle")
    page.get_by_label("Fits the model").uncheck()
    expect(names).to_have_text(["ink", "style/wash", "broken", "other"])
    expect(page.get_by_role("checkbox", name="other")).to_be_disabled()
    page.get_by_label("Search LoRAs").fill("ash st")
    expect(names).to_have_text(["style/wash"])
    page.get_by_role("button", name="<b>paper</b>").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("a red circle on a blue background, <b>paper</b>")
    page.get_by_label("Search LoRAs").fill("")
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x02")
    page.set_input_files("#lora [type=file]", tmp_path / "bad.safetensors")
    expect(page.locator("#lora .told")).to_contain_text("LoRA: the file cannot be used: it is a pickle")
    good = (models / "loras" / "ink.safetensors").read_bytes()
    (tmp_path / "ink.safetensors").write_bytes(good)
    page.set_input_files("#lora [type=file]", tmp_path / "ink.safetensors")
    expect(page.get_by_role("checkbox", name="ink (2)")).to_be_enabled()
    added = models / "loras" / "ink (2).safetensors"
    assert added.read_bytes() == good and not (models / "loras" / "bad.safetensors").exists()
    added.unlink()


def test_the_endpoint_takes_loras(url: str) -> None:
    client = Client(url, verbose=False, analytics_enabled=False)
    ask = {**SMALL, "loras": [{"name": "ink", "weight": 0.8}, {"name": "wash", "weight": -0.5}]}
    files, request = client.predict(**ask, api_name="/generate")
    assert [(lora["name"], lora["weight"]) for lora in request["loras"]] == [("ink", 0.8), ("style/wash", -0.5)]
    plain, _ = client.predict(**SMALL, api_name="/generate")
    with Image.open(files[0]) as changed, Image.open(plain[0]) as base:
        assert changed.tobytes() != base.tobytes()
        assert "Lora hashes" in changed.info["parameters"]
