"""The page as a person meets it: the real app, the pocket model, a real browser."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser import open_page

HOSTILE = "<img src=x onerror=window.hit=1> ${window.hit=2} {{value}} `${window.hit=3}` <script>window.hit=4</script>"
RED_ON_BLUE = "a red circle on a blue background"

WATCH = """() => {
  window.previews = [];
  window.shift = 0;
  const picture = document.querySelector("#stage .picture");
  new MutationObserver(() => picture.src.startsWith("data:image/jpeg") && previews.push(performance.now()))
    .observe(picture, { attributes: true, attributeFilter: ["src"] });
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => { shift += entry.value; }))
    .observe({ type: "layout-shift" });
}"""


def status(page: Page) -> str:
    return page.locator("#stage .words b").inner_text()


def wait_for_status(page: Page, pattern: str, timeout: float = 120) -> re.Match[str]:
    """Wait until the line under the canvas begins as `pattern` says."""
    expect(page.locator("#stage .words b")).to_have_text(re.compile(pattern), timeout=timeout * 1000)
    found = re.match(pattern, status(page))
    return found or wait_for_status(page, pattern, timeout)  # it moved on in between


def generate(page: Page, prompt: str = RED_ON_BLUE, steps: int = 20, seed: str = "7") -> None:
    page.fill("#field-prompt textarea", prompt)
    page.fill("#field-seed textarea", seed)
    page.fill("#field-steps input[type=number]", str(steps))
    page.keyboard.press("Tab")
    page.click("#go")


def stop_all(page: Page) -> None:
    stopped = "() => { document.querySelector('#stop').click(); return !document.querySelector('html.busy'); }"
    page.wait_for_function(stopped, polling=200)


def test_a_prompt_becomes_a_picture_that_develops_before_ones_eyes(page: Page) -> None:
    page.evaluate(WATCH)
    generate(page, steps=30)
    wait_for_status(page, "Seed 7$")
    times, shift = page.evaluate("[previews, shift]")
    assert len(times) >= 10
    steps_a_second, previews_a_second = (
        29_000 / (times[-1] - times[0]),
        1000 * (len(times) - 1) / (times[-1] - times[0]),
    )
    assert previews_a_second >= min(5, 0.8 * steps_a_second)
    assert shift <= 0.01
    url = page.locator("#stage .picture").get_attribute("src") or ""
    answer = page.request.get(f"{page.url}{url}")
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.body()))
    assert picture.info["parameters"].startswith(RED_ON_BLUE)
    red, _, blue = picture.getpixel((128, 128))  # type: ignore[misc]
    assert red > blue + 60
    red, _, blue = picture.getpixel((8, 8))  # type: ignore[misc]
    assert blue > red + 60
    expect(page.locator("#stage .film li[data-status=done] [aria-current]")).to_have_count(1)


def test_stop_ends_a_run_before_its_end(page: Page) -> None:
    generate(page, steps=150)
    wait_for_status(page, r"Step \d+ of 150")
    page.click("#stop")
    wait_for_status(page, "Stopped", timeout=10)
    assert int(re.findall(r"\d+", page.locator("#stage .words span").inner_text())[0]) < 150
    expect(page.locator("#go")).to_have_accessible_name(re.compile("^Generate"))
    expect(page.locator("#stage .picture.preview")).to_be_visible()  # as far as it came


def test_a_list_closes_when_tab_leaves_it(page: Page) -> None:
    page.locator("#field-sampler input").focus()
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("option")).to_have_count(0)
    expect(page.locator("#field-seed textarea")).to_be_focused()


def test_a_problem_goes_once_its_prompt_is_mended(page: Page) -> None:
    page.fill("#field-prompt textarea", "a castle <lora:foo:1>")
    expect(page.locator("#dock .plan.problem")).to_contain_text("LoRA: “foo” is not allowed")
    page.fill("#field-prompt textarea", "a castle")
    expect(page.locator("#dock .plan")).to_contain_text("Text to image")


def test_settings_used_from_the_history_can_be_taken_back(page: Page) -> None:
    generate(page, "a green tree", steps=2, seed="5")
    wait_for_status(page, "Seed 5$")
    page.fill("#field-prompt textarea", "not to be lost")
    page.get_by_role("tab", name="History").click()
    page.locator("#gallery .grid > *").first.click()
    page.locator("#gallery").get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("a green tree")
    page.locator("#stage").get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#field-prompt textarea")).to_have_value("not to be lost")


def test_a_refresh_and_a_second_page_reattach_to_the_running_job(page: Page, app_url: str) -> None:
    generate(page, steps=150)
    before = int(wait_for_status(page, r"Step (\d+) of 150")[1])
    job = page.locator("#stage .film li[data-status=running]").get_attribute("data-key")
    page.fill("#field-prompt textarea", "what I write next")
    page.click("#field-sampler input")
    page.get_by_role("option", name="Heun", exact=True).click()
    page.reload(wait_until="domcontentloaded")
    after = int(wait_for_status(page, r"Step (\d+) of 150")[1])
    assert after >= before
    assert page.locator("#stage .film li[data-status=running]").get_attribute("data-key") == job
    expect(page.locator("#field-prompt textarea")).to_have_value("what I write next")
    expect(page.locator("#field-steps input[type=number]")).to_have_value("150")
    expect(page.locator("#field-sampler input")).to_have_value("Heun")
    second = page.context.new_page()
    open_page(second, app_url)
    assert second.locator("#stage .film li[data-status=running]").get_attribute("data-key") == job
    second.close()
    stop_all(page)


def test_ctrl_enter_generates_and_escape_stops(page: Page) -> None:
    page.fill("#field-steps input[type=number]", "150")
    page.fill("#field-prompt textarea", RED_ON_BLUE)
    page.keyboard.press("Control+Enter")
    wait_for_status(page, r"Step \d+ of 150")
    page.keyboard.press("Escape")
    wait_for_status(page, "Stopped", timeout=10)


def test_ctrl_enter_makes_one_job_and_only_where_generate_is_seen(page: Page) -> None:
    jobs = page.locator("#stage .film li").count()
    page.get_by_role("tab", name="History").click()
    page.keyboard.press("Control+Enter")
    page.get_by_role("tab", name="Create").click()
    page.fill("#field-steps input[type=number]", "2")
    page.keyboard.down("Control")
    for _ in range(3):  # held down: the second and third are repeats
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    page.keyboard.up("Control")
    wait_for_status(page, "^Seed ")
    expect(page.locator("#stage .film li")).to_have_count(jobs + 1)


def test_escape_clears_a_search_and_an_input_method_before_it_stops_a_run(page: Page) -> None:
    page.fill("#field-steps input[type=number]", "150")
    page.keyboard.press("Control+Enter")
    wait_for_status(page, r"Step \d+ of 150")
    page.locator("#field-prompt textarea").dispatch_event("keydown", {"key": "Escape", "isComposing": True})
    page.get_by_role("tab", name="LoRA").click()
    page.get_by_label("Search LoRAs").press("Escape")
    page.get_by_role("tab", name="Text to image").click()
    at = int(wait_for_status(page, r"Step (\d+) of 150")[1])
    wait_for_status(page, rf"Step (?!{at} )\d+ of 150")
    stop_all(page)


def test_ctrl_and_arrows_weigh_what_the_cursor_is_in(page: Page) -> None:
    field = page.locator("#field-prompt textarea")
    field.fill("a red circle")
    field.evaluate("(field) => field.setSelectionRange(4, 4)")
    for keys, text in (
        ("Control+ArrowUp", "a (red:1.1) circle"),
        ("Control+ArrowUp", "a (red:1.2) circle"),
        ("Control+ArrowDown", "a (red:1.1) circle"),
        ("Control+ArrowDown", "a red circle"),
        ("Control+ArrowDown", "a (red:0.9) circle"),
        ("Control+z", "a red circle"),
    ):
        field.press(keys)
        expect(field).to_have_value(text)
    field.evaluate("(field) => field.setSelectionRange(2, 12)")
    field.press("Control+ArrowUp")
    expect(field).to_have_value("a (red circle:1.1)")


def test_several_jobs_wait_in_the_film_and_can_be_cancelled(page: Page) -> None:
    generate(page, steps=150)
    expect(page.locator("#go")).to_have_accessible_name(re.compile("^Queue another"))
    page.click("#go")
    page.click("#go")
    waiting = page.locator("#stage .film li[data-status=queued]")
    expect(waiting).to_have_text(["2nd", "next"])
    waiting.last.hover()
    waiting.last.get_by_role("button", name="Cancel").click()
    expect(waiting).to_have_text(["next"])
    stop_all(page)


def test_all_are_stopped_at_once_and_it_is_said_at_once(page: Page) -> None:
    generate(page, steps=150)
    page.click("#go")
    page.click("#go")
    expect(page.locator("#stage .waiting")).to_contain_text("2 waiting after this")
    at_once = (
        "() => { document.querySelector('.all').click(); return document.querySelector('.words b').textContent; }"
    )
    assert page.evaluate(at_once) == "Stopping"
    expect(page.locator("html.busy")).to_have_count(0)
    expect(page.locator("#stage .film li:is([data-status=queued], [data-status=running])")).to_have_count(0)


def test_every_frame_of_the_film_shows_its_own_picture(page: Page, app_url: str) -> None:
    """While pages are open, a batch moves down the film and jobs of one picture come before it."""
    page.fill("#field-batch_size input[type=number]", "4")
    generate(page, "a blue tree", steps=1, seed="100")
    wait_for_status(page, "Seed 100$")
    page.fill("#field-batch_size input[type=number]", "1")
    for seed in ("13", "14"):
        generate(page, "a red fish", steps=1, seed=seed)
        wait_for_status(page, f"Seed {seed}$")
    drawn = "nodes => nodes.map(node => node.getAttribute('src'))"
    live = page.locator("#stage .film li[data-status=done] img").evaluate_all(drawn)
    page.locator("#stage .film li[data-status=done] button").nth(1).click()
    assert status(page) == "Seed 13"
    open_page(page, app_url)
    expect(page.locator("#stage .film li[data-status=done]")).to_have_count(len(live))
    assert page.locator("#stage .film li[data-status=done] img").evaluate_all(drawn) == live


def test_a_picture_is_looked_at_large_pixel_for_pixel_and_in_its_order(page: Page) -> None:
    page.fill("#field-batch_size input[type=number]", "2")
    generate(page, steps=2, seed="31")
    wait_for_status(page, r"Seed 31")
    shown, large = page.locator("#stage .picture"), page.get_by_role("dialog", name="The picture, large")
    picture = large.locator("img")
    shown.click()
    expect(picture).to_have_attribute("src", shown.get_attribute("src") or "")
    expect(large.get_by_label("Newer picture")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    wait_for_status(page, r"Seed 32")
    expect(picture).to_have_attribute("src", shown.get_attribute("src") or "")
    fitted = picture.bounding_box()
    picture.click(position={"x": 10, "y": 10})
    assert picture.bounding_box() != fitted
    assert picture.evaluate("one => [one.clientWidth, one.clientHeight]") == [256, 256]
    picture.click(position={"x": 10, "y": 10})
    assert picture.bounding_box() == fitted
    large.get_by_label("Newer picture").click()
    wait_for_status(page, r"Seed 31")
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    assert page.evaluate("document.activeElement.className") == "picture"
    page.keyboard.press("Enter")
    expect(large).to_be_visible()
    large.get_by_label("Close").click()
    expect(large).to_be_hidden()
    page.fill("#field-batch_size input[type=number]", "1")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("#field-width input", "513", "Width: 513 is not allowed; use a multiple of 8 from 64 to 4096."),
        ("#field-seed textarea", "red", "Seed: “red” is not allowed; use a whole number"),
        ("#field-seed textarea", "18446744073709551616", "Seed: 18446744073709551616 is not allowed"),
    ],
)
def test_a_bad_value_is_refused_by_its_label_and_nothing_is_lost(
    page: Page, field: str, value: str, words: str
) -> None:
    page.fill("#field-prompt textarea", "kept")
    frames = page.locator("#stage .film li").count()
    page.fill(field, value)
    page.keyboard.press("Tab")
    page.click("#go")
    expect(page.get_by_test_id("toast-body")).to_have_count(1)
    expect(page.get_by_test_id("toast-text")).to_contain_text(words)
    expect(page.locator("#dock .plan")).to_contain_text(words)
    assert page.locator("#field-prompt textarea").input_value() == "kept"
    assert page.locator("#stage .film li").count() == frames


def test_text_from_people_is_never_markup(page: Page) -> None:
    generate(page, HOSTILE, steps=2)
    wait_for_status(page, "Seed 7$")
    assert page.locator("#stage .picture").get_attribute("alt") == HOSTILE
    page.locator("#stage").get_by_role("button", name="Use settings").click()
    page.reload(wait_until="domcontentloaded")
    expect(page.locator("#stage .film li[data-status=done] button").first).to_have_attribute("title", HOSTILE)
    assert page.evaluate("window.hit") is None


def test_settings_of_a_picture_come_back_and_a_new_seed_makes_another(page: Page) -> None:
    generate(page, "a green tree", steps=3, seed="18446744073709551615")
    wait_for_status(page, "Seed 18446744073709551615$")
    page.fill("#field-prompt textarea", "")
    page.fill("#field-seed textarea", "")
    page.locator("#stage").get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("a green tree")
    expect(page.locator("#field-seed textarea")).to_have_value("18446744073709551615")
    page.locator("#stage").get_by_role("button", name="Undo", exact=True).click()
    expect(page.locator("#field-prompt textarea")).to_have_value("")
    page.locator("#stage").get_by_role("button", name="Use settings").click()
    expect(page.locator("#field-prompt textarea")).to_have_value("a green tree")
    page.click("#dice")
    expect(page.locator("#field-seed textarea")).to_have_value("")
    page.click("#reuse")
    expect(page.locator("#field-seed textarea")).to_have_value("18446744073709551615")
    page.locator("#stage").get_by_role("button", name="New seed").click()
    first = wait_for_status(page, r"Seed (?!18446744073709551615$)(\d+)$")[1]
    asked: list[str] = []  # each answer used to set off the next question, without end
    page.on("request", lambda request: asked.append(request.url) if "/gradio_api/run/" in request.url else None)
    page.locator("#stage").get_by_role("button", name="New seed").click()
    wait_for_status(page, rf"Seed (?!{first}$)(\d+)$")
    assert not asked


def test_the_prompts_length_is_shown_with_the_models_border(page: Page) -> None:
    page.fill("#field-prompt textarea", "a red circle on a blue background")
    expect(page.locator("#tokens")).to_have_text("7 of 30 tokens")
    page.fill("#field-prompt textarea", "red " * 40)
    expect(page.locator("#tokens")).to_have_text("40 of 60 tokens · 2 chunks")


def test_size_presets_swap_and_the_line_over_generate(page: Page) -> None:
    plan = page.locator("#dock .plan")
    expect(plan).to_contain_text("Text to image")
    page.get_by_role("radio", name="16:9").click()
    expect(plan).to_contain_text("336 × 192")
    page.click("#swap")
    expect(plan).to_contain_text("192 × 336")
    expect(page.get_by_role("radio", name="9:16")).to_be_checked()
    page.get_by_role("button", name=RED_ON_BLUE).or_(page.locator("#stage .examples button").first).first.click()
    expect(page.locator("#field-prompt textarea")).not_to_have_value("")


def test_every_tab_is_reached_however_long_the_column_is(page: Page) -> None:
    page.locator("#field-hires input").check()
    page.locator("#settings").evaluate("node => node.scrollTo(0, 1000)")
    for tab in page.locator("#modes > .tab-wrapper [role=tab]").all():
        box = tab.bounding_box()
        assert box and box["y"] == 48 and box["x"] + box["width"] <= 408
        tab.click()


def test_an_example_can_be_taken_back(page: Page, app_url: str) -> None:
    page.context.clear_cookies()
    open_page(page, app_url)
    page.fill("#field-prompt textarea", "my own words")
    page.locator("#stage .examples button").first.click()
    expect(page.locator("#field-prompt textarea")).not_to_have_value("my own words")
    page.keyboard.press("Control+z")
    expect(page.locator("#field-prompt textarea")).to_have_value("my own words")


def test_the_theme_is_switched_and_kept(page: Page) -> None:
    background = "getComputedStyle(document.querySelector('#stage .canvas')).backgroundColor"
    assert page.evaluate(background) == "rgb(17, 17, 17)"
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(background) == "rgb(241, 241, 240)"
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector("#go")
    assert page.evaluate(background) == "rgb(241, 241, 240)"


def test_the_layout_on_a_desktop(page: Page) -> None:
    box = page.locator("#settings").bounding_box()
    assert box and box["width"] == 408
    for field in ("steps", "guidance_scale", "sampler", "batch_size", "seed"):
        row = page.locator(f"#field-{field}").bounding_box()
        assert row and row["height"] == 32, field
    tabs = page.locator("#modes > .tab-wrapper [role=tab]")
    assert tabs.count() == 5
    boxes = [tab.bounding_box() for tab in tabs.all()]
    assert all(tab and tab["y"] == 48 and tab["x"] + tab["width"] <= 408 for tab in boxes)
    sheet = page.locator("#stage .sheet").bounding_box()
    assert sheet and sheet["width"] == sheet["height"] == 652
    assert page.evaluate(
        "document.documentElement.scrollWidth <= innerWidth && document.body.scrollHeight <= innerHeight"
    )


def test_the_layout_on_a_phone(browser: Browser, app_url: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    open_page(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    order = [
        "#stage .sheet",
        "#stage .words",
        "#stage .film",
        "#field-prompt",
        "#modes > .tab-wrapper",
        "#field-steps",
    ]
    tops = [box["y"] for box in (page.locator(part).bounding_box() for part in order) if box]
    assert len(tops) == len(order) and tops == sorted(tops)
    expect(page.locator("#go")).to_be_in_viewport()
    page.locator("#field-steps").scroll_into_view_if_needed()
    assert page.evaluate("scrollY")
    generate(page, steps=150)
    expect(page.locator("#dock .live")).to_have_text(re.compile(r"^Step \d+ of 150 · "))
    page.wait_for_function("scrollY === 0")
    page.click("#stop")
    expect(page.locator("#dock .live")).to_be_hidden()
    page.get_by_role("tab", name="PNG info").click()
    expect(page.locator("#info .drop")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollHeight") == 844
    assert page.evaluate("getComputedStyle(document.querySelector('#field-prompt textarea')).fontSize") == "16px"
    context.close()


def test_a_fields_help_is_told_by_touch(browser: Browser, app_url: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    open_page(page, app_url)
    page.locator("#field-guidance_scale").get_by_text("Guidance", exact=True).tap()
    told = page.get_by_role("note")
    expect(told).to_have_text("how strictly to follow the prompt; 1 or less switches guidance off", ignore_case=True)
    page.locator("#stage .sheet").tap(position={"x": 5, "y": 5})
    expect(told).to_be_hidden()
    context.close()


def test_everything_has_a_name_and_the_keyboard_reaches_it(page: Page) -> None:
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, a[href], input, textarea, [role=tab]")]
      .filter((node) => node.checkVisibility())
      .filter((node) => !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
      .map((node) => node.outerHTML)""")
    assert not nameless
    page.locator("#field-prompt textarea").focus()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert {"swap", "dice", "reuse", "go"} <= set(reached)
    page.locator("#mode-text-button").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_hidden()


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_serious(page: Page, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    for place in ("Create", "History", "PNG info", "This machine"):
        page.get_by_role("tab", name=place).click()
        expect(page.get_by_role("tab", name=place)).to_have_attribute("aria-selected", "true")
        found = Axe().run(page).response["violations"]
        serious = [violation for violation in found if violation["impact"] in ("serious", "critical")]
        assert not [(place, one["id"], [node["target"] for node in one["nodes"]]) for one in serious]


def test_generate_works_beside_sixty_open_pages(page: Page, app_url: str) -> None:
    with open_relays(app_url, 60):
        generate(page, steps=10)
        wait_for_status(page, "Seed 7$")


@contextmanager
def open_relays(url: str, count: int) -> Iterator[None]:
    """`count` pages that hold their relay open and read it, as browsers do."""
    config = httpx.get(f"{url}/config").json()
    stage = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "stage")
    relay = next(d["id"] for d in config["dependencies"] if stage in d["outputs"] and d["types"]["generator"])
    opened, stop = threading.Barrier(2, timeout=150), threading.Event()

    async def hold(client: httpx.AsyncClient, name: str, first: asyncio.Event) -> None:
        body = {"data": [], "fn_index": relay, "session_hash": name}
        (await client.post("/gradio_api/queue/join", json=body)).raise_for_status()
        async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": name}) as stream:
            async for line in stream.aiter_lines():
                if "process_generating" in line:
                    first.set()

    async def hold_all() -> None:
        limits = httpx.Limits(max_connections=2 * count)
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:
            firsts = [asyncio.Event() for _ in range(count)]
            tasks = [asyncio.create_task(hold(client, f"page{k}", first)) for k, first in enumerate(firsts)]
            await asyncio.gather(*(first.wait() for first in firsts))
            await asyncio.to_thread(opened.wait)
            await asyncio.to_thread(stop.wait)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(hold_all()))
    thread.start()
    try:
        opened.wait()
        yield
    finally:
        stop.set()
        thread.join(timeout=30)
