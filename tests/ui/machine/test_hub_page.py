"""Get models in a real browser, with a hub of our own; and that strangers see nothing of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from playwright.sync_api import Browser, expect

from core.hub import Hub
from core.settings import Settings
from tests import loras, tiny
from tests.browser import open_page, started
from tests.test_hub import FakeHub, serving
from ui.machine.hub import Counter


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with a LoRA that it holds back by half until its gate is opened."""
    layers = loras.weights(UNet2DConditionModel.from_pretrained(tiny.POCKET / "unet"), ("attn1.to_q", "attn2.to_k"))
    loras.write(tmp_path / "served.safetensors", loras.lora({"lora_unet": layers}))
    with serving() as server:
        server.files = {"pixel-art-xl.safetensors": (tmp_path / "served.safetensors").read_bytes()}
        server.gate = threading.Event()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
        server.gate.set()


def test_a_model_is_downloaded_and_offered_at_once(browser: Browser, server: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    os.symlink(tiny.POCKET, tmp_path / "models" / "checkpoints" / "pocket")
    with started(tmp_path, "--models", str(tmp_path / "models")) as url:
        page = browser.new_page()
        open_page(page, url)
        page.click("#machine .chip")
        gone, wanted = (page.locator(f"#hub li[data-name='{name}']") for name in ("sd-1.5", "pixel-art-xl"))
        expect(wanted).to_contain_text("SDXL · LoRA · about 0.17 GB · CreativeML OpenRAIL-M")
        gone.get_by_role("button").click()
        expect(gone.locator(".told")).to_contain_text("not what the catalogue names")
        wanted.get_by_role("button").click()
        expect(wanted.get_by_role("button")).to_have_text("Cancel")
        expect(wanted.get_by_role("progressbar")).to_be_visible()
        expect(gone.get_by_role("button")).to_be_disabled()
        assert server.gate
        server.gate.set()
        expect(wanted.get_by_role("button")).to_have_text("Here")
        expect(page.locator("#lora li b")).to_have_text("pixel-art-xl")
        page.close()


def test_strangers_see_nothing_of_it_and_offline_is_said() -> None:
    lan = Settings(host="0.0.0.0", auth="ann:secret")
    assert Counter(Hub(lan), lan.offline).look() == {}
    assert Counter(Hub(Settings(offline=True)), offline=True).look()["offline"]
