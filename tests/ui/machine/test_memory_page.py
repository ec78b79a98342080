"""What the dock foretells and what the page This machine tells, with a real engine and in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from core import Engine, GenerationRequest, Settings
from core.memory.machine import Machine
from core.memory.planning import plan
from core.sizes import GB
from tests.memory.test_memory import XL, gpu, request
from ui.machine.memory import Room


class Desk:
    """As much of a desk as the page needs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


def room(settings: Settings) -> Room:
    desk: Any = Desk(Engine(settings))
    return Room(desk)


def test_the_dock_says_how_much_and_what_is_done_about_it() -> None:
    def words(machine: Machine) -> str:
        return plan(machine, XL, request(1024)).foretold(machine)

    assert words(gpu(24)) == "Needs about 8 GB, 24 GB free"
    assert words(gpu(8)) == "Needs about 6.8 GB, 8 GB free: the VAE decodes in tiles"
    assert words(replace(gpu(6), held=GB // 10)).endswith("only while it works; about 40 % slower")


def test_what_is_loaded_is_told_and_unloaded_on_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = room(Settings(data=tmp_path))
    engine = here._engine
    fish = GenerationRequest(prompt="a fish", seed=1, steps=1, width=64, height=64)
    list(engine.generate(fish))
    told = here.look()
    assert dict(told["run"])["Measured peak"].endswith("with libraries that a first run loads")
    list(engine.generate(fish))
    assert "libraries" not in dict(here.look()["run"])["Measured peak"]
    assert "pocket/unet" in dict(told["loaded"])
    assert dict(told["run"])["Size"] == "64 × 64"
    assert {"Device", "Memory", "Disk", "Threads", "Numbers", "Attention"} <= dict(told["device"]).keys()
    assert here.unload()["loaded"] == []
    monkeypatch.setenv("SPACE_ID", "someone/darkroom")
    there = room(Settings(data=tmp_path))
    assert (there.look()["loaded"], there.look()["run"], there.look()["unload"]) == ([], [], False)
    with pytest.raises(Exception, match="only by who sits at this machine"):
        there.unload()


def test_the_chip_opens_the_page_and_the_button_unloads(page: Page) -> None:
    expect(page.locator("#dock .notes")).to_contain_text("Needs about")
    page.fill("#field-steps input[type=number]", "1")
    page.click("#go")
    expect(page.locator("#stage .words b")).to_contain_text("Seed", timeout=60_000)
    page.click("#machine .chip")
    expect(page.locator("#memory .device")).to_contain_text("CPU")
    expect(page.locator("#memory .loaded dt")).not_to_have_count(0)
    page.click("#memory button")
    expect(page.locator("#memory .loaded dt")).to_have_count(0)
    expect(page.locator("#memory .none")).to_be_visible()
